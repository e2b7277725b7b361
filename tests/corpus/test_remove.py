"""Bad inputs for `dermeval index --remove`; see conftest.py. No folder holds the image that it names."""

COMMAND = "dermeval index --remove nobody --out {index} --also {data} --index-only"
READS = ("index", "data")
DAMAGED = ("index/index.json", "index/vectors.npy", "data/manifest.parquet")


def test_bad_input_is_refused(attack, family):
    attack(family)
