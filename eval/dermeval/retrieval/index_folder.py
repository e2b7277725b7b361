"""An index folder: unit vectors, codes for a faster search, manifest rows, and their provenance.

``vectors.npy`` (N, D; float32, unit length) is memory-mapped. ``index.faiss`` holds the codes; an exact index has none.
Row ``i`` of both is row ``i`` of ``manifest.parquet``. An index of the type ``lance`` has one table instead.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from dermeval.features.embeddings import DatasetEntry, EmbeddedRows, EncoderEntry
from dermeval.retrieval.where import parse_where, passing_rows
from dermssl import neighbours
from dermssl.dataset.manifest import read_manifest
from dermssl.errors import InputError
from dermssl.files import read_json, read_npy
from dermssl.licences import Notice
from dermssl.paths import inside, require_file, require_folder

MAKER = "dermeval index"
MARK = "index.json"
HASHED_BLOCKS, HASHED_BYTES = 256, 65_536


class Recall(BaseModel):
    """Measured recall@k for each k, and the number of queries."""

    queries: int
    at: dict[str, float]


class IndexInfo(BaseModel):
    """The content of ``index.json``."""

    schema_version: Literal[2]
    type: Literal["flat", "scan", "ivfpq", "hnsw", "lance"]
    metric: Literal["cosine"]
    reason: str
    images: int
    short_side: int | None
    """Stored short side of the images in pixels, to which a query photo is shrunk too; None: not known."""
    recall: Recall
    files: dict[str, str]
    sources: list[str]
    encoder: EncoderEntry
    datasets: list[DatasetEntry]
    licences: list[Notice]


@dataclass(frozen=True)
class SearchIndex(EmbeddedRows):
    """An open index: row ``i`` of ``entries`` (cosine) is row ``i`` of the manifest."""

    entries: neighbours.Index

    @property
    def features(self) -> np.ndarray:
        """The unit vectors ``(N, D)``, by the name that embeddings folders use."""
        return self.entries.vectors

    @cached_property
    def groups(self) -> tuple[np.ndarray, dict[str, int]]:
        """The group of each row as an integer ``(N,)``, and the integer of each group."""
        codes, names = pd.factorize(self.frame["group_id"])
        return codes, {name: code for code, name in enumerate(names)}

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each image_id."""
        return {image_id: row for row, image_id in enumerate(self.frame["image_id"])}

    @cached_property
    def labels(self) -> list[str]:
        """The manifest columns that hold targets."""
        return list(dict.fromkeys(target.column for target in self.targets.values()))

    @property
    def title(self) -> str:
        """The title of pages of this index."""
        return "Similar cases in " + ", ".join(entry["name"] for entry in self.info["datasets"])

    @cached_property
    def columns(self) -> pa.Table:
        """The manifest for filters and hits, with the present labels and splits of the dataset folders."""
        return pa.Table.from_pandas(self.frame.drop(columns="phash"), preserve_index=False).combine_chunks()

    def mask(self, where: str | None) -> np.ndarray | None:
        """The rows that pass a filter, ``(N,)`` bool; None without a filter; InputError if no row passes."""
        return None if where is None else passing_rows(parse_where(where), self.columns)

    def passing(self, where: str | None) -> Any:
        """The filter in the form that `nearest` takes, checked as in `mask`."""
        return self.mask(where)

    def records(self, rows: np.ndarray | Sequence[int]) -> list[dict[str, Any]]:
        """Some rows of the manifest as dictionaries."""
        return self.columns.take(pa.array(rows, pa.int64())).to_pylist()

    def lookup(self, column: str, values: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of the manifest with one of the ``values`` in a column, as dictionaries."""
        if column == "image_id":
            return self.records([self.row_of[value] for value in values if value in self.row_of])
        return self.records(np.flatnonzero(pc.is_in(self.columns[column], value_set=pa.array(values))))

    def phashes(self, image_ids: Sequence[str]) -> dict[str, list[int]]:
        """The eight perceptual hashes of some images, by image_id."""
        return {image_id: self.frame["phash"].iat[self.row_of[image_id]] for image_id in image_ids}

    def vector(self, image_id: str) -> np.ndarray:
        """The unit vector ``(D,)`` of an image."""
        return np.array(self.entries.vectors[self.row_of[image_id]])

    def nearest(
        self, feature: np.ndarray, k: int, passing: Any, column: str, left_out: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The manifest rows of the ``k`` images most similar to ``feature`` ``(D,)``, each with its ``similarity``.

        Only images that pass the filter (from `passing`) are found, and none whose ``column`` (``image_id`` or
        ``group_id``) is in ``left_out``. There are fewer than ``k`` only if fewer exist.
        """
        own = np.array([self.row_of[value] for value in left_out] if column == "image_id" else [], np.int64)
        if column == "group_id" and len(left_out):
            own = np.flatnonzero(np.isin(self.groups[0], [self.groups[1][value] for value in left_out]))
        found = neighbours.search_index(self.entries, feature[None], k + len(own), passing)
        similarity, rows = (part[0][~np.isin(found[1][0], own)][:k] for part in found)
        if (rows < 0).any() or not np.isfinite(similarity).all():
            raise InputError(f"{self.folder}: vectors.npy holds NaN or infinity: make the index again with `{MAKER}`")
        pairs = zip(self.records(rows), similarity.tolist(), strict=True)
        return [record | {"similarity": value} for record, value in pairs]


def is_address(name: str | Path) -> bool:
    """Whether the name of an index is an address in an object store."""
    return "://" in str(name)


def open_index(folder: str | Path) -> SearchIndex:
    """Open an index of ``dermeval index``; raises InputError if it is no index, is damaged, or was changed."""
    if is_address(folder):
        from dermeval.retrieval.object_store import StoredIndex  # lancedb is an extra

        return StoredIndex(str(folder).rstrip("/"))
    path = require_folder(Path(folder), MARK, MAKER)
    info = read_json(inside(path, MARK), MAKER, IndexInfo)
    needed = ["vectors.npy", "manifest.parquet", *["index.faiss"] * has_codes(info)]
    for name in needed if info["type"] != "lance" else ():
        if name not in info["files"]:
            raise InputError(f"{path / MARK}: files lacks {name}: make it again with `{MAKER}`")
    for name, recorded in info["files"].items():
        if fingerprint(require_file(inside(path, name), MAKER)) != recorded:
            raise InputError(f"{path / name} is damaged or of another index: make it again with `{MAKER}`")
    if info["type"] == "lance":
        from dermeval.retrieval.lance import open_table_in

        return open_table_in(path, info)
    table = read_manifest(path, MAKER)
    foreign = set(table["dataset"].unique().to_pylist()) - {entry["name"] for entry in info["datasets"]}
    if foreign:
        raise InputError(
            f"{path / 'manifest.parquet'}: dataset holds {foreign.pop()!r}, which {MARK} does not list: make it again "
            f"with `{MAKER}`"
        )
    vectors = read_npy(inside(path, "vectors.npy"), MAKER, dimensions=2)
    if vectors.dtype != np.float32 or vectors.shape != (table.num_rows, info["encoder"]["dim"]):
        raise InputError(
            f"{path}: vectors.npy is {vectors.dtype} {vectors.shape} for {table.num_rows} rows of the manifest and "
            f"{info['encoder']['dim']} dimensions: make it again with `{MAKER}`"
        )
    codes = neighbours.read_codes(inside(path, "index.faiss"), MAKER, vectors) if has_codes(info) else None
    return SearchIndex(path, info, table, neighbours.Index(vectors, codes))


def has_codes(info: dict[str, Any]) -> bool:
    """Whether a search compares codes first. A small index has no codes."""
    return info["type"] != "flat" and info["images"] >= neighbours.LEAST_CODED_ROWS


def recall_line(info: dict[str, Any]) -> str:
    """The measured recall of the index, in one line."""
    if not has_codes(info):
        return "exact search (recall 1)"
    shown = ", ".join(f"recall@{depth} {value:.4f}" for depth, value in info["recall"]["at"].items())
    return f"{shown} against exact search, measured with {info['recall']['queries']} of its images as queries"


def fingerprint(path: Path) -> str:
    """Hex SHA-256 of a file's size and of at most 256 blocks of 64 KiB spread over it, fast for files of any size."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for start in np.unique(np.linspace(0, max(0, size - HASHED_BYTES), HASHED_BLOCKS, dtype=np.int64)):
            stream.seek(int(start))
            digest.update(stream.read(HASHED_BYTES))
    return digest.hexdigest()
