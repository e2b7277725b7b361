"""Bad inputs for `dermeval linear`; see conftest.py."""

COMMAND = "dermeval linear {emb} --target condition --draws 40 --c-values 2"
READS = ("emb",)
WRITES = True
DAMAGED = ("emb/features.npy",)


def test_bad_input_is_refused(attack, family):
    attack(family)
