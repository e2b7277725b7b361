"""Values are read from the spellings in use; what cannot be read is missing, and counted."""

import pandas as pd
import pytest

from dermssl.errors import InputError
from dermssl.prepare.columns import read_columns
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.values import age, clean, fitzpatrick, modality, read_number, sex


def test_missing_is_none_in_every_spelling():
    words = ("", " ", "NaN", "nan", "None", "NULL", "NA", "n/a", "Unknown", "?", "-", "--", "#N/A", "<NA>", ".")
    further = (
        "n.a.",
        "Not available",
        "(blank)",
        "[unknown]",
        "unk",
        "not specified",
        "keine Angabe",
        "no data",
    )
    assert {clean(value) for value in words + further} == {None}
    kept = [clean(value) for value in (" naevus ", "0", "other", "P-1", "(a)")]
    assert kept == ["naevus", "0", "other", "P-1", "(a)"]


def test_numbers_are_read_with_a_point_or_a_comma():
    assert [read_number(value) for value in ("35", " 35.5 ", "35,5", 7)] == [35, 35.5, 35.5, 7]
    assert {read_number(value) for value in (None, "", "old", "inf", "nan", float("nan"))} == {None}


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *[
            (text, 35)
            for text in ("35", "35.0", "35 y", "35yrs", "35 years old", "35 ans", "35 y/o", "035", "35 Jahre")
        ],
        *[
            ("85+", 85),
            (">85", 85),
            ("85 or older", 85),
            ("18 months", 1.5),
            ("6 mois", 0.5),
            ("2 years 6 months", 2.5),
            ("2y6m", 2.5),
        ],
        *[("0", 0), ("73 days", 0.2)],
        *[(text, None) for text in ("old", "999", "30-39", "<1", "3 moons", "-5", "y", "1 2", "2 months 3")],
    ],
)
def test_ages_are_read_in_years(text, years):
    assert age(text) == (None if years is None else pytest.approx(years, abs=0.001))


def test_sexes_are_read_by_word_not_by_first_letter():
    assert {sex(word) for word in ("f", "F", "FEMALE", "fem.", "♀", "Woman", "femme", "mujer", "mulher")} == {"female"}
    assert {sex(word) for word in ("m", "Male", "boy", "homme", "männlich")} == {"male"}
    assert {sex(word) for word in ("other", "x", "0", "fm")} == {None}


@pytest.mark.parametrize(
    ("kind", "spellings"),
    [
        (3, ["3", "3.0", "III", "iii", "type 3", "Type III", "FST3", "FST III", "Fitzpatrick III", "skin type 3"]),
        (4, ["4", "IV", "phototype IV", "Ⅳ", "04", "FITZ 4", "Fitz. IV", "FP4", "FPT-IV", "tipo 4"]),
        (6, ["6", "VI", "FST6"]),
        (None, ["0", "7", "00", "3.5", "III-IV", "2/3", "34", "IIII", "brown", "type"]),
    ],
)
def test_skin_types_are_read_in_arabic_and_roman(kind, spellings):
    assert {fitzpatrick(text) for text in spellings} == {kind}


def test_a_modality_may_have_a_detail_behind_it():
    assert [modality(text) for text in ("clinical: close-up", "Dermoscopy", "x-ray")] == [
        "clinical",
        "dermoscopic",
        None,
    ]


def test_values_that_cannot_be_read_are_counted_per_column_and_kept_as_missing(tmp_path):
    table = pd.DataFrame({"years": ["35", "old", "old", None], "type": ["III", "x", "2", None]}, dtype=object)
    raw = RawFolder(tmp_path)
    frame = read_columns(raw, table, ["absent"], age="years", fitzpatrick="type", country="absent")
    assert frame["age"].tolist()[0] == 35 and frame["age"].isna().tolist() == [False, True, True, True]
    assert frame["country"].isna().all()
    assert [problem.problem for problem in raw.problems] == [
        "values of years cannot be read (2, such as 'old')",
        "values of type cannot be read (1, such as 'x')",
    ]


def test_a_split_of_another_name_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="'part' holds 'spare'"):
        read_columns(RawFolder(tmp_path), pd.DataFrame({"part": ["train", "spare"]}, dtype=object), split="part")
