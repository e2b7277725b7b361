"""Opens and checks a dataset folder, from which every later stage starts."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, PositiveInt, StrictBool

from dermssl import log
from dermssl.dataset.manifest import SCHEMA_VERSION, read_manifest, read_split_origin
from dermssl.dataset.store import ImageStore
from dermssl.dataset.targets import TARGETS, Target
from dermssl.errors import InputError
from dermssl.files import read_json, sha256_file
from dermssl.licences import Notice
from dermssl.paths import inside, require_file, require_folder

MAKER = "dermssl prepare"
Unit = Literal["patient", "case", "lesion", "image"]


class DatasetInfo(BaseModel):
    """The content of ``dataset.json``."""

    schema_version: int
    name: str
    source: str
    title: str
    synthetic: StrictBool
    licence: Notice
    group: Unit
    """The unit that splits, folds and the bootstrap keep together."""
    case: Unit
    """The unit that scores count once."""
    patient_key: StrictBool
    short_side: PositiveInt
    counts: dict[str, int]
    targets: dict[str, Target]
    overlaps: list[str]
    """Sources that share images or lesions with this one, see `dermssl.prepare.source.Source`."""
    split: str
    """The origin of the split: "official" (it came with the data), "none", or how it was drawn."""
    folds: str | None = None
    notes: list[str]
    """What the source concluded from names, see `dermssl.prepare.source.Rows`."""
    rows: str | None = None
    """`ImageStore.row_hash` of the folder as it was written."""


@dataclass(frozen=True)
class Dataset:
    """One dataset folder. Row ``i`` of ``table`` is image ``i`` of ``images``."""

    folder: Path
    info: dict[str, Any]
    table: pa.Table
    images: ImageStore
    fingerprint: str
    """SHA-256 of the manifest file when it was opened, which changes with any image, label or split."""

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def name(self) -> str:
        """The data set's name, the first part of every image_id."""
        return self.info["name"]

    @property
    def licence(self) -> dict[str, Any]:
        """Licence notice, see `dermssl.licences.notice`."""
        return self.info["licence"]

    @cached_property
    def targets(self) -> dict[str, Target]:
        """The targets by the names that ``--target`` takes."""
        return TARGETS.validate_python(self.info["targets"])

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each image_id."""
        return {image_id: row for row, image_id in enumerate(self.table["image_id"].to_pylist())}

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The manifest, or only some ``columns`` of it, in row order."""
        return (self.table if columns is None else self.table.select(list(columns))).to_pandas()

    def column(self, name: str) -> np.ndarray:
        """One manifest column ``(N,)``; text as objects, None where missing."""
        return self.table[name].to_numpy()  # pandas would give NaN for missing text


def open_dataset(folder: str | Path) -> Dataset:
    """Open a folder made by ``dermssl prepare``. Raises InputError if it is none or is damaged."""
    path = require_folder(Path(folder), "dataset.json", MAKER)
    info = read_json(inside(path, "dataset.json"), MAKER, DatasetInfo)
    if (version := info["schema_version"]) != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}, but this dermssl reads {SCHEMA_VERSION}: run `{MAKER}` again"
        )
    # Before the manifest is read: if `dermssl split` replaces it in between, later commands say that it was changed.
    fingerprint = sha256_file(require_file(inside(path, "manifest.parquet"), MAKER))
    table = read_manifest(path, MAKER)
    info |= read_split_origin(table)
    if "fold" not in table.column_names:  # a kill may leave the name of folds that are gone
        info.pop("folds", None)
    for name, target in info["targets"].items():
        if target["column"] not in table.column_names:
            raise InputError(
                f"{path}: the manifest has no column '{target['column']}' of target '{name}': run `{MAKER}` again"
            )
    images = ImageStore(path)
    if len(images) != (rows := table.num_rows):
        raise InputError(f"{path}: manifest has {rows} rows but the image store {len(images)}: run `{MAKER}` again")
    if info.get("rows") not in (None, images.row_hash(table["image_id"])):
        raise InputError(
            f"{path}: the rows of manifest.parquet are not those of images-*.arrow: put back the files as `{MAKER}` "
            f"wrote them, in the same order, or run `{MAKER}` again"
        )
    return Dataset(path, info, table, images, fingerprint)


def open_datasets(folders: Sequence[str]) -> list[Dataset]:
    """Open dataset folders to pool them. Warns if two of them share images or are known to.

    Raises InputError: a folder is unusable, or two data sets have the same name, so that their ids would clash.
    """
    datasets = [open_dataset(folder) for folder in folders]
    for one, other in itertools.combinations(datasets, 2):
        if one.name == other.name:
            both = f"{one.folder} and {other.folder} are both named '{one.name}'"
            raise InputError(f"{both}: prepare one of them again with another --name")
        if other.info["source"] in one.info["overlaps"] or one.info["source"] in other.info["overlaps"]:
            log.warning(
                f"warning: {one.folder} and {other.folder} are known to share images or lesions. Some may lie in train "
                "of one and in test of the other: audit them with `dermeval leaks`"
            )
        files, pixels = (
            pc.is_in(other.table[name], value_set=one.table[name]).to_numpy() for name in ("sha256", "pixel_sha256")
        )
        if shared := (files | pixels).sum():
            log.warning(
                f"warning: {shared} images of {other.folder} are in {one.folder} too ({files.sum()} the same file, "
                f"{(pixels & ~files).sum()} the same pixels in another file): training uses each image once, "
                "embeddings hold all"
            )
    return datasets
