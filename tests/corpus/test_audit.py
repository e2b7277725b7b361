"""Bad inputs for `dermeval audit`; see conftest.py."""

COMMAND = "dermeval audit {data} --workers 1"
READS = ("data",)
WRITES = True


def test_bad_input_is_refused(attack, family):
    attack(family)
