"""Bad inputs for `dermssl prepare`; see conftest.py."""

COMMAND = "dermssl prepare --source passion --root {raw} --workers 1"
READS = ("raw",)


def test_numbers_that_no_library_takes_are_refused(attack):
    attack.numbers_of_options()


def test_names_that_no_report_can_have_are_refused(attack):
    attack.names_of_reports()


def test_inputs_that_are_no_such_folder_are_refused(attack):
    attack.names_of_inputs()


def test_nothing_but_an_earlier_output_is_replaced(attack):
    attack.names_of_outputs()
