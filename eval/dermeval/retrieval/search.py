"""``dermeval search``: the cases most similar to a photo or to an indexed image, never the query's own patient."""

import difflib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.retrieval import sheet
from dermeval.retrieval.cases import Hits, nearest_cases
from dermeval.retrieval.index_folder import SearchIndex, open_index
from dermeval.retrieval.options import SearchOptions
from dermeval.retrieval.photo import Photo, open_photo_encoder, read_photo
from dermssl import neighbours
from dermssl.commandline import Report
from dermssl.errors import InputError

log = logging.getLogger("dermssl")


@dataclass(frozen=True)
class Query:
    """What is searched for: its feature ``(D,)``, its own rows of the index (none for a new photo), and its name."""

    feature: np.ndarray
    rows: np.ndarray
    name: str
    photo: Photo | None = None


@dataclass(frozen=True)
class Found:
    """What a search found: one row per hit, best first (see `_table`), and sentences to read with it."""

    table: pd.DataFrame
    notes: list[str]


def search(options: SearchOptions) -> Report:
    """Search an index; see `SearchOptions`."""
    if (options.photo is None) == (options.image_id is None):
        raise InputError("give one query: an image file, or --image-id with an image of the index")
    if options.out is not None:
        sheet.check_path(Path(options.out))
    index = open_index(options.index)
    query = indexed_query(index, options.image_id) if options.image_id else _photo_query(index, str(options.photo))
    found = find(index, query, options.k, options.include_own, options.per_image)
    drawn = _draw(index, query, found.table, options.out)
    data = {"query": query.name, "notes": found.notes, "hits": _json_rows(found.table), "sheet": drawn}
    head = f"cases similar to {query.name} in {index.folder}"
    page = [head, *[f"  {note}" for note in found.notes], _aligned(found.table)]
    return Report("\n".join(page + ([f"contact sheet: {drawn}"] if drawn else [])), data)


def find(index: SearchIndex, query: Query, k: int, include_own: bool = False, per_image: bool = False) -> Found:
    """The ``k`` cases most similar to the query; see `SearchOptions` for the switches.

    Raises:
        InputError: the index holds nothing but the query's own group.
    """
    frame = index.frame
    barred = _own_rows(frame, query.rows, include_own)
    groups = frame["image_id" if per_image else "group_id"]
    hits = nearest_cases(index.entries, query.feature, k, barred, pd.factorize(groups)[0])
    if not len(hits.rows):
        raise InputError(f"{index.folder} holds no other group than the query's own: --include-own shows its images")
    unit = "images" if per_image else "groups"
    notes = _notes(index, query, include_own)
    if len(hits.rows) < k:
        notes.append(f"k is {k}, but only {len(hits.rows)} other {unit} are there")
    return Found(_table(index, frame, hits), notes)


def indexed_query(index: SearchIndex, image_id: str) -> Query:
    """An image of the index as the query; raises InputError where there is none of that id."""
    ids = index.frame["image_id"]
    rows = np.flatnonzero(ids == image_id)
    if not len(rows):
        raise InputError(f"{index.folder} has no image '{image_id}'; {_nearest_id(image_id, ids)}")
    return Query(neighbours.index_features(index.entries, rows)[0], rows, image_id)


def _nearest_id(wanted: str, ids: pd.Series) -> str:
    """The tail of an error: ids that end like the wanted one, else the nearest in spelling."""
    stem = wanted.rsplit("/", 1)[-1]
    close = ids[ids.str.rsplit("/", n=1).str[-1] == stem].tolist() or difflib.get_close_matches(wanted, ids, 1)
    return f"did you mean '{close[0]}'?" if close else "its manifest.parquet lists them all"


def _photo_query(index: SearchIndex, path: str) -> Query:
    photo = read_photo(Path(path), index.info["short_side"])
    return photo_query(index, photo, open_photo_encoder(index.info["encoder"])(photo), path)


def photo_query(index: SearchIndex, photo: Photo, feature: np.ndarray, name: str) -> Query:
    """A photo as the query; images of the index that are identical to it count as its own rows."""
    frame = index.frame
    same = (frame["sha256"] == photo.sha256) | (frame["pixel_sha256"] == photo.pixel_sha256)
    return Query(feature, np.flatnonzero(same), name, photo)


def _own_rows(frame: pd.DataFrame, rows: np.ndarray, include_own: bool) -> np.ndarray:
    """Which rows may not be hits, ``(N,)`` bool: the query itself and, unless asked for, all of its group."""
    if include_own:
        return np.isin(np.arange(len(frame)), rows)
    return frame["group_id"].isin(frame["group_id"].iloc[rows]).to_numpy()


def _notes(index: SearchIndex, query: Query, include_own: bool) -> list[str]:
    notes, recall, frame = [], index.info["recall"], index.frame
    if query.photo is not None and len(query.rows):
        same = ", ".join(frame["image_id"].iloc[query.rows])
        left_out = "only that image is left out" if include_own else "its whole group is left out"
        notes.append(f"the photo is identical to {same} of this index: {left_out}")
    elif query.photo is None and not include_own:
        notes.append(f"other images of {frame['group_id'].iloc[query.rows[0]]} are left out")
    if index.info["type"] != "flat":
        notes.append(f"approximate index: recall@{recall['k']} {recall['value']:.4f}, measured when it was made")
    if index.synthetic:
        notes.append("SYNTHETIC data: these are no real cases")
    return notes


def _table(index: SearchIndex, frame: pd.DataFrame, hits: Hits) -> pd.DataFrame:
    """One row per hit, best first: rank, similarity, ids, the targets' labels, skin type, split."""
    labels = [target.column for target in index.targets.values()]
    columns = dict.fromkeys(["image_id", "dataset", *labels, "fitzpatrick", "split"])
    table = frame.iloc[hits.rows].reindex(columns=list(columns)).reset_index(drop=True)
    table.insert(0, "rank", range(1, len(table) + 1))
    table.insert(1, "similarity", hits.similarity)
    return table


def _aligned(table: pd.DataFrame) -> str:
    shown = table.dropna(axis=1, how="all")
    if "fitzpatrick" in shown:
        shown = shown.assign(fitzpatrick=shown["fitzpatrick"].map("{:.0f}".format, na_action="ignore"))
    return shown.to_string(index=False, na_rep="-", float_format="{:.4f}".format)


def _json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    plain = table.astype(object).where(table.notna(), None)
    return plain.to_dict("records")


def _draw(index: SearchIndex, query: Query, table: pd.DataFrame, out: str | None) -> str | None:
    """Draw the contact sheet where one was asked for and the images can be reached; returns its path."""
    if out is None:
        return None
    missing = sorted(set(table["dataset"]) - set(index.datasets))
    if missing:
        log.warning("warning: no contact sheet: the dataset folder of %s is out of reach", ", ".join(missing))
        return None
    labels = [target.column for target in index.targets.values()]
    shown = [
        sheet.Tile(sheet.stored_image(index.datasets[row["dataset"]], row["image_id"]), sheet.caption(row, labels))
        for row in table.to_dict("records")
    ]
    sheet.draw(Path(out), _query_tile(index, query, labels), shown, index.licences)
    return out


def _query_tile(index: SearchIndex, query: Query, labels: list[str]) -> sheet.Tile:
    if query.photo is not None:
        return sheet.Tile(query.photo.image, ["query", Path(query.name).name])
    row = index.frame.iloc[query.rows[0]]
    image = sheet.stored_image(index.datasets[row["dataset"]], row["image_id"])
    return sheet.Tile(image, sheet.caption({**row, "rank": None, "similarity": None}, labels))
