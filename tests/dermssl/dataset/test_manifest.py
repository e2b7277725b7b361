"""The manifest has one schema: ids unique, types fixed, missing null."""

import pandas as pd
import pyarrow as pa
import pytest

from dermssl.dataset.manifest import FIXED, MEASURED, to_table
from dermssl.errors import InputError


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "image_id": ["s/a", "s/b"],
            "dataset": "s",
            "file": ["a.jpg", "b.jpg"],
            "group_id": ["s/a", "s/b"],
            "case_id": ["s/a", "s/b"],
            "fitzpatrick": [3.0, float("nan")],
            "body_site": [["arm", "leg"], None],
            "width": 4,
            "height": 4,
            "stored_width": 4,
            "stored_height": 4,
            "sha256": ["0", "1"],
            "pixel_sha256": ["0", "1"],
            "phash": [list(range(8)), [2**64 - 1] * 8],
        }
    )


def test_the_schema_is_the_same_whatever_the_source_knows(frame):
    table = to_table(frame)
    assert table.schema.names == FIXED.names
    assert all(table.schema.field(name).type == FIXED.field(name).type for name in FIXED.names)
    assert table["patient_id"].null_count == 2 and table["age"].null_count == 2


def test_measurements_join_to_the_manifest_that_one_table_gives(frame):
    facts = frame.assign(label=["x", "y"])
    whole = to_table(facts)
    found = whole.select(["file", *MEASURED])
    parts = pa.concat_tables([found.slice(0, 1), found.slice(1, 0), found.slice(1)])
    assert to_table(facts.drop(columns=list(MEASURED)), parts).equals(whole)


def test_measurements_of_other_files_are_never_joined(frame):
    found = to_table(frame).select(["file", *MEASURED])
    for wrong in (found.take([1, 0]), found.slice(0, 1)):
        with pytest.raises(RuntimeError, match="measurements of"):
            to_table(frame.drop(columns=list(MEASURED)), wrong)


def test_missing_values_are_null_and_hashes_keep_all_64_bits(frame):
    table = to_table(frame)
    assert table["fitzpatrick"].to_pylist() == [3, None]
    assert table["body_site"].to_pylist() == [["arm", "leg"], None]
    assert table["phash"].to_pylist()[1] == [2**64 - 1] * 8


def test_free_columns_are_typed_by_what_they_hold(frame):
    free = {"label": ["x", None], "biopsed": [True, None], "count": [1, 2], "size": [1.5, None], "empty": [None, None]}
    schema = to_table(frame.assign(**free)).schema
    types = {name: schema.field(name).type for name in free}
    assert types == {
        "label": pa.string(),
        "biopsed": pa.bool_(),
        "count": pa.int64(),
        "size": pa.float64(),
        "empty": pa.string(),
    }


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("image_id", ["s/a", "s/a"], "s/a occurs twice"),
        ("group_id", ["s/a", None], "s/b has no group_id"),
        ("split", ["train", "TEST"], "split holds .'TEST'."),
        ("sex", ["f", None], "sex holds .'f'."),
        ("fitzpatrick", [3, 7], "fitzpatrick must be 1 to 6"),
        ("age", [40, float("inf")], "age must be 0 to 150"),
        ("width", [4, -5], "width must be 1 to"),
        ("group_id", ["s/a", ""], "group_id holds an empty text"),
    ],
)
def test_a_value_outside_its_range_is_bad_input(frame, column, values, message):
    with pytest.raises(InputError, match=message):
        to_table(frame.assign(**{column: values}))
