"""Bad inputs for `dermeval import-embeddings`; see conftest.py."""

COMMAND = "dermeval import-embeddings {emb}/features.npy {emb}/manifest.parquet --data {data}"
READS = ("emb", "data")
WRITES = True
DAMAGED = ("emb/features.npy", "emb/manifest.parquet")


def test_bad_input_is_refused(attack, family):
    attack(family)
