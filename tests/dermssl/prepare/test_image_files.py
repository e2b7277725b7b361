"""Files and table rows are joined by path or name, and every loss on either side is reported."""

import os
import unicodedata

import pandas as pd
import pytest

from dermssl.errors import InputError
from dermssl.prepare.sources.images import list_images, match_images, passed_over


@pytest.fixture
def tree(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def _match(root, *names):
    records = match_images(root, pd.DataFrame({"file": list(names), "row": range(len(names))}))
    return dict(zip(records.frame["file"], records.frame["row"], strict=True)), records.problems


def test_images_are_listed_in_any_depth_and_case_and_hidden_ones_are_not(tree):
    root = tree("b/x.JPG", "a.jpeg", "b/c/y.Tiff", "notes.txt", ".thumbs/z.jpg", "b/._x.jpg")
    assert list_images(root) == ["a.jpeg", "b/c/y.Tiff", "b/x.JPG"]


@pytest.mark.parametrize("named", ["x", "x.png", "x.jpg", "part_1/x", "part_1\\x.png", "./part_1/x.JPG"])
def test_a_row_finds_its_file_by_path_or_name_with_any_extension(tree, named):
    matched, problems = _match(tree("part_1/x.JPG"), named)
    assert matched == {"part_1/x.JPG": 0} and not problems


def test_a_dot_in_a_name_is_not_taken_for_an_extension(tree):
    matched, problems = _match(tree("scan.1.jpg", "scan.2.jpg"), "scan.2", "scan.1")
    assert matched == {"scan.1.jpg": 1, "scan.2.jpg": 0} and not problems


def test_files_of_one_name_in_two_folders_are_told_apart_by_path(tree):
    root = tree("eczema/1.jpg", "naevus/1.jpg")
    assert _match(root, "naevus/1.jpg", "eczema/1")[0] == {"naevus/1.jpg": 0, "eczema/1.jpg": 1}
    matched, problems = _match(root, "1.jpg")
    assert not matched and problems[0].problem == "several files of that name (2)"


def test_one_picture_in_two_formats_is_told_apart_by_its_extension(tree):
    matched, problems = _match(tree("x.png", "x.jpg"), "x.png", "x.jpg")
    assert matched == {"x.png": 0, "x.jpg": 1} and not problems


def test_accents_match_however_the_archive_composed_them(tree):
    name = "lésion_ñ"
    matched, problems = _match(tree(unicodedata.normalize("NFD", name) + ".jpg"), unicodedata.normalize("NFC", name))
    assert list(matched.values()) == [0] and not problems


def test_both_kinds_of_loss_are_reported_and_nothing_is_counted_twice(tree):
    matched, problems = _match(tree("a.jpg", "b.jpg", "c.jpg"), "a", "a.jpg", "missing.jpg", None)
    assert matched == {"a.jpg": 0}
    assert sorted((p.file, p.problem) for p in problems) == [
        ("(blank)", "row without a file name"),
        ("a.jpg", "second row for the same file"),
        ("b.jpg", "file without a row in the table"),
        ("c.jpg", "file without a row in the table"),
        ("missing.jpg", "named in the table but there is no such file"),
    ]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([("a", "p1", "train"), ("a", "p1", "test")], "p1"),
        ([("a", "p1", "train"), ("a", "p2", "train"), ("b", "p2", "test")], "p2"),
        ([("a", None, "train"), ("a.jpg", None, "test")], "a.jpg"),
    ],
)
def test_a_second_row_that_puts_a_patient_or_file_into_another_split_is_bad_input(tree, rows, named):
    frame = pd.DataFrame(rows, columns=["file", "patient_id", "split"])
    with pytest.raises(InputError, match=f"two splits: {named}"):
        match_images(tree("a.jpg", "b.jpg"), frame)


def test_a_lesion_number_of_two_patients_is_no_lesion_in_two_splits(tree):
    rows = {"file": ["a", "b"], "patient_id": ["p1", "p2"], "lesion_id": ["1", "1"], "split": ["train", "test"]}
    assert len(match_images(tree("a.jpg", "b.jpg"), pd.DataFrame(rows)).frame) == 2


def test_linked_folders_and_formats_that_cannot_be_read_are_reported(tree, tmp_path_factory):
    root, elsewhere = tree("a.jpg", "b.HEIC", "c.dcm"), tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "x.jpg").touch()
    (root / "linked").symlink_to(elsewhere)
    assert list_images(root) == ["a.jpg"]
    assert [problem.file for problem in passed_over(root)] == ["b.HEIC", "c.dcm", "linked"]


def test_a_file_name_that_is_not_utf8_is_reported(tree):
    root = tree("a.jpg")
    try:
        (root / os.fsdecode(b"l\xe9sion.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert list_images(root) == ["a.jpg"]
    assert [(p.file, p.problem) for p in passed_over(root)] == [(r"l\xe9sion.jpg", "file name is not UTF-8: rename it")]
