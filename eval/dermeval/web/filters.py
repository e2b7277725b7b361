"""The filters that a collection offers: one for each column that has something to choose from."""

import contextlib
from collections.abc import Mapping, Sequence

import pyarrow as pa
from pydantic import BaseModel

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
}


class FilterField(BaseModel):
    """A filter that the data offer: one of ``choices``, or a range of numbers from ``low`` to ``high``."""

    column: str
    title: str
    choices: list[str] = []
    low: float | None = None
    high: float | None = None


def filters_of(table: pa.Table, labels: Sequence[str]) -> list[FilterField]:
    """Filters for the columns of ``table`` that have at least two values; the ``labels`` come first."""
    names = [name for name in table.column_names if name not in IDS | MEASURES]
    ordered = [name for name in dict.fromkeys([*labels, *FIRST, *names]) if name in names]
    fields = [_filter(name, table[name]) for name in ordered]
    return [field for field in fields if field is not None]


def _filter(name: str, column: pa.ChunkedArray) -> FilterField | None:
    """The filter of one column, or None where it would not help."""
    title, values = TITLES.get(name, name.replace("_", " ").capitalize()), column.combine_chunks()
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
    """The filter that a form asks for: ``f.COLUMN`` is a choice, ``min.COLUMN`` and ``max.COLUMN`` are numbers.

    Raises:
        InputError: something else than a number where one is needed.
    """
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
