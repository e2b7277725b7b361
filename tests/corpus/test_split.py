"""Bad inputs for `dermssl split`; see conftest.py."""

COMMAND = "dermssl split {data} --fractions 0.8 0.2"
READS = ("data",)


def test_numbers_that_no_library_takes_are_refused(attack):
    attack.numbers_of_options()


def test_names_that_no_report_can_have_are_refused(attack):
    attack.names_of_reports()


def test_inputs_that_are_no_such_folder_are_refused(attack):
    attack.names_of_inputs()


def test_damaged_files_are_refused(attack):
    attack.damage("data/dataset.json", "data/manifest.parquet")


def test_values_of_another_type_are_refused(attack):
    attack.json_values("data/dataset.json")


def test_tables_with_other_columns_are_refused(attack):
    attack.table_columns("data/manifest.parquet")
