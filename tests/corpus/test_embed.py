"""Bad inputs for `dermeval embed`; see conftest.py."""

COMMAND = "dermeval embed --encoder {encoder} --data {data} --workers 0 --batch 64"
READS = ("encoder", "data")
WRITES = True
DAMAGED = ("encoder/model.safetensors", "data/images-00000.arrow")


def test_bad_input_is_refused(attack, family):
    attack(family)
