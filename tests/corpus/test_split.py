"""Bad inputs for `dermssl split`; see conftest.py."""

COMMAND = "dermssl split {data} --fractions 0.8 0.2 --replace-official"
READS = ("data",)
DAMAGED = ("data/dataset.json", "data/manifest.parquet")
JSON = ("data/dataset.json",)
TABLES = ("data/manifest.parquet",)


def test_bad_input_is_refused(attack, family):
    attack(family)
