"""Bad inputs for `dermssl synth`; see conftest.py."""

COMMAND = "dermssl synth --patients 8 --image-size 32 --duplicates 0 --workers 1"
WRITES = True


def test_bad_input_is_refused(attack, family):
    attack(family)
