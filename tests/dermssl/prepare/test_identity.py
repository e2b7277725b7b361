"""Groups are connected components over patient, case and lesion ids, and conflicting ids are told."""

import pandas as pd
import pytest

from dermssl.dataset.targets import Target
from dermssl.prepare.identity import identify, label_conflicts
from dermssl.prepare.source import Problem
from dermssl.prepare.sources import get_source


@pytest.fixture
def grouped():
    """``grouped(rows)`` of (patient, case, lesion) -> the group of each row, and the problems."""

    def run(rows, source="passion"):
        frame = pd.DataFrame(rows, columns=["patient_id", "case_id", "lesion_id"], dtype=object)
        frame["file"] = [f"{number}.jpg" for number in range(len(rows))]
        found, problems = identify(frame, "s", get_source(source))
        return found["group_id"].tolist(), [(problem.file, problem.problem) for problem in problems]

    return run


def test_a_lesion_whose_patient_is_blank_on_one_image_stays_whole(grouped):
    groups, problems = grouped([("P1", None, "L1"), (None, None, "L1"), ("P2", None, "L2"), (None, None, None)])
    assert groups == ["s/P1", "s/P1", "s/P2", "s/3"] and not problems


def test_rows_are_joined_by_way_of_others(grouped):
    groups, _ = grouped([("P1", None, "L1"), (None, "C1", "L1"), (None, "C1", "L9"), (None, None, "L9")])
    assert groups == ["s/P1"] * 4


def test_a_group_is_named_by_its_patient_else_case_else_lesion_else_image(grouped):
    assert grouped([(None, "C2", "L2"), (None, None, "L3"), (None, None, None)])[0] == ["s/C2", "s/L3", "s/2"]


def test_a_lesion_with_the_name_of_a_patient_is_another_group(grouped):
    assert grouped([("7a", None, None), (None, None, "7a")])[0] == ["s/7a", "s/7a (lesion)"]


def test_one_id_in_several_spellings_is_one_group_and_is_told(grouped):
    groups, problems = grouped([(name, None, None) for name in ("p1", "P1", "É1", "E\u03011")])
    assert len(set(groups)) == 2 and groups[0] == groups[1] and groups[2] == groups[3]
    assert problems[0] == ("patient s/P1", "one patient id in several spellings: s/P1, s/p1") and len(problems) == 2


def test_no_case_has_images_of_two_groups_though_their_ids_are_the_same():
    ids = {"lesion_id": ["1", None, "1", None], "case_id": [None, None, None, "2"]}
    frame = pd.DataFrame({"file": ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]} | ids, dtype=object)
    found = identify(frame, "s", get_source("ham10000"))[0]
    assert found["case_id"].tolist() == ["s/1", "s/1 (image)", "s/1", "s/2"]
    assert (found.groupby("case_id")["group_id"].nunique() == 1).all()


def test_a_lesion_of_two_patients_keeps_them_together_and_is_told(grouped):
    groups, problems = grouped([("P1", None, "LX"), ("P2", None, "LX"), ("P2", None, "LY")])
    assert groups == ["s/P1"] * 3
    assert problems == [("lesion s/LX", "one lesion has several patients: s/P1, s/P2")]


def test_lesion_numbers_that_repeat_from_patient_to_patient_join_nobody(grouped):
    groups, problems = grouped([("P1", None, "1"), ("P2", None, "1"), ("P2", None, "2")])
    assert groups == ["s/P1", "s/P2", "s/P2"]
    assert problems == [("lesion_id", "lesion numbers repeat from patient to patient (1)")]
    blank = (None, None, "1")
    assert grouped([("P1", None, "1"), ("P2", None, "1"), blank, blank])[0] == ["s/P1", "s/P2", "s/2", "s/3"]


def test_every_image_has_its_own_id_however_the_files_are_called():
    frame = pd.DataFrame({"file": ["a.jpg", "a.png", "a.jpg.png", "b/a.jpg"]})
    ids = identify(frame, "mine", get_source("folder"))[0]["image_id"].tolist()
    assert ids == ["mine/a.jpg", "mine/a.png", "mine/a.jpg.png", "mine/b/a"]


@pytest.mark.parametrize("twin", ["basal  cell", "basal\N{NO-BREAK SPACE}cell", "basalcell"])
def test_classes_that_differ_only_in_spaces_are_told(twin):
    frame = pd.DataFrame({"case_id": ["a", "b"], "dx": ["basal cell", twin]})
    (problem,) = label_conflicts(frame, {"dx": Target("dx", ("basal cell", twin))})
    assert problem.problem.startswith("classes differ only in spaces") and problem.action == "kept apart"


def test_classes_that_differ_only_in_capitals_are_told():
    frame = pd.DataFrame({"case_id": ["a", "b", "c"], "dx": ["Nevus", "nevus", "BCC"]})
    (problem,) = label_conflicts(frame, {"dx": Target("dx", ("BCC", "Nevus", "nevus"))})
    assert problem == Problem("column dx", "classes differ only in capitals: 'Nevus', 'nevus'", "kept apart")
