"""Bad inputs for `dermssl licence`; see conftest.py."""

COMMAND = "dermssl licence {data}"
READS = ("data",)


def test_numbers_that_no_library_takes_are_refused(attack):
    attack.numbers_of_options()


def test_names_that_no_report_can_have_are_refused(attack):
    attack.names_of_reports()


def test_inputs_that_are_no_such_folder_are_refused(attack):
    attack.names_of_inputs()
