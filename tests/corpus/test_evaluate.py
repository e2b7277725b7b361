"""Bad inputs for `dermeval evaluate`; see conftest.py."""

COMMAND = "dermeval evaluate {emb} --probe knn --draws 40"
READS = ("emb",)
WRITES = True
DAMAGED = ("emb/features.npy",)


def test_bad_input_is_refused(attack, family):
    attack(family)
