"""Bad inputs for `dermeval retrieval`; see conftest.py."""

COMMAND = "dermeval retrieval {emb} --relevance condition --draws 40"
READS = ("emb",)
DAMAGED = ("emb/embedding.json", "emb/features.npy")


def test_bad_input_is_refused(attack, family):
    attack(family)
