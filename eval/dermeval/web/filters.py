"""The filters of the search form, one for each column with at least two values."""

import contextlib
import keyword
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
from pydantic import BaseModel

from dermeval.retrieval.where import CONSTANTS
from dermssl.errors import InputError

MAX_CHOICES = 40
"""A text column with more distinct values gets no filter of its own."""
LARGEST_NUMBER = 1e15
IDS = {"image_id", "file", "patient_id", "lesion_id", "group_id", "case_id", "sha256", "pixel_sha256", "phash"}
MEASURES = {"width", "height", "stored_width", "stored_height"}
FIRST = ("fitzpatrick", "tone_group", "body_site", "sex", "age", "country", "modality", "dataset")
TITLES = {
    "fitzpatrick": "Skin type (Fitzpatrick, 1 to 6)",
    "body_site": "Body site",
    "tone_group": "Skin tone group",
    "dataset": "Data set",
    "dx": "Diagnosis",
    "diagnostic": "Diagnosis",
    "dx_type": "Basis of the diagnosis",
    "biopsed": "Biopsied",
}


class FilterField(BaseModel):
    """The filter of one column: one of ``choices``, or a range of numbers from ``low`` to ``high``."""

    column: str
    title: str
    choices: list[str] = []
    low: float | None = None
    high: float | None = None


def titles_of(columns: Sequence[str]) -> dict[str, str]:
    """The title of each column on a page; columns with the same title keep their names in brackets."""
    titles = {column: TITLES.get(column, column.replace("_", " ").capitalize()) for column in columns}
    shared = {title for title, count in Counter(titles.values()).items() if count > 1}
    return {column: f"{title} ({column})" if title in shared else title for column, title in titles.items()}


def filters_of(table: pa.Table, labels: Sequence[str]) -> list[FilterField]:
    """The filters for the columns of ``table`` that a filter can name, those of the ``labels`` first."""
    names = [name for name in table.column_names if name not in IDS | MEASURES]
    names = [
        name for name in names if name.isidentifier() and not keyword.iskeyword(name) and name.lower() not in CONSTANTS
    ]
    ordered = [name for name in dict.fromkeys([*labels, *FIRST, *names]) if name in names]
    titles = titles_of(table.column_names)
    fields = [_filter(name, titles[name], table[name]) for name in ordered]
    return [field for field in fields if field is not None]


def _filter(name: str, title: str, column: pa.ChunkedArray) -> FilterField | None:
    """The filter of one column; None if the column has one value, too many texts, or another type."""
    values = column.combine_chunks()
    distinct = (values.flatten() if pa.types.is_list(values.type) else values).drop_null().unique()
    kind = distinct.type
    if len(distinct) < 2:
        return None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = distinct.to_numpy()
        return FilterField(column=name, title=title, low=float(numbers.min()), high=float(numbers.max()))
    if pa.types.is_boolean(kind):
        return FilterField(column=name, title=title, choices=["true", "false"])
    if len(distinct) > MAX_CHOICES or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    return FilterField(column=name, title=title, choices=sorted(distinct.to_pylist()))


def where_of(fields: Sequence[FilterField], given: Mapping[str, str], also: str = "") -> str:
    """The filter text of a form: ``f.COLUMN`` is a choice, ``min.COLUMN`` and ``max.COLUMN`` are numbers."""
    parts = [f"({also})"] if also.strip() else []
    for field in fields:
        choice = given.get(f"f.{field.column}", "")
        if choice:
            truth = field.choices == ["true", "false"] and choice in field.choices
            parts.append(f"{field.column} == {choice if truth else repr(choice)}")
        for prefix, sign in (("min", ">="), ("max", "<=")):
            text = given.get(f"{prefix}.{field.column}", "").strip()
            if text:
                with contextlib.suppress(ValueError):
                    if abs(float(text)) < LARGEST_NUMBER:
                        parts.append(f"{field.column} {sign} {float(text)}")
                        continue
                raise InputError(f"{field.title}: {text[:40]} is no number")
    return " and ".join(parts)
