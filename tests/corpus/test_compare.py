"""Bad inputs for `dermeval compare`; see conftest.py."""

COMMAND = "dermeval compare {result} {other} --draws 10"
READS = ("result", "other")


def test_numbers_that_no_library_takes_are_refused(attack):
    attack.numbers_of_options()


def test_names_that_no_report_can_have_are_refused(attack):
    attack.names_of_reports()


def test_inputs_that_are_no_such_folder_are_refused(attack):
    attack.names_of_inputs()


def test_damaged_files_are_refused(attack):
    attack.damage("result/result.json", "result/predictions.parquet")


def test_nothing_but_an_earlier_output_is_replaced(attack):
    attack.names_of_outputs()


def test_values_of_another_type_are_refused(attack):
    attack.json_values("result/result.json")


def test_tables_with_other_columns_are_refused(attack):
    attack.table_columns("result/predictions.parquet")
