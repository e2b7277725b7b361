"""An index folder: unit vectors, the codes that search them faster, manifest rows, and their provenance.

``vectors.npy`` (N, D; float32, unit length) is memory-mapped. ``index.faiss`` holds the codes; an exact index has none.
Row ``i`` of all of them is row ``i`` of ``manifest.parquet``.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel

from dermeval.features.embeddings import DatasetEntry, EmbeddedRows, EncoderEntry
from dermeval.retrieval.where import explain_empty, parse_where, passing_rows
from dermssl import licences, neighbours
from dermssl.errors import InputError
from dermssl.files import read_json, read_npy, read_parquet
from dermssl.licences import Notice
from dermssl.paths import inside, require_file, require_folder

MAKER = "dermeval index"
MARK = "index.json"
SCHEMA_VERSION = 2
"""2: ``vectors.npy`` beside the codes."""
NEEDED_COLUMNS = ("image_id", "dataset", "group_id", "case_id", "sha256", "pixel_sha256")
HASHED_BLOCKS, HASHED_BYTES = 256, 65_536


class Recall(BaseModel):
    """Measured recall@k by k, and with how many queries."""

    queries: int
    at: dict[str, float]


class IndexInfo(BaseModel):
    """What ``index.json`` must hold."""

    schema_version: Literal[2]
    type: neighbours.IndexType
    metric: Literal["cosine"]
    reason: str
    images: int
    short_side: int | None
    """Stored short side of the images in pixels, so that a query photo is shrunk alike; None: not known."""
    recall: Recall
    files: dict[str, str]
    sources: list[str]
    encoder: EncoderEntry
    datasets: list[DatasetEntry]
    licences: list[Notice]


@dataclass(frozen=True)
class SearchIndex(EmbeddedRows):
    """Row ``i`` of ``entries`` (cosine) is row ``i`` of the manifest."""

    entries: neighbours.Index

    @property
    def features(self) -> np.ndarray:
        """The unit vectors ``(N, D)``, under the name that embeddings have for theirs."""
        return self.entries.vectors

    @cached_property
    def notices(self) -> list[dict[str, Any]]:
        """Licence notices of the index and of the data folders as they are now: both must be kept."""
        return licences.merge([*self.licences, *(dataset.licence for dataset in self.datasets.values())])

    @cached_property
    def group_codes(self) -> np.ndarray:
        """The group of each row as an integer ``(N,)``."""
        return pd.factorize(self.frame["group_id"])[0]

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each image_id."""
        return {image_id: row for row, image_id in enumerate(self.frame["image_id"])}

    @cached_property
    def stored_rows(self) -> dict[str, dict[str, int]]:
        """For each data set within reach, the row of its image store that holds each image_id."""
        return {
            name: {image_id: row for row, image_id in enumerate(dataset.column("image_id"))}
            for name, dataset in self.datasets.items()
        }

    @cached_property
    def labels(self) -> list[str]:
        """The manifest columns that hold targets."""
        return list(dict.fromkeys(target.column for target in self.targets.values()))

    @property
    def title(self) -> str:
        """What a page of cases is called."""
        return "Similar cases in " + ", ".join(entry["name"] for entry in self.info["datasets"])

    @cached_property
    def columns(self) -> pa.Table:
        """The manifest that filters ask: labels and splits as the dataset folders hold them now."""
        return pa.Table.from_pandas(self.frame.drop(columns="phash", errors="ignore"), preserve_index=False)

    def passing(self, where: str | None) -> np.ndarray | None:
        """The rows that pass a filter, ``(N,)`` bool, or None for all; raises InputError where none does."""
        if not where or not where.strip():
            return None
        parsed = parse_where(where)
        passed = passing_rows(parsed, self.columns)
        if not passed.any():
            raise InputError(explain_empty(parsed, self.columns))
        return passed


def open_index(folder: str | Path) -> SearchIndex:
    """Open a folder made by ``dermeval index``; raises InputError where it is not one, is damaged, or was altered."""
    path = require_folder(Path(folder), MARK, MAKER)
    info = read_json(inside(path, MARK), MAKER, IndexInfo)
    table = read_parquet(inside(path, "manifest.parquet"), MAKER, NEEDED_COLUMNS)
    vectors = read_npy(inside(path, "vectors.npy"), MAKER, dimensions=2)
    if vectors.dtype != np.float32 or vectors.shape != (table.num_rows, info["encoder"]["dim"]):
        raise InputError(
            f"{path}: vectors.npy is {vectors.dtype} {vectors.shape} for {table.num_rows} rows of the manifest and "
            f"{info['encoder']['dim']} dimensions: make it again with `{MAKER}`"
        )
    coded = "index.faiss" in info["files"]
    for name in ("vectors.npy", "index.faiss") if coded else ("vectors.npy",):
        if fingerprint(require_file(inside(path, name), MAKER)) != info["files"].get(name):
            raise InputError(f"{path / name} is damaged or of another index: make it again with `{MAKER}`")
    codes = neighbours.read_codes(path / "index.faiss", MAKER, vectors) if coded else None
    return SearchIndex(path, info, table, neighbours.Index(vectors, codes))


def recall_line(info: dict[str, Any]) -> str:
    """How exact the index is, in one line."""
    if "index.faiss" not in info["files"]:
        return "exact search (recall 1)"
    shown = ", ".join(f"recall@{depth} {value:.4f}" for depth, value in info["recall"]["at"].items())
    return f"{shown} against exact search, measured with {info['recall']['queries']} of its images"


def fingerprint(path: Path) -> str:
    """Hex SHA-256 of a file's size and of at most 256 blocks of 64 KiB spread over it: quick for files of any size."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for start in np.unique(np.linspace(0, max(0, size - HASHED_BYTES), HASHED_BLOCKS, dtype=np.int64)):
            stream.seek(int(start))
            digest.update(stream.read(HASHED_BYTES))
    return digest.hexdigest()
