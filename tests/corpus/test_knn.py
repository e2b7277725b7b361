"""Bad inputs for `dermeval knn`; see conftest.py."""

COMMAND = "dermeval knn {emb} --target condition --draws 40 --k 3"
READS = ("emb",)
WRITES = True
DAMAGED = ("emb/embedding.json", "emb/features.npy", "emb/manifest.parquet")
ARRAYS = ("emb/features.npy",)


def test_bad_input_is_refused(attack, family):
    attack(family)
