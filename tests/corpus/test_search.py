"""Bad inputs for `dermeval search`; see conftest.py."""

COMMAND = "dermeval search {index} {photo}"
READS = ("index",)


def test_numbers_that_no_library_takes_are_refused(attack):
    attack.numbers_of_options()


def test_names_that_no_report_can_have_are_refused(attack):
    attack.names_of_reports()


def test_inputs_that_are_no_such_folder_are_refused(attack):
    attack.names_of_inputs()


def test_a_damaged_index_is_named(attack):
    attack.damage("index/index.json", "index/manifest.parquet", "index/vectors.npy")


def test_an_index_with_foreign_json_is_refused(attack):
    attack.json_values("index/index.json")


def test_an_index_with_foreign_arrays_and_columns_is_refused(attack):
    attack.arrays("index/vectors.npy")
    attack.table_columns("index/manifest.parquet")
