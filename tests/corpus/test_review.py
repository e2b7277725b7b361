"""Bad inputs for `dermeval review`; see conftest.py."""

COMMAND = "dermeval review {leaks}"
READS = ("leaks",)


def test_bad_input_is_refused(attack, family):
    attack(family)
