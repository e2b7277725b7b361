"""Bad inputs for `dermeval leaks`; see conftest.py."""

COMMAND = "dermeval leaks {data} --planted 0 --workers 1"
READS = ("data",)
WRITES = True
DAMAGED = ("data/manifest.parquet",)


def test_bad_input_is_refused(attack, family):
    attack(family)
