"""Bad inputs for `dermeval index`; see conftest.py."""

COMMAND = "dermeval index {emb}"
READS = ("emb",)
WRITES = True
DAMAGED = ("emb/embedding.json", "emb/features.npy", "emb/manifest.parquet")
ARRAYS = ("emb/features.npy",)


def test_bad_input_is_refused(attack, family):
    attack(family)
