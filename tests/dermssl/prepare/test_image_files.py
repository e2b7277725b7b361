"""Files and table rows are joined by path or name, and every loss on either side is reported."""

import os
import unicodedata
import zipfile

import pandas as pd
import pytest
from PIL import Image

from dermssl.errors import InputError
from dermssl.prepare import match
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder


@pytest.fixture
def tree(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        return tmp_path

    return make


def _match(root, *names):
    raw = RawFolder(root)
    frame = match_files(raw, pd.DataFrame({"file": list(names), "row": range(len(names))}))
    return dict(zip(frame["file"], frame["row"], strict=True)), raw.problems


def test_images_are_listed_in_any_depth_and_case_and_hidden_ones_are_not(tree):
    root = tree("b/x.JPG", "a.jpeg", "b/c/y.Tiff", "notes.txt", ".thumbs/z.jpg", "b/._x.jpg")
    assert RawFolder(root).images == ["a.jpeg", "b/c/y.Tiff", "b/x.JPG"]


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
    assert not matched
    assert [(p.file, p.problem) for p in problems] == [("1.jpg", "several different files have that name: keep one")]


def test_a_mask_of_the_same_name_is_no_doubt_where_the_row_names_the_suffix(tree):
    root = tree("images/1.jpg", "masks/1.png")
    assert _match(root, "1.jpg")[0] == {"images/1.jpg": 0} and _match(root, "1.png")[0] == {"masks/1.png": 0}
    assert not _match(root, "1")[0] and not _match(root, "1.tif")[0]


def test_of_a_number_without_its_zeros_the_file_that_may_be_meant_is_named(tree):
    matched, problems = _match(tree("0002.jpg", "a/0003.png", "x.jpg"), "2", "3.jpg", "4", "x")
    assert matched == {"x.jpg": 3}
    none, zeros = (
        "named in the table but there is no such file",
        ", only one with leading zeros, which spreadsheets remove",
    )
    assert [(p.file, p.problem) for p in problems[:3]] == [
        ("2", f"{none}{zeros}: 0002.jpg"),
        ("3.jpg", f"{none}{zeros}: a/0003.png"),
        ("4", none),
    ]
    assert problems[0].kind == none + zeros


def test_a_row_of_a_file_that_cannot_be_read_does_not_say_that_there_is_no_file(tree, monkeypatch):
    monkeypatch.setattr("dermssl.prepare.raw.FORMATS", {"JPEG"})
    _, problems = _match(tree("a/IMG_1.HEIC"), "IMG_1.HEIC", "gone.jpg", "gone.jpg")
    assert [(p.file, p.problem) for p in problems if p.file != "a/IMG_1.HEIC"] == [
        ("IMG_1.HEIC", "named in the table but the file of that name cannot be used"),
        *[("gone.jpg", "named in the table but there is no such file")] * 2,
    ]


def test_one_picture_in_two_formats_is_told_apart_by_its_extension(tree):
    matched, problems = _match(tree("x.png", "x.jpg"), "x.png", "x.jpg")
    assert matched == {"x.png": 0, "x.jpg": 1} and not problems


@pytest.mark.parametrize("name", ["x.jpe", "x.image", "x", "x.jpg.jpg", "X.JPE"])
def test_a_row_finds_an_image_whose_suffix_is_odd(tree, name):
    root = tree(name)
    Image.new("RGB", (4, 4)).save(root / name, "JPEG")
    for named in ("x", "x.jpg", "part_1/x.png"):
        assert _match(root, named)[0] == {name: 0}


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


def test_thousands_of_files_of_one_name_are_not_compared_with_each_other(tree, monkeypatch):
    count, compared, listed = 60, [], []
    common_start, copies = match.common_start, RawFolder.copies
    monkeypatch.setattr(match, "common_start", lambda paths: compared.append(1) or common_start(paths))
    monkeypatch.setattr(RawFolder, "copies", lambda raw, files: copies(raw, [listed.append(f) or f for f in files]))
    root = tree(*(f"p{number}/left.jpg" for number in range(count)))
    matched, problems = _match(root, *(f"scans/p{number}/left.jpg" for number in range(0, count, 2)))
    assert matched == {f"p{number}/left.jpg": number // 2 for number in range(0, count, 2)}
    assert len(problems) == count // 2 and {p.problem for p in problems} == {"file without a row in the table"}
    assert len(compared) <= count and len(listed) <= 2 * count


def test_a_path_among_thousands_of_one_name_is_not_looked_for_among_all(tree):
    class Counted(str):
        compared = 0

        def __eq__(self, other):
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    files = [Counted(f"p{number}/left.jpg") for number in range(60)]
    index = match._Index(files)
    Counted.compared = 0
    assert [index.exact(str(file)) for file in files] == files
    assert Counted.compared < 60 * 10


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
        match_files(RawFolder(tree("a.jpg", "b.jpg")), frame)


def test_a_lesion_number_of_two_patients_is_no_lesion_in_two_splits(tree):
    rows = {"file": ["a", "b"], "patient_id": ["p1", "p2"], "lesion_id": ["1", "1"], "split": ["train", "test"]}
    assert len(match_files(RawFolder(tree("a.jpg", "b.jpg")), pd.DataFrame(rows))) == 2


def _listed(root, follow=None):
    raw = RawFolder(root, follow)
    return raw.images, {problem.file: problem.problem for problem in raw.problems}


def test_formats_that_cannot_be_read_are_reported_with_the_remedy(tree, monkeypatch):
    monkeypatch.setattr("dermssl.prepare.raw.FORMATS", ("JPEG", "AVIF"))
    images, problems = _listed(tree("a.jpg", "b.HEIC", "c.dcm", "d.avif"))
    assert images == ["a.jpg", "d.avif"] and set(problems) == {"b.HEIC", "c.dcm"}
    assert "dermssl[heif]" in problems["b.HEIC"]


def test_links_that_leave_the_root_are_followed_only_into_a_folder_that_is_named(tree, tmp_path_factory):
    root, elsewhere = tree("a.jpg"), tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "x.jpg").touch()
    (root / "linked").symlink_to(elsewhere)
    (root / "one.jpg").symlink_to(elsewhere / "x.jpg")
    (root / "dangling.jpg").symlink_to(elsewhere / "nothing.jpg")
    images, problems = _listed(root)
    assert images == ["a.jpg"] and set(problems) == {"linked", "one.jpg", "dangling.jpg"}
    assert "--follow" in problems["linked"]
    images, problems = _listed(root, elsewhere)
    assert images == ["a.jpg", "linked/x.jpg", "one.jpg"] and set(problems) == {"dangling.jpg"}


def test_links_inside_the_root_are_followed_and_nothing_is_read_twice(tree):
    root = tree("real/a.jpg", ".cache/b.jpg")
    (root / "again").symlink_to(root / "real")
    (root / "hidden").symlink_to(root / ".cache")
    (root / "real" / "loop").symlink_to(root)
    images, problems = _listed(root)
    assert images == ["hidden/b.jpg", "real/a.jpg"] and set(problems) == {"again", "real/loop"}


def test_files_without_an_image_suffix_are_looked_into(tree):
    root = tree("notes", "b.jpg")
    Image.new("RGB", (4, 4)).save(root / "ISIC_1", "JPEG")
    Image.new("RGB", (4, 4)).save(root / "c.image", "PNG")
    images, problems = _listed(root)
    assert images == ["ISIC_1", "b.jpg", "c.image"] and set(problems) == {"ISIC_1", "c.image"}


def test_images_of_formats_without_a_reader_are_told_by_name_and_by_content(tree):
    root = tree("a.jpg", "b.jp2", "c.svg", "notes")
    (root / "IM0001").write_bytes(bytes(128) + b"DICM")
    images, problems = _listed(root)
    assert images == ["a.jpg"] and set(problems) == {"b.jp2", "c.svg", "IM0001"}


def test_an_archive_is_named_while_its_images_are_packed(tree):
    root = tree("a.jpg")
    for name, member in (("done.zip", "part/a.jpg"), ("part_2.zip", "part/b.jpg")):
        with zipfile.ZipFile(root / name, "w") as archive:
            archive.writestr(member, "x")
    (root / "part_3.zip").write_bytes(b"PK half")
    problems = _listed(root)[1]
    assert problems["part_2.zip"] == "archive still packed: unpack it (1 further image)"
    assert "not wholly downloaded" in problems["part_3.zip"] and "done.zip" not in problems


def test_byte_identical_copies_in_two_folders_are_one_image(tree):
    root = tree("Part_1/x.jpg")
    (root / "part_1").mkdir()
    (root / "part_1" / "x.jpg").write_bytes((root / "Part_1" / "x.jpg").read_bytes())
    matched, problems = _match(root, "x")
    assert matched == {"Part_1/x.jpg": 0}
    assert [(p.file, p.problem) for p in problems] == [("part_1/x.jpg", "byte-identical copy: Part_1/x.jpg")]


@pytest.mark.parametrize(
    "named", ["/old/home/ham/part_2/x.jpg", "C:\\data\\part_2\\x.jpg", "part_2/x", "../part_2/x.png"]
)
def test_a_path_from_another_root_is_matched_by_its_longest_end(tree, named):
    matched, problems = _match(tree("part_1/x.jpg", "part_2/x.jpg"), named)
    assert matched == {"part_2/x.jpg": 0} and [p.file for p in problems] == ["part_1/x.jpg"]


def test_a_name_in_another_case_is_matched_where_it_is_the_only_one(tree):
    assert _match(tree("ISIC_1.jpg"), "isic_1.JPG")[0] == {"ISIC_1.jpg": 0}


def test_a_row_never_takes_the_file_that_another_row_names_by_its_path(tree):
    matched, problems = _match(tree("eczema/1.jpg"), "naevus/1.jpg", "eczema/1.jpg")
    assert matched == {"eczema/1.jpg": 1}
    assert [p.file for p in problems] == ["naevus/1.jpg"]


def test_a_file_name_that_is_not_utf8_is_reported(tree):
    root = tree("a.jpg")
    try:
        for suffix in ("jpg", "heic"):
            (root / os.fsdecode(b"l\xe9sion." + suffix.encode())).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    problem = "file name is not UTF-8: rename it"
    assert _listed(root) == (["a.jpg"], {rf"l\xe9sion.{suffix}": problem for suffix in ("heic", "jpg")})
