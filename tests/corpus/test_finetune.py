"""Bad inputs for `dermeval finetune`; see conftest.py."""

COMMAND = "dermeval finetune --encoder {encoder} --data {data} --target condition --epochs 1 --draws 40 --workers 1"
READS = ("encoder", "data")
WRITES = True
DAMAGED = ("encoder/config.json",)


def test_bad_input_is_refused(attack, family):
    attack(family)
