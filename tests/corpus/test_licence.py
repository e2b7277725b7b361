"""Bad inputs for `dermssl licence`; see conftest.py."""

COMMAND = "dermssl licence {data}"
READS = ("data",)
DAMAGED = ("data/dataset.json",)
JSON = ("data/dataset.json",)


def test_bad_input_is_refused(attack, family):
    attack(family)
