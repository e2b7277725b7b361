"""Tables are read whatever program saved them; missing is None in every spelling."""

import pytest

from dermssl.errors import InputError
from dermssl.prepare.sources import tables
from dermssl.prepare.sources.tables import clean, find_file, fitzpatrick, number, read_table, sex


@pytest.mark.parametrize(
    "raw",
    [
        b"id,age\nA,35\nB,\n",
        b"\xef\xbb\xbfid,age\r\nA,35\r\nB,\r\n",
        b"id;age\nA;35\nB;NaN\n",
        b"id\tage\nA\t35\nB\tunknown\n",
        b" id , age \n A , 35 \n B , -1 \n",
        b"id,age,\nA,35,\nB,,\n",
    ],
    ids=["plain", "BOM and CRLF", "semicolons", "tabs", "spaces", "trailing commas"],
)
def test_every_dialect_of_csv_gives_the_same_table(tmp_path, raw):
    (tmp_path / "t.csv").write_bytes(raw)
    table = read_table(tmp_path / "t.csv", ("id", "age"))
    assert table[["id", "age"]].to_dict("list") == {"id": ["A", "B"], "age": ["35", None]}


def test_ids_keep_their_leading_zeros_and_accents(tmp_path):
    (tmp_path / "t.csv").write_text("id\n007\nnævus-é\n", encoding="utf-8")
    assert read_table(tmp_path / "t.csv", ("id",))["id"].tolist() == ["007", "nævus-é"]


def test_a_long_wide_table_is_read_in_parts_of_which_only_wanted_columns_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK", 3)
    lines = [f"{row},{row}.5,x" for row in range(8)]
    (tmp_path / "t.csv").write_text("\n".join([" id ,area,note", *lines]))
    table = read_table(tmp_path / "t.csv", ("id",), further=("note", "absent"))
    assert list(table) == ["id", "note"] and table["id"].tolist() == list("01234567")
    (tmp_path / "t.csv").write_text("\n".join(["id,area,note", *lines, "8,1,x,y"]))
    with pytest.raises(InputError, match="not a readable CSV"):
        read_table(tmp_path / "t.csv", ("id",), further=("note",))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"id,age\n", "no rows"),
        (b"id,agee\nA,1\n", "no column 'age'; did you mean 'agee'"),
        (b"id,age\nA,1\nB,2,3,4\n", "not a readable CSV"),
        ("id,age\nÉ,1\n".encode("latin-1"), "UTF-8"),
        (b"PK\x03\x04\xff\xfe", "not a readable CSV"),
    ],
)
def test_a_table_that_cannot_be_used_names_the_file_and_the_reason(tmp_path, raw, message):
    path = tmp_path / "t.csv"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=message) as error:
        read_table(path, ("id", "age"))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_is_none_in_every_spelling():
    assert {clean(value) for value in ("", " ", "NaN", "nan", "None", "NULL", "NA", "n/a", "Unknown", "-1")} == {None}
    assert clean(" naevus ") == "naevus"


def test_numbers_are_read_from_the_spellings_in_use():
    assert [number(value) for value in ("35", " 35.5 ", "85+", 7)] == [35, 35.5, 85, 7]
    assert {number(value) for value in (None, "", "old", "inf", "nan", float("nan"))} == {None}


def test_sex_and_skin_type_are_read_or_none():
    assert [sex(value) for value in ("f", "FEMALE", "m", "Male", None, "other")] == ["female"] * 2 + ["male"] * 2 + [
        None,
        None,
    ]
    assert [fitzpatrick(value) for value in ("3", "3.0", "6", "0", "7", "-1", None)] == [
        3,
        3,
        6,
        None,
        None,
        None,
        None,
    ]


def test_a_file_is_found_in_any_case_and_up_to_two_folders_down(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "Labels.CSV").touch()
    assert find_file(tmp_path, "label.csv", "labels.csv").name == "Labels.CSV"
    (tmp_path / "label.csv").touch()
    assert find_file(tmp_path, "label.csv", "labels.csv") == tmp_path / "label.csv"
    with pytest.raises(InputError, match=r"no metadata\.csv: give the folder that does"):
        find_file(tmp_path, "metadata.csv")
