"""Bad inputs for `dermssl prepare`; see conftest.py."""

COMMAND = "dermssl prepare --source passion --root {raw} --workers 1"
READS = ("raw",)
WRITES = True
DAMAGED = ("raw/label.csv",)


def test_bad_input_is_refused(attack, family):
    attack(family)
