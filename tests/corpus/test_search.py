"""Bad inputs for `dermeval search`; see conftest.py."""

COMMAND = "dermeval search {index} {photo}"
READS = ("index",)


def test_numbers_that_no_library_takes_are_refused(attack):
    attack.numbers_of_options()


def test_names_that_no_report_can_have_are_refused(attack):
    attack.names_of_reports()


def test_inputs_that_are_no_such_folder_are_refused(attack):
    attack.names_of_inputs()


def test_damaged_files_are_refused(attack):
    attack.damage("index/index.json", "index/vectors.npy", "index/manifest.parquet")


def test_values_of_another_type_are_refused(attack):
    attack.json_values("index/index.json")


def test_tables_with_other_columns_are_refused(attack):
    attack.table_columns("index/manifest.parquet")


def test_arrays_that_are_no_features_are_refused(attack):
    attack.arrays("index/vectors.npy")
