"""Bad inputs for `dermeval search`; see conftest.py."""

COMMAND = "dermeval search {index} {photo}"
READS = ("index",)
DAMAGED = ("index/index.json", "index/vectors.npy", "index/manifest.parquet")
ARRAYS = ("index/vectors.npy",)
JSON = ("index/index.json",)
TABLES = ("index/manifest.parquet",)


def test_bad_input_is_refused(attack, family):
    attack(family)
