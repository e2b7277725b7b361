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
from dermeval.retrieval.photo import Photo, encode_photo, read_photo
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


def search(options: SearchOptions) -> Report:
    """Search an index; see `SearchOptions`."""
    if (options.photo is None) == (options.image_id is None):
        raise InputError("give one query: an image file, or --image-id with an image of the index")
    if options.out is not None:
        sheet.check_path(Path(options.out))
    index = open_index(options.index)
    frame = index.frame
    query = _indexed_query(index, frame, options.image_id) if options.image_id else _photo_query(index, frame, options)
    barred = _own_rows(frame, query.rows, options.include_own)
    groups = frame["image_id" if options.per_image else "group_id"]
    hits = nearest_cases(index.entries, query.feature, options.k, barred, pd.factorize(groups)[0])
    if not len(hits.rows):
        raise InputError(f"{index.folder} holds no other group than the query's own: --include-own shows its images")
    notes = _notes(index, frame, query, hits, options)
    table = _table(index, frame, hits)
    drawn = _draw(index, frame, query, table, hits, options.out)
    data = {"query": query.name, "notes": notes, "hits": _json_rows(table), "sheet": drawn}
    page = [f"cases similar to {query.name} in {index.folder}", *[f"  {note}" for note in notes], _aligned(table)]
    return Report("\n".join(page + ([f"contact sheet: {drawn}"] if drawn else [])), data)


def _indexed_query(index: SearchIndex, frame: pd.DataFrame, image_id: str) -> Query:
    rows = np.flatnonzero(frame["image_id"] == image_id)
    if not len(rows):
        raise InputError(f"{index.folder} has no image '{image_id}'; {_nearest_id(image_id, frame['image_id'])}")
    return Query(neighbours.index_features(index.entries, rows)[0], rows, image_id)


def _nearest_id(wanted: str, ids: pd.Series) -> str:
    """The tail of an error: ids that end like the wanted one, else the nearest in spelling."""
    stem = wanted.rsplit("/", 1)[-1]
    close = ids[ids.str.rsplit("/", n=1).str[-1] == stem].tolist() or difflib.get_close_matches(wanted, ids, 1)
    return f"did you mean '{close[0]}'?" if close else "its manifest.parquet lists them all"


def _photo_query(index: SearchIndex, frame: pd.DataFrame, options: SearchOptions) -> Query:
    photo = read_photo(Path(str(options.photo)), index.info["short_side"])
    same = (frame["sha256"] == photo.sha256) | (frame["pixel_sha256"] == photo.pixel_sha256)
    return Query(encode_photo(photo, index.info["encoder"]), np.flatnonzero(same), str(options.photo), photo)


def _own_rows(frame: pd.DataFrame, rows: np.ndarray, include_own: bool) -> np.ndarray:
    """Which rows may not be hits, ``(N,)`` bool: the query itself and, unless asked for, all of its group."""
    if include_own:
        return np.isin(np.arange(len(frame)), rows)
    return frame["group_id"].isin(frame["group_id"].iloc[rows]).to_numpy()


def _notes(index: SearchIndex, frame: pd.DataFrame, query: Query, hits: Hits, options: SearchOptions) -> list[str]:
    notes, recall = [], index.info["recall"]
    if query.photo is not None and len(query.rows):
        same = ", ".join(frame["image_id"].iloc[query.rows])
        left_out = "only that image is left out" if options.include_own else "its whole group is left out"
        notes.append(f"the photo is identical to {same} of this index: {left_out}")
    elif query.photo is None and not options.include_own:
        notes.append(f"other images of {frame['group_id'].iloc[query.rows[0]]} are left out (--include-own shows them)")
    if len(hits.rows) < options.k:
        unit = "images" if options.per_image else "groups"
        notes.append(f"k is {options.k}, but only {len(hits.rows)} other {unit} are there")
    if index.info["type"] != "flat":
        notes.append(f"approximate index: recall@{recall['k']} {recall['value']:.4f}, measured when it was made")
    if any(entry["synthetic"] for entry in index.info["datasets"]):
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


def _draw(
    index: SearchIndex, frame: pd.DataFrame, query: Query, table: pd.DataFrame, hits: Hits, out: str | None
) -> str | None:
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
    sheet.draw(Path(out), _query_tile(index, frame, query, labels), shown, index.licences)
    return out


def _query_tile(index: SearchIndex, frame: pd.DataFrame, query: Query, labels: list[str]) -> sheet.Tile:
    if query.photo is not None:
        return sheet.Tile(query.photo.image, ["query", Path(query.name).name])
    row = frame.iloc[query.rows[0]]
    image = sheet.stored_image(index.datasets[row["dataset"]], row["image_id"])
    return sheet.Tile(image, sheet.caption({**row, "rank": None, "similarity": None}, labels))
