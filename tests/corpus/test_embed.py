"""Bad inputs for `dermeval embed`; see conftest.py."""

COMMAND = "dermeval embed --encoder {encoder} --data {data} --workers 0"
READS = ("encoder", "data")


def test_numbers_that_no_library_takes_are_refused(attack):
    attack.numbers_of_options()


def test_names_that_no_report_can_have_are_refused(attack):
    attack.names_of_reports()


def test_inputs_that_are_no_such_folder_are_refused(attack):
    attack.names_of_inputs()


def test_damaged_files_are_refused(attack):
    attack.damage("encoder/config.json", "encoder/model.safetensors", "data/dataset.json", "data/manifest.parquet")


def test_nothing_but_an_earlier_output_is_replaced(attack):
    attack.names_of_outputs()


def test_values_of_another_type_are_refused(attack):
    attack.json_values("encoder/config.json")
