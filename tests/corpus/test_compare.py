"""Bad inputs for `dermeval compare`; see conftest.py."""

COMMAND = "dermeval compare {result} {other} --draws 40"
READS = ("result", "other")
WRITES = True
DAMAGED = ("result/result.json", "result/predictions.parquet")


def test_bad_input_is_refused(attack, family):
    attack(family)
