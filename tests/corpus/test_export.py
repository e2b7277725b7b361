"""Bad inputs for `dermssl export`; see conftest.py."""

COMMAND = "dermssl export {run}"
READS = ("run",)
WRITES = True
DAMAGED = ("run/encoder/config.json", "run/encoder/model.safetensors")


def test_bad_input_is_refused(attack, family):
    attack(family)
