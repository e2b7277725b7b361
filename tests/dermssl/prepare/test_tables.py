"""Tables are read whatever program saved them; missing is None in every spelling."""

import pytest

from dermssl.errors import InputError
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.tables import read_table


@pytest.mark.parametrize(
    "raw",
    [
        b"id,age\nA,35\nB,\n",
        b"\xef\xbb\xbfid,age\r\nA,35\r\nB,\r\n",
        b"id;age\nA;35\nB;NaN\n",
        b"id\tage\nA\t35\nB\tunknown\n",
        b" id , age \n A , 35 \n B , -1 \n",
        b"id,age,\nA,35,\nB,,\n",
        "id\tage\r\nA\t35\r\nB\t\r\n".encode("utf-16"),
        b"sep=;\nid;age\nA;35\nB;\n",
    ],
    ids=["plain", "BOM and CRLF", "semicolons", "tabs", "spaces", "trailing commas", "Excel's text", "Excel's sep"],
)
def test_every_dialect_of_csv_gives_the_same_table(tmp_path, raw):
    (tmp_path / "t.csv").write_bytes(raw)
    table = read_table(tmp_path / "t.csv", ("id", "age"))
    assert table[["id", "age"]].to_dict("list") == {"id": ["A", "B"], "age": ["35", None]}


def test_ids_keep_their_leading_zeros_and_accents(tmp_path):
    (tmp_path / "t.csv").write_text("id\n007\nnævus-é\n", encoding="utf-8")
    assert read_table(tmp_path / "t.csv", ("id",))["id"].tolist() == ["007", "nævus-é"]


def test_of_a_wide_table_only_wanted_columns_stay(tmp_path):
    lines = [f"{row},{row}.5,x" for row in range(8)]
    (tmp_path / "t.csv").write_text("\n".join([" id ,area,note", *lines]))
    table = read_table(tmp_path / "t.csv", ("id",), only=("note", "absent"))
    assert list(table) == ["id", "note"] and table["id"].tolist() == list("01234567")
    (tmp_path / "t.csv").write_text("\n".join(["id,area,note", *lines, "8,1,x,y"]))
    with pytest.raises(InputError, match="not a readable CSV"):
        read_table(tmp_path / "t.csv", ("id",), only=("note",))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"id,age\n", "no rows"),
        (b"id,agee\nA,1\n", "no column 'age'; did you mean 'agee'"),
        (b"id,age\nA,1\nB,2,3,4\n", "not a readable CSV"),
        ("id,age\nÉ,1\n".encode("latin-1"), "save it as CSV UTF-8"),
        (b"PK\x03\x04\xff\xfe", "save it as CSV UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_names_the_file_and_the_reason(tmp_path, raw, message):
    path = tmp_path / "t.csv"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=message) as error:
        read_table(path, ("id", "age"))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_table_is_found_in_any_case_and_up_to_three_folders_down(tmp_path):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "Labels.CSV").touch()
    assert RawFolder(tmp_path).find("label", "labels").name == "Labels.CSV"
    (tmp_path / "label.csv").touch()
    assert RawFolder(tmp_path).find("label", "labels") == tmp_path / "label.csv"
    with pytest.raises(
        InputError,
        match=r"no metadata\.csv: give the folder that does with --root; its tables are a/b/c/Labels.CSV, label",
    ):
        RawFolder(tmp_path).find("metadata")


def test_another_table_that_may_be_meant_is_told_unless_it_is_a_copy(tmp_path):
    for name, text in (("t.csv", "a"), ("t.tsv", "a"), ("t (1).csv", "b")):
        (tmp_path / name).write_text(text)
    raw = RawFolder(tmp_path)
    assert raw.find("t").name == raw.find("t").name == "t.csv"
    assert [(p.file, p.problem) for p in raw.problems] == [
        ("t (1).csv", "another table that may be meant: t.csv is read")
    ]


def test_rows_that_are_too_short_are_told(tmp_path):
    (tmp_path / "t.csv").write_text("id,age,sex\nA,35,f\nB,\nC,4")
    raw = RawFolder(tmp_path)
    assert raw.table("t")["age"].tolist() == ["35", None, "4"]
    assert [(p.file, p.kind) for p in raw.problems] == [("t.csv", "rows with fewer fields than the header")]


@pytest.mark.parametrize(
    "name",
    [
        "GroundTruth.tab",
        "GroundTruth.tsv",
        "GroundTruth",
        "ground truth.csv",
        "GroundTruth_v2.csv",
        "GroundTruth_version 2.csv",
        "GroundTruth (1).csv",
        "GroundTruth.csv.txt",
    ],
)
def test_a_table_is_found_under_the_usual_variants_of_its_name(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "Ground_Truth_Notes.csv").touch()
    assert RawFolder(tmp_path).find("Ground Truth", "GroundTruth").name == name


def test_the_name_itself_comes_before_versions_and_the_highest_version_before_others(tmp_path):
    for name in ("t_v2.csv", "t_v10.csv"):
        (tmp_path / name).touch()
    assert RawFolder(tmp_path).find("t").name == "t_v10.csv"
    (tmp_path / "t.tsv").touch()
    assert RawFolder(tmp_path).find("t").name == "t.tsv"


def test_columns_of_one_name_are_told(tmp_path):
    (tmp_path / "t.csv").write_text("id,age, age ,,\nA,35,40,,\n")
    raw = RawFolder(tmp_path)
    assert raw.table("t")["age"].tolist() == ["35"]
    assert [(p.problem, p.action) for p in raw.problems] == [("several columns of one name: age", "the first is read")]


@pytest.mark.parametrize(("name", "remedy"), [("all.zip", "unpack all.zip first"), ("a.xlsx", "save a.xlsx as CSV")])
def test_a_table_that_is_missing_beside_what_may_hold_it_names_that(tmp_path, name, remedy):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=remedy):
        RawFolder(tmp_path).find("metadata")


def test_short_rows_and_doubled_columns_are_counted_below_the_line_that_excel_writes(tmp_path):
    (tmp_path / "t.csv").write_text("sep=;\nid;age;age\nA;35;36\nB;40\n")
    table = read_table(tmp_path / "t.csv")
    assert (table.attrs["short"], table.attrs["doubled"]) == (1, ["age"])


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (["0", "2", "-1"], ["0", "2", None]),
        (["35", "-9", "-99", "-999.0"], ["35", None, None, None]),
        (["3", "-9", "-2"], ["3", "-9", "-2"]),
        (["-4.5", "-1", "7"], ["-4.5", "-1", "7"]),
        (["P-1", "-", "-9"], ["P-1", None, None]),
    ],
)
def test_minus_nine_is_missing_only_in_a_column_without_other_negative_numbers(tmp_path, values, read):
    (tmp_path / "t.csv").write_text("\n".join(["x", *values]))
    table = read_table(tmp_path / "t.csv")
    assert table["x"].tolist() == read
    assert table.attrs["coded"].get("x", 0) == sum(value is None for value in read) - values.count("-")
