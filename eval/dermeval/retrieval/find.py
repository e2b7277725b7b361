"""A query and the cases found for it, for `dermeval search`, the browser and the API."""

import difflib
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from dermeval.features.embeddings import open_embeddings, refuse_mixed
from dermeval.features.options import HASH_BITS
from dermeval.retrieval.index_folder import SearchIndex, has_codes, recall_line
from dermeval.retrieval.photo import Photo
from dermssl.dataset.hashes import perceptual_hashes
from dermssl.errors import InputError, counted
from dermssl.neighbours import near_images

RECORD_COLUMNS = ("dataset", "case_id", "group_id")
SHOWN_COLUMNS = ("fitzpatrick", "tone_group", "sex", "age", "country", "body_site", "split")


class NothingElse(InputError):
    """The index holds nothing but the query's own group."""


@dataclass(frozen=True)
class ImageQuery:
    """A query: its feature ``(D,)``, its own records in the index (none for a new photo), and its name."""

    feature: np.ndarray
    own: list[dict[str, Any]]
    name: str
    photo: Photo | None = None


@dataclass(frozen=True)
class FoundCases:
    """Manifest rows of the hits, most similar first, each with its ``similarity``; notes; and the columns of labels."""

    query: ImageQuery
    hits: list[dict[str, Any]]
    notes: list[str]
    labels: list[str]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per hit: rank, similarity, ids, labels, attributes of the patient, split."""
        columns = dict.fromkeys(["similarity", "image_id", *RECORD_COLUMNS, *self.labels, *SHOWN_COLUMNS])
        table = pd.DataFrame(self.hits, columns=list(columns))
        table["body_site"] = [", ".join(site) if isinstance(site, list) else None for site in table["body_site"]]
        table.insert(0, "rank", range(1, len(table) + 1))
        return table


def find(
    index: SearchIndex,
    query: ImageQuery,
    k: int,
    include_own: bool = False,
    per_image: bool = False,
    passing: Any = None,
    min_similarity: float | None = None,
) -> FoundCases:
    """The ``k`` cases most similar to the query, among the images that ``passing`` (`SearchIndex.passing`) allows.

    ``include_own`` also finds other images of the query's own group. ``per_image`` finds every image; otherwise only
    the most similar image of each group. ``min_similarity`` is the lowest cosine of a hit. Raises NothingElse if the
    index holds nothing but the query's own group.
    """
    column = "image_id" if include_own else "group_id"
    own = list(dict.fromkeys(record[column] for record in query.own))
    fetch = 2 * k
    while True:  # fetch more images until they belong to k groups
        nearest = index.nearest(query.feature, fetch, passing, column, own)
        first: dict[str, dict[str, Any]] = {}
        for record in nearest:
            first.setdefault(record["image_id" if per_image else "group_id"], record)
        hits = list(first.values())[:k]
        if len(hits) == k or len(nearest) < fetch:
            break
        fetch *= 4
    notes = _notes(index, query, include_own) + _copies(index, query, hits)
    if not hits and passing is None:
        raise NothingElse(f"{index.folder} holds no other group than the query's own: --include-own shows its images")
    if len(hits) < k:
        what = ["other image"] if per_image else ["other patient (or lesion)", "other patients (or lesions)"]
        notes.append(f"k is {k}, but only {counted(len(hits), *what)} can be found")
    if min_similarity is not None:
        close = [hit for hit in hits if hit["similarity"] >= min_similarity]
        notes.append(f"{len(close)} of {len(hits)} have a similarity of at least {min_similarity:g}")
        hits = close
    return FoundCases(query, hits, notes, index.labels)


def _copies(index: SearchIndex, query: ImageQuery, hits: list[dict[str, Any]]) -> list[str]:
    """A note on hits that may be copies of the photo: saved again, resized, flipped or turned."""
    if query.photo is None or not hits:
        return []
    hashes = index.phashes([hit["image_id"] for hit in hits])
    known = np.array(list(map(list, hashes.values())), np.uint64)
    _, rows, _, _ = near_images(perceptual_hashes(query.photo.image)[None], known, HASH_BITS)
    same = ", ".join(list(hashes)[row] for row in np.unique(rows))
    return [f"may be the same photo, since the perceptual hashes are near: {same}"] if same else []


def indexed_query(index: SearchIndex, image_id: str) -> ImageQuery:
    """An image of the index as the query; images with its pixels count as its own. InputError if there is no such."""
    own = index.lookup("image_id", [image_id])
    if not own:
        known, stem = index.table["image_id"], image_id.rsplit("/", 1)[-1]
        close = known.filter(pc.ends_with(known, f"/{stem}")).slice(0, 1).to_pylist()  # a file's name for the full id
        close = close or difflib.get_close_matches(image_id, known.slice(0, 20_000).to_pylist(), 1)
        hint = f"did you mean '{close[0]}'?" if close else "its manifest lists them all"
        raise InputError(f"{index.folder} has no image '{image_id}'; {hint}")
    same = index.lookup("pixel_sha256", [own[0]["pixel_sha256"]])
    return ImageQuery(index.vector(image_id), own + [one for one in same if one["image_id"] != image_id], image_id)


def photo_query(index: SearchIndex, photo: Photo, feature: np.ndarray, name: str) -> ImageQuery:
    """A photo as the query. Images of the index with the same file or pixels count as its own."""
    same = index.lookup("sha256", [photo.sha256]) + index.lookup("pixel_sha256", [photo.pixel_sha256])
    return ImageQuery(feature, list({record["image_id"]: record for record in same}.values()), name, photo)


def embedded_queries(index: SearchIndex, folder: str, include_own: bool = False) -> list[ImageQuery]:
    """Every image of an embeddings folder as a query. Images with the same file, pixels or group count as its own.

    With ``include_own`` those of its group do not. Raises InputError if another encoder made the embeddings.
    """
    embeddings = open_embeddings(folder)
    refuse_mixed([index, embeddings], "search with embeddings of the index's encoder")
    columns = ["sha256", "pixel_sha256", *([] if include_own else ["group_id"])]
    known = defaultdict[tuple[str, str], list[dict[str, Any]]](list)
    for name in columns:
        for record in index.lookup(name, embeddings.frame[name].unique().tolist()):
            known[name, record[name]].append(record)
    return [
        ImageQuery(
            np.asarray(embeddings.features[row], np.float32),
            [record for name in columns for record in known[name, entry[name]]],
            entry["image_id"],
        )
        for row, entry in enumerate(embeddings.frame.to_dict("records"))
    ]


def _notes(index: SearchIndex, query: ImageQuery, include_own: bool) -> list[str]:
    notes = []
    if query.photo is not None and query.own:
        same = ", ".join(record["image_id"] for record in query.own)
        left_out = "that image is left out" if include_own else "the images of that patient (or lesion) are left out"
        notes.append(f"the photo is {same} itself: {left_out}")
    elif query.own and not include_own:
        notes.append(f"other images of {query.own[0]['group_id']} are left out")
    if has_codes(index.info):
        notes.append(f"approximate index: {recall_line(index.info)}")
    if index.synthetic:
        notes.append("SYNTHETIC data: these are no real cases")
    return notes
