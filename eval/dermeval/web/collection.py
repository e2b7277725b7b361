"""An index as the pages and the API show it: cases, pictures, and the labels of the hits."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import HTTPException
from pydantic import BaseModel

from dermeval.retrieval.find import ImageQuery, NothingElse, find
from dermeval.retrieval.index_folder import SearchIndex
from dermeval.retrieval.where import parse_where, passing_rows
from dermeval.web.filters import filters_of, titles_of
from dermssl import licences
from dermssl.errors import InputError

log = logging.getLogger("dermssl")
MAX_CASE_IMAGES = 200
EXAMPLES = 24
REMEMBERED_FILTERS = 32
Rates = dict[str, tuple[dict[str, float], int]]
"""For each target the share of each condition among the groups with a label, and the number of these."""


class CaseImage(BaseModel):
    """One image of the collection, with its labels and the attributes of its patient."""

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
    """The share of a condition (a label of ``target``) among the hits, and its base rate in the collection.

    ``share`` is the share among the ``labelled_hits``, which have a label of this target; ``base_rate`` is the share
    among the ``labelled_cases`` (patients or lesions) of the collection that pass the filter.
    """

    target: str
    condition: str
    labelled_hits: int
    labelled_cases: int
    hits: int
    share: float
    base_rate: float


class SearchResult(BaseModel):
    """The most similar cases, most similar first. This is retrieval by similarity of images; it is not a diagnosis.

    ``target`` is the target that most hits have a label of. ``conditions`` are of all targets, its own first.
    """

    query: str
    hits: list[Hit]
    notes: list[str]
    target: str | None
    conditions: list[ConditionShare]


class Case(BaseModel):
    """The images of one case, at most `MAX_CASE_IMAGES`; ``total`` is the number of all."""

    case_id: str
    total: int
    images: list[CaseImage]


class Collection:
    """Searches in an index, limited to the rows that pass ``where``. No answer shows a path of this machine."""

    def __init__(self, index: SearchIndex, k: int, where: str | None = None) -> None:
        self.index, self.k, self.where = index, k, where or ""
        self.frame, self.title = index.frame, index.title
        served = index.mask(where)
        self.served = np.ones(len(self.frame), bool) if served is None else served
        self.columns = index.columns if served is None else index.columns.filter(pa.array(served))
        self.licence_of = {entry["dataset"]: entry["id"] for entry in index.notices}
        # For each target the condition of each row ``(N,)`` as an integer (negative: none), and the names of these.
        texts = {name: self.frame[name].map(_text, na_action="ignore") for name in index.labels}
        self.labelled = {name: pd.factorize(text, sort=True) for name, text in texts.items()}
        self._filtered = lru_cache(REMEMBERED_FILTERS)(self._filter)
        # The word for the groups of the collection: patients, lesions, or both.
        self.unit = " or ".join(sorted({f"{entry['group']}s" for entry in index.present_datasets}, reverse=True))
        self.foot = licences.notice_lines(index.notices)
        self.filters, self.titles = filters_of(self.columns, index.labels), titles_of(self.columns.column_names)
        # These are cached now, before several threads ask for them.
        _ = self._filtered(""), index.groups, index.row_of, index.columns
        _ = [dataset.rows for dataset in index.datasets.values()]

    def __len__(self) -> int:
        return int(self.served.sum())

    def row(self, image_id: str) -> int | None:
        """The row of an image; None if no image of that id is served."""
        row = self.index.row_of.get(image_id)
        return row if row is not None and self.served[row] else None

    def picture(self, image_id: str) -> bytes:
        """The stored JPEG of an image; 404 if no image of that id is served."""
        row = self.row(image_id)
        jpeg = None if row is None else self.index.stored_jpeg(self.frame["dataset"].iat[row], image_id)
        if jpeg is None:
            raise HTTPException(404, "no image of that id in this collection")
        return jpeg

    def search(self, query: ImageQuery, k: int, where: str = "", min_similarity: float | None = None) -> SearchResult:
        """The ``k`` most similar cases; raises InputError if the filter is wrong or nothing passes it."""
        passing, rates = self._filtered(where)
        with without_paths():
            found = find(self.index, query, k, passing=passing, min_similarity=min_similarity)
        target, shares = self._shares(found.hits, rates)
        hits = [
            Hit(rank=rank + 1, similarity=round(hit["similarity"], 4), **self._known(hit))
            for rank, hit in enumerate(found.hits)
        ]
        hidden = [record["image_id"] for record in query.own if self.row(record["image_id"]) is None]
        notes = [note for note in found.notes if not any(image_id in note for image_id in hidden)]
        return SearchResult(query=query.name, hits=hits, notes=notes, target=target, conditions=shares)

    def images(self, records: Sequence[dict[str, Any]]) -> list[CaseImage]:
        """Some rows of the manifest, as images."""
        return [CaseImage(**self._known(record)) for record in records]

    def _known(self, record: dict[str, Any]) -> dict[str, Any]:
        known = {name: _plain(record.get(name)) for name in CaseImage.model_fields}
        known["licence"] = self.licence_of.get(record["dataset"], "unknown")
        known["labels"] = {name: _plain(record[name]) for name in self.index.labels if record.get(name) is not None}
        return known | {"body_site": record.get("body_site") or []}

    def case(self, case_id: str) -> Case:
        """The images of a case, by the id of the case or of one of its images; 404 if there is none."""
        cases, row = self.index.columns["case_id"], self.index.row_of.get(case_id)
        found = np.flatnonzero(pc.equal(cases, case_id))
        if not len(found) and row is not None:
            case_id = cases[row].as_py()
            found = np.flatnonzero(pc.equal(cases, case_id))
        rows = found[self.served[found]]
        if not len(rows):
            raise HTTPException(404, "no case of that id in this collection: give the case_id or image_id of a hit")
        shown = self.images(self.index.records(rows[:MAX_CASE_IMAGES]))
        return Case(case_id=case_id, total=len(rows), images=shown)

    def examples(self) -> list[CaseImage]:
        """Some images to start a search from, always the same."""
        rows = np.flatnonzero(self.served)
        picks = np.random.default_rng(0).permutation(len(rows))[:EXAMPLES]
        return self.images(self.index.records(np.sort(rows[picks])))

    def _filter(self, where: str) -> tuple[Any, Rates]:
        """The filter for the index, and the base rates among the groups that pass, by each first labelled image."""
        passed = self.served.copy()
        if where.strip():
            # Among the served rows, so that errors tell of no others.
            passed[self.served] = passing_rows(parse_where(where), self.columns)
        rows = np.flatnonzero(passed)
        rates = {}
        for target, (codes, names) in self.labelled.items():
            labelled = rows[codes[rows] >= 0]
            known = codes[labelled[np.unique(self.index.groups[0][labelled], return_index=True)[1]]]
            shares = np.bincount(known, minlength=len(names)) / max(1, len(known))
            rates[target] = dict(zip(names, shares.tolist(), strict=True)), len(known)
        # Each is parsed alone, so that brackets or a comment of one cannot reach into the other.
        both = " and ".join(f"({parse_where(part)})" for part in (self.where, where) if part.strip())
        return self.index.passing(both or None), rates

    def _shares(self, hits: Sequence[dict[str, Any]], rates: Rates) -> tuple[str | None, list[ConditionShare]]:
        """The target that most hits have a label of, and the shares of the conditions of each target."""
        counts = {name: Counter(_text(hit[name]) for hit in hits if hit[name] is not None) for name in self.labelled}
        targets = sorted(filter(counts.get, counts), key=lambda name: -counts[name].total())
        shares = []
        for target in targets:
            total, (base, cases) = counts[target].total(), rates[target]
            asked: dict[str, Any] = {"target": target, "labelled_hits": total, "labelled_cases": cases}
            for name, hit in sorted(counts[target].items(), key=lambda entry: (-entry[1], entry[0])):
                shares.append(
                    ConditionShare(condition=name, hits=hit, share=hit / total, base_rate=base[name], **asked)
                )
        return next(iter(targets), None), shares


@contextmanager
def without_paths() -> Iterator[None]:
    """Turn the errors of the index, which may name a path of this machine, into errors that name none."""
    try:
        yield
    except NothingElse:
        raise InputError("there is no case of another patient to find") from None
    except InputError as error:
        log.warning("%s", error)
        raise InputError("this search failed: the log of the server says why") from None


def _text(value: Any) -> str:
    return str(_plain(value))


def _plain(value: Any) -> Any:
    """A value for JSON: whole numbers without a fraction."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
