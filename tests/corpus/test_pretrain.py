"""Bad inputs for `dermssl pretrain`; see conftest.py."""

COMMAND = "dermssl pretrain --data {data} --model.backbone test_vit --training.epochs 1 --data.workers 0"
READS = ("data",)
WRITES = True


def test_bad_input_is_refused(attack, family):
    attack(family)
