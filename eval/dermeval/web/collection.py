"""An index as the pages and the API show it: cases, pictures, filters, and the conditions among the hits."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel

from dermeval.retrieval.find import Query, find, indexed_query
from dermeval.retrieval.index_folder import SearchIndex
from dermeval.retrieval.where import parse_where
from dermssl import licences
from dermssl.errors import InputError

MAX_CASES = 100
MAX_CASE_IMAGES = 200
EXAMPLES = 24
MAX_CHOICES = 40
"""A text column with more distinct values gets no filter of its own."""
IDS = {"image_id", "file", "patient_id", "lesion_id", "group_id", "case_id", "sha256", "pixel_sha256", "phash"}
MEASURES = {"width", "height", "stored_width", "stored_height"}
TITLES = {
    "fitzpatrick": "Skin type (Fitzpatrick, 1 to 6)",
    "body_site": "Body site",
    "tone_group": "Skin tone group",
    "dataset": "Data set",
}


class CaseImage(BaseModel):
    """One image of the collection, with what is known of it."""

    image_id: str
    case_id: str
    dataset: str
    licence: str
    labels: dict[str, str | float | bool]
    fitzpatrick: int | None
    tone_group: str | None
    sex: str | None
    age: float | None
    country: str | None
    body_site: list[str]
    modality: str | None
    split: str | None


class Hit(CaseImage):
    """A similar case."""

    rank: int
    similarity: float


class ConditionShare(BaseModel):
    """How often a condition occurs among the hits, and among all cases that could have been found."""

    condition: str
    hits: int
    share: float
    base_rate: float


class SearchResult(BaseModel):
    """The most similar cases, best first. This is retrieval by similarity of images; it is not a diagnosis."""

    query: str
    hits: list[Hit]
    notes: list[str]
    target: str | None
    conditions: list[ConditionShare]


class Case(BaseModel):
    """All images of one case."""

    case_id: str
    images: list[CaseImage]


class FilterField(BaseModel):
    """A filter that the data offer: one of ``choices``, or a range of numbers from ``low`` to ``high``."""

    column: str
    title: str
    choices: list[str] = []
    low: float | None = None
    high: float | None = None


class Collection:
    """Searches in one index, over the rows ``served`` (None: all). Nothing here knows a path of this machine."""

    def __init__(self, index: SearchIndex, k: int, served: np.ndarray | None = None) -> None:
        self.index, self.k, self.served = index, k, served
        self.frame = index.frame
        self.title = "Similar cases in " + ", ".join(entry["name"] for entry in index.info["datasets"])
        self.licence_of = {entry["dataset"]: entry["id"] for entry in index.notices}
        self.labels = list(dict.fromkeys(target.column for target in index.targets.values()))
        self.stored = {
            name: {image_id: row for row, image_id in enumerate(dataset.column("image_id"))}
            for name, dataset in index.datasets.items()
        }
        self.cases = self.frame.groupby("case_id", sort=False).indices
        # What several threads will ask for is made once, before there are any.
        _ = self.filters, self.base_rates, index.group_codes, index.row_of, index.columns

    def __len__(self) -> int:
        return len(self.frame) if self.served is None else int(self.served.sum())

    def has(self, row: int | None) -> bool:
        """Whether a row exists and is served."""
        return row is not None and (self.served is None or bool(self.served[row]))

    def query(self, image_id: str) -> Query | None:
        """An image as the query; None where there is none of that id."""
        return indexed_query(self.index, image_id) if self.has(self.index.row_of.get(image_id)) else None

    def picture(self, image_id: str) -> bytes | None:
        """The stored JPEG of an image; None where there is none of that id."""
        row = self.index.row_of.get(image_id)
        if row is None or not self.has(row):
            return None
        name = self.frame["dataset"].iat[row]
        stored = self.stored[name].get(image_id)
        return None if stored is None else bytes(self.index.datasets[name].images.jpeg(stored))

    def search(self, query: Query, k: int, where: str = "", min_similarity: float | None = None) -> SearchResult:
        """The ``k`` most similar cases; raises InputError for a filter that is wrong or leaves nothing."""
        allowed = self.index.passing(parse_where(where)) if where.strip() else None
        if self.served is not None:
            allowed = self.served if allowed is None else allowed & self.served
            if not allowed.any():
                raise InputError("no image that is served here passes the filter")
        try:
            found = find(self.index, query, k, allowed=allowed, min_similarity=min_similarity)
        except InputError:
            raise InputError("there is no case of another patient to find") from None
        similarity = found.table["similarity"].tolist()
        hits = [
            Hit(rank=rank + 1, similarity=round(float(similarity[rank]), 4), **self.image(row).model_dump())
            for rank, row in enumerate(found.rows)
        ]
        target = self.labels[0] if self.labels else None
        shares = self._shares(found.rows, allowed, target) if target else []
        return SearchResult(query=query.name, hits=hits, notes=found.notes, target=target, conditions=shares)

    def image(self, row: int) -> CaseImage:
        """What is known of one row."""
        record = {name: _plain(value) for name, value in self.frame.iloc[row].to_dict().items()}
        known = {name: record.get(name) for name in CaseImage.model_fields}
        known["licence"] = self.licence_of.get(record["dataset"], "unknown")
        known["labels"] = {name: record[name] for name in self.labels if record.get(name) is not None}
        known["body_site"] = record.get("body_site") or []
        return CaseImage.model_validate(known)

    def case(self, case_id: str) -> Case | None:
        """All images of a case, given its id or that of one of its images; None where there is none."""
        if case_id not in self.cases and case_id in self.index.row_of:
            case_id = self.frame["case_id"].iat[self.index.row_of[case_id]]
        rows = [row for row in self.cases.get(case_id, ()) if self.has(row)]
        return Case(case_id=case_id, images=[self.image(row) for row in rows[:MAX_CASE_IMAGES]]) if rows else None

    def examples(self) -> list[CaseImage]:
        """Some images to start from, the same at every visit."""
        rows = np.arange(len(self.frame)) if self.served is None else np.flatnonzero(self.served)
        picks = np.random.default_rng(0).permutation(len(rows))[:EXAMPLES]
        return [self.image(int(row)) for row in np.sort(rows[picks])]

    @property
    def foot(self) -> list[str]:
        """Licences and duties."""
        return licences.notice_lines(self.index.notices)

    @cached_property
    def filters(self) -> list[FilterField]:
        """Filters for the columns that have at least two values."""
        found = [_filter(name, self.index.columns[name]) for name in self._filter_columns()]
        return [field for field in found if field is not None]

    def _filter_columns(self) -> list[str]:
        first = [*self.labels, "fitzpatrick", "tone_group", "body_site", "sex", "age", "country", "modality", "dataset"]
        names = [name for name in self.index.columns.column_names if name not in IDS | MEASURES]
        return [name for name in dict.fromkeys([*first, *names]) if name in names]

    @cached_property
    def base_rates(self) -> pd.Series:
        """Share of each condition among all cases of the index: one image of each group."""
        return self._rates(self.served, self.labels[0]) if self.labels else pd.Series(dtype=float)

    def _rates(self, allowed: np.ndarray | None, target: str) -> pd.Series:
        labels, groups = self.frame[target].astype("string"), self.index.group_codes
        if allowed is not None:
            labels, groups = labels[allowed], groups[allowed]
        return labels[~pd.Series(groups, index=labels.index).duplicated()].value_counts(normalize=True)

    def _shares(self, rows: np.ndarray, allowed: np.ndarray | None, target: str) -> list[ConditionShare]:
        rates = self.base_rates if allowed is self.served else self._rates(allowed, target)
        counts = self.frame[target].iloc[rows].astype("string").value_counts()
        return [
            ConditionShare(
                condition=str(name),
                hits=int(count),
                share=float(count / counts.sum()),
                base_rate=float(rates.get(name, 0)),
            )
            for name, count in counts.items()
        ]


def _plain(value: Any) -> Any:
    """A cell of the manifest as JSON has it: None where it is missing."""
    if isinstance(value, (list, np.ndarray)):
        return [_plain(item) for item in value]
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _filter(name: str, column: pa.ChunkedArray) -> FilterField | None:
    """The filter of one column, or None where it would not help."""
    title, values = TITLES.get(name, name.replace("_", " ").capitalize()), column.combine_chunks()
    if pa.types.is_list(values.type):
        values = values.flatten()
    distinct = values.drop_null().unique()
    if len(distinct) < 2:
        return None
    kind = distinct.type
    if pa.types.is_boolean(kind):
        return FilterField(column=name, title=title, choices=["true", "false"])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        choices = sorted(distinct.to_pylist())
        return FilterField(column=name, title=title, choices=choices) if len(choices) <= MAX_CHOICES else None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = distinct.to_numpy()
        return FilterField(column=name, title=title, low=float(numbers.min()), high=float(numbers.max()))
    return None


def where_of(fields: Sequence[FilterField], given: Mapping[str, str], also: str = "") -> str:
    """The filter that a form asks for: ``f.COLUMN`` is a choice, ``min.COLUMN`` and ``max.COLUMN`` are numbers.

    Raises:
        InputError: something else than a number where one is needed.
    """
    parts = [f"({also})"] if also.strip() else []
    for field in fields:
        choice = given.get(f"f.{field.column}", "")
        if choice:
            literal = choice if choice in ("true", "false") and field.choices == ["true", "false"] else repr(choice)
            parts.append(f"{field.column} == {literal}")
        for prefix, sign in (("min", ">="), ("max", "<=")):
            text = given.get(f"{prefix}.{field.column}", "").strip()
            if text:
                parts.append(f"{field.column} {sign} {_number(text, field.title)}")
    return " and ".join(parts)


def _number(text: str, title: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < 1e15:
        raise InputError(f"{title}: {text[:40]} is no number")
    return number
