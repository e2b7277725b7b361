"""Bad inputs for `dermssl describe`; see conftest.py."""

COMMAND = "dermssl describe {data}"
READS = ("data",)
WRITES = True
DAMAGED = ("data/dataset.json", "data/manifest.parquet")


def test_bad_input_is_refused(attack, family):
    attack(family)
