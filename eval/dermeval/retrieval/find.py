"""A query and the cases that a search finds for it: used by `dermeval search`, the browser and the API."""

import difflib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermeval.features.embeddings import open_embeddings, refuse_mixed
from dermeval.retrieval.index_folder import SearchIndex, recall_line
from dermeval.retrieval.photo import Photo
from dermssl import neighbours
from dermssl.errors import InputError

SHOWN_COLUMNS = ("fitzpatrick", "tone_group", "sex", "age", "country", "body_site", "split")


@dataclass(frozen=True)
class ImageQuery:
    """What is searched for: its feature ``(D,)``, its own rows of the index (none for a new photo), and its name."""

    feature: np.ndarray
    rows: np.ndarray
    name: str
    photo: Photo | None = None


@dataclass(frozen=True)
class FoundCases:
    """Rows of the index ``(K,)``, a table with one line per hit, and sentences to read with it."""

    rows: np.ndarray
    table: pd.DataFrame
    notes: list[str]


def find(
    index: SearchIndex,
    query: ImageQuery,
    k: int,
    include_own: bool = False,
    per_image: bool = False,
    allowed: np.ndarray | None = None,
    min_similarity: float | None = None,
) -> FoundCases:
    """The ``k`` cases most similar to the query, best first.

    Args:
        index: where to search.
        query: what to search for.
        k: number of cases.
        include_own: also find other images of the query's own group.
        per_image: find every image; otherwise those of one group collapse to the best.
        allowed: ``(N,)`` bool, the rows that pass a filter (None: all).
        min_similarity: lowest cosine of a hit.

    Raises:
        InputError: the index holds nothing but the query's own group.
    """
    own = query.rows
    if not include_own and len(own):
        own = np.flatnonzero(np.isin(index.group_codes, index.group_codes[own]))
    rows, similarity = _nearest(index, query, k, own, per_image, allowed)
    notes = _notes(index, query, include_own)
    if not len(rows) and allowed is None:
        raise InputError(f"{index.folder} holds no other group than the query's own: --include-own shows its images")
    if len(rows) < k:
        notes.append(f"k is {k}, but only {len(rows)} other {'images' if per_image else 'groups'} are there")
    if min_similarity is not None:
        close = similarity >= min_similarity
        notes.append(f"{int(close.sum())} of the {len(close)} nearest are at least {min_similarity:g} similar")
        rows, similarity = rows[close], similarity[close]
    return FoundCases(rows, _table(index, rows, similarity), notes)


def _nearest(
    index: SearchIndex, query: ImageQuery, k: int, own: np.ndarray, per_image: bool, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cosines ``(K,)`` of the best image of each of the ``k`` nearest groups, without the rows ``own``.

    More and more images are fetched until they belong to ``k`` groups, or there are no more.
    """
    fetch = 2 * k + len(own)
    while True:
        similarity, rows = (
            found[0] for found in neighbours.search_index(index.entries, query.feature[None], fetch, allowed)
        )
        others = ~np.isin(rows, own)
        hits, close = rows[others], similarity[others]
        groups = np.arange(len(hits)) if per_image else index.group_codes[hits]
        first = np.sort(np.unique(groups, return_index=True)[1])[:k]
        if len(first) >= k or len(rows) < fetch:
            return hits[first], close[first]
        fetch *= 4


def indexed_query(index: SearchIndex, image_id: str) -> ImageQuery:
    """An image of the index as the query; raises InputError where there is none of that id."""
    row = index.row_of.get(image_id)
    if row is None:
        raise InputError(f"{index.folder} has no image '{image_id}'; {_nearest_id(image_id, index.frame['image_id'])}")
    return ImageQuery(np.array(index.entries.vectors[row]), np.array([row]), image_id)


def _nearest_id(wanted: str, ids: pd.Series) -> str:
    """The tail of an error: ids that end like the wanted one, else the nearest in spelling."""
    stem = wanted.rsplit("/", 1)[-1]
    close = ids[ids.str.rsplit("/", n=1).str[-1] == stem].tolist()
    close = close or difflib.get_close_matches(wanted, ids.iloc[:20_000], 1)
    return f"did you mean '{close[0]}'?" if close else "its manifest.parquet lists them all"


def photo_query(index: SearchIndex, photo: Photo, feature: np.ndarray, name: str) -> ImageQuery:
    """A photo as the query; images of the index that are identical to it count as its own rows."""
    frame = index.frame
    same = (frame["sha256"] == photo.sha256) | (frame["pixel_sha256"] == photo.pixel_sha256)
    return ImageQuery(feature, np.flatnonzero(same), name, photo)


def embedded_queries(index: SearchIndex, folder: str) -> list[ImageQuery]:
    """Every image of an embeddings folder as a query; images of the same file, pixels or group count as its own.

    Raises:
        InputError: another encoder made the embeddings.
    """
    embeddings = open_embeddings(folder)
    refuse_mixed([index, embeddings], "search with embeddings of the index's encoder")
    own = {name: index.frame.groupby(name).indices for name in ("sha256", "pixel_sha256", "group_id")}
    queries = []
    for row, entry in enumerate(embeddings.frame.to_dict("records")):
        same = [own[name].get(entry[name], np.zeros(0, np.int64)) for name in own]
        feature = np.asarray(embeddings.features[row], np.float32)
        queries.append(ImageQuery(feature, np.unique(np.concatenate(same)), entry["image_id"]))
    return queries


def _notes(index: SearchIndex, query: ImageQuery, include_own: bool) -> list[str]:
    notes, frame = [], index.frame
    if query.photo is not None and len(query.rows):
        same = ", ".join(frame["image_id"].iloc[query.rows])
        left_out = "only that image is left out" if include_own else "its whole group is left out"
        notes.append(f"the photo is identical to {same} of this index: {left_out}")
    elif len(query.rows) and not include_own:
        notes.append(f"other images of {frame['group_id'].iloc[query.rows[0]]} are left out")
    if index.entries.codes is not None:
        notes.append(f"approximate index: {recall_line(index.info)}")
    if index.synthetic:
        notes.append("SYNTHETIC data: these are no real cases")
    return notes


def _table(index: SearchIndex, rows: np.ndarray, similarity: np.ndarray) -> pd.DataFrame:
    """One line per hit, best first: rank, similarity, ids, the targets' labels, what is known of the patient, split."""
    columns = dict.fromkeys(["image_id", "dataset", *index.labels, *SHOWN_COLUMNS])
    table = index.frame.iloc[rows].reindex(columns=list(columns)).reset_index(drop=True)
    table["body_site"] = [
        ", ".join(site) if isinstance(site, (list, np.ndarray)) else None for site in table["body_site"]
    ]
    table.insert(0, "rank", range(1, len(table) + 1))
    table.insert(1, "similarity", similarity)
    return table
