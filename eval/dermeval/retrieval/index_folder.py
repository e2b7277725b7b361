"""An index folder: unit vectors, the codes that search them faster, manifest rows, and their provenance.

``vectors.npy`` (N, D; float32, unit length) is memory-mapped. ``index.faiss`` holds the codes; an exact index has none.
Row ``i`` of all of them is row ``i`` of ``manifest.parquet``.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel

from dermeval.features.embeddings import EmbeddedRows
from dermeval.retrieval.where import Where, explain_empty, passing_rows
from dermssl import licences, neighbours
from dermssl.errors import InputError
from dermssl.files import read_json, read_npy, read_parquet
from dermssl.licences import Notice
from dermssl.paths import require_folder

MAKER = "dermeval index"
MARK = "index.json"
SCHEMA_VERSION = 2
"""2: ``vectors.npy`` beside the codes."""
NEEDED_COLUMNS = ("image_id", "dataset", "group_id", "case_id", "sha256", "pixel_sha256")
HASHED_BLOCKS, HASHED_BYTES = 256, 65_536


class Provenance(BaseModel):
    """What is recorded of a data set."""

    name: str
    path: str
    fingerprint: str
    synthetic: bool
    targets: dict[str, dict[str, Any]]


class EncoderRecord(BaseModel):
    """What is recorded of the encoder."""

    path: str
    fingerprint: str
    dim: int
    preprocessing: dict[str, Any]


class Recall(BaseModel):
    """Measured recall@k by k, and with how many queries."""

    queries: int
    at: dict[str, float]


class IndexInfo(BaseModel):
    """What ``index.json`` must hold."""

    schema_version: int
    type: neighbours.IndexType
    metric: str
    reason: str
    images: int
    short_side: int | None
    recall: Recall
    files: dict[str, str]
    sources: list[str]
    encoder: EncoderRecord
    datasets: list[Provenance]
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
    def columns(self) -> pa.Table:
        """The manifest as `where` filters it: labels and splits as the dataset folders hold them now."""
        return pa.Table.from_pandas(self.frame.drop(columns="phash", errors="ignore"), preserve_index=False)

    def passing(self, where: Where | None) -> np.ndarray | None:
        """The rows that pass a filter, ``(N,)`` bool, or None for all; raises InputError where none does."""
        if where is None:
            return None
        passed = passing_rows(where, self.columns)
        if not passed.any():
            raise InputError(explain_empty(where, self.columns))
        return passed


def open_index(folder: str | Path) -> SearchIndex:
    """Open a folder made by ``dermeval index``; raises InputError where it is not one, is damaged, or was altered."""
    path = require_folder(Path(folder), MARK, MAKER)
    info = read_json(path / MARK, MAKER)
    if info.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path} was made by another version of dermeval: make it again with `{MAKER}`")
    read_json(path / MARK, MAKER, IndexInfo)
    table = read_parquet(path / "manifest.parquet", MAKER, NEEDED_COLUMNS)
    vectors = read_npy(path / "vectors.npy", MAKER, dimensions=2)
    if vectors.dtype != np.float32 or vectors.shape != (table.num_rows, info["encoder"]["dim"]):
        raise InputError(
            f"{path}: vectors.npy is {vectors.dtype} {vectors.shape} for {table.num_rows} rows of the manifest and "
            f"{info['encoder']['dim']} dimensions: make it again with `{MAKER}`"
        )
    if info["metric"] != "cosine":
        raise InputError(f"{path}: metric {info['metric']}, cosine is needed: make it again with `{MAKER}`")
    _check_fingerprints(path, info["files"])
    coded = "index.faiss" in info["files"]
    codes = neighbours.read_codes(path / "index.faiss", MAKER, vectors) if coded else None
    return SearchIndex(path, info, table, neighbours.Index(vectors, codes))


def _check_fingerprints(path: Path, recorded: dict[str, str]) -> None:
    for name in ("vectors.npy", *(["index.faiss"] if "index.faiss" in recorded else [])):
        if not (path / name).is_file():
            raise InputError(f"{path / name} does not exist: make it with `{MAKER}`")
        if fingerprint(path / name) != recorded.get(name):
            raise InputError(f"{path / name} is damaged or of another index: make it again with `{MAKER}`")


def fingerprint(path: Path) -> str:
    """Hex SHA-256 of a file's size and of at most 256 blocks of 64 KiB spread over it: quick for files of any size."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for start in np.unique(np.linspace(0, max(0, size - HASHED_BYTES), HASHED_BLOCKS, dtype=np.int64)):
            stream.seek(int(start))
            digest.update(stream.read(HASHED_BYTES))
    return digest.hexdigest()


def write_vectors(path: Path, parts: Sequence[EmbeddedRows]) -> np.ndarray:
    """Write the unit vectors of all parts to one file, a block at a time, and return it memory-mapped."""
    shape = (sum(map(len, parts)), parts[0].encoder["dim"])
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    row = 0
    for part in parts:
        for start in range(0, len(part), neighbours.BLOCK_ROWS):
            block = np.asarray(part.features[start : start + neighbours.BLOCK_ROWS])  # type: ignore[attr-defined]
            # Vectors of an index have unit length; to scale them again would change their last bits.
            vectors[row : row + len(block)] = block if isinstance(part, SearchIndex) else neighbours.normalise(block)
            row += len(block)
    vectors.flush()
    return vectors
