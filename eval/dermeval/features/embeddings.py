"""Writes and opens an embeddings folder: features, the manifest rows that they belong to, and their origin."""

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, Field, PositiveInt, StrictBool

from dermeval.features.options import View
from dermssl import licences
from dermssl.atomic import atomic_folder
from dermssl.dataset.dataset import Dataset, open_dataset
from dermssl.dataset.manifest import FIXED, read_manifest, to_table
from dermssl.dataset.targets import TARGETS, Target
from dermssl.errors import InputError, counted
from dermssl.files import read_json, read_npy, require_unchanged, sha256_file, write_json, write_npy, write_parquet
from dermssl.licences import Notice
from dermssl.neighbours import BLOCK_ROWS
from dermssl.paths import inside, require_folder

MAKER = "dermeval embed"
INFO = "embedding.json"
WRITTEN = (INFO, "manifest.parquet", "features.npy", *(f"features.{view}.npy" for view in get_args(View)))
log = logging.getLogger("dermssl")


class EncoderEntry(BaseModel):
    """The record of the encoder in ``embedding.json``."""

    path: str
    fingerprint: str
    preprocessing: dict[str, Any]
    dim: PositiveInt
    features: str = "cls"
    licences: list[Notice] = []
    training: dict[str, Any] = {}


class DatasetEntry(BaseModel):
    """The record of one data set in ``embedding.json``, as it was when it was embedded."""

    name: str
    path: str
    fingerprint: str
    synthetic: StrictBool
    group: str
    case: str
    patient_key: StrictBool
    targets: dict[str, Target]


class EmbeddingInfo(BaseModel):
    """The content of ``embedding.json``. ``sha256`` has the hash of the manifest and each array by file name."""

    encoder: EncoderEntry
    dtype: Literal["float32", "float16"]
    views: list[Annotated[str, Field(pattern=r"^[a-z0-9]+$")]]
    datasets: Annotated[list[DatasetEntry], Field(min_length=1)]
    licences: list[Notice]
    sha256: dict[str, str]


@dataclass(frozen=True)
class EmbeddedRows:
    """The manifest rows of an embeddings folder, or of an index of such folders, and their origin."""

    folder: Path
    info: dict[str, Any]
    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def blocks(self) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Manifest rows and their features, block by block."""
        for start in range(0, len(self), BLOCK_ROWS):
            yield self.table.slice(start, BLOCK_ROWS), self.features[start : start + BLOCK_ROWS]  # type: ignore[attr-defined]

    @property
    def encoder(self) -> dict[str, Any]:
        """The record of the encoder, see `EncoderEntry`."""
        return self.info["encoder"]

    @functools.cached_property
    def notices(self) -> list[dict[str, Any]]:
        """The recorded licence notices, of data and encoder, and those of the present dataset folders; all apply."""
        return licences.merge([*self.info["licences"], *(dataset.licence for dataset in self.datasets.values())])

    @property
    def present_datasets(self) -> list[dict[str, Any]]:
        """The records of the data sets (`DatasetEntry`) as their folders are now, else as they were when embedded."""
        recorded = {entry["name"]: entry for entry in self.info["datasets"]}
        return list((recorded | {name: dataset_entry(dataset) for name, dataset in self.datasets.items()}).values())

    @property
    def synthetic(self) -> bool:
        """Whether any of the embedded data is synthetic."""
        return any(entry["synthetic"] for entry in self.info["datasets"])

    @functools.cached_property
    def datasets(self) -> dict[str, Dataset]:
        """The dataset folders of the rows by name, without those that cannot be opened now."""
        found = {}
        for entry in self.info["datasets"]:
            try:
                dataset = open_dataset(entry["path"])
            except InputError as error:
                gone = f"{entry['path']} is out of reach" + (f" ({error})" if Path(entry["path"]).exists() else "")
                log.warning("warning: %s: the embedding's labels and splits are used", gone)
                continue
            if dataset.fingerprint != entry["fingerprint"]:
                log.warning("warning: %s was changed after it was embedded: its present labels are used", entry["path"])
            found[entry["name"]] = dataset
        return found

    def stored_jpeg(self, dataset: str, image_id: str) -> bytes | None:
        """The stored JPEG of an image; None if its data set is out of reach or no longer holds it."""
        row = self.datasets[dataset].rows.get(image_id) if dataset in self.datasets else None
        return None if row is None else bytes(self.datasets[dataset].images.jpeg(row))

    def require_pictures(self) -> None:
        """Raise InputError if a dataset folder is out of reach."""
        lost = sorted({entry["name"] for entry in self.info["datasets"]} - set(self.datasets))
        if lost:
            raise InputError(f"{self.folder}: the images of {', '.join(lost)} are out of reach: put them back")

    @functools.cached_property
    def targets_by_dataset(self) -> dict[str, dict[str, Target]]:
        """The targets of each data set as its folder declares them now, or else as they were when embedded."""
        return self.recorded_targets | {name: dataset.targets for name, dataset in self.datasets.items()}

    @property
    def recorded_targets(self) -> dict[str, dict[str, Target]]:
        """The targets of each data set as they were when embedded."""
        return {entry["name"]: TARGETS.validate_python(entry["targets"]) for entry in self.info["datasets"]}

    @functools.cached_property
    def targets(self) -> dict[str, Target]:
        """The targets of all data sets, the first data set's first; of several with one name, the first."""
        return functools.reduce(lambda found, declared: found | declared | found, self.targets_by_dataset.values(), {})

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """The manifest in row order, with splits and labels as the dataset folders hold them now.

        Raises InputError: all images were removed, or a dataset folder lacks an image or has other pixels for it.
        """
        if not len(self):
            raise InputError(f"{self.folder}: no images left, all were removed: make it again with other images")
        frame = self.table.to_pandas()
        recorded = {entry["name"]: entry["fingerprint"] for entry in self.info["datasets"]}
        parts = []
        for name, rows in frame.groupby("dataset", sort=False):
            if name in self.datasets:
                dataset = self.datasets[name]
                require_same_images(self.folder, dataset, rows)
                live = dataset.frame().set_index("image_id")
                now = live.loc[rows["image_id"]].reset_index().set_index(rows.index)
                if len(live) > len(rows) and dataset.fingerprint != recorded[name]:
                    new, again = counted(len(live) - len(rows), "image"), f"run `{MAKER}` again to use them"
                    log.warning("warning: %s of %s not in %s: %s", new, dataset.folder, self.folder, again)
                rows = now
            parts.append(rows)
        both = pd.concat(parts).loc[frame.index]
        for name in set(both) - set(FIXED.names):
            # The data sets hold different types in this column, which `pooled_rows` made text.
            if pd.api.types.infer_dtype(both[name]).startswith("mixed"):
                both[name] = both[name].map(str, na_action="ignore")
        return both


@dataclass(frozen=True)
class Embeddings(EmbeddedRows):
    """Row ``i`` of ``features`` (N, D; not normalised) is row ``i`` of the manifest."""

    features: np.ndarray

    @functools.cached_property
    def views(self) -> dict[str, np.ndarray]:
        """The features of each further view, in the same rows. Raises InputError if a file is missing or damaged."""
        files = {name: f"features.{name}.npy" for name in self.info["views"]}
        return {name: _read_features(self.folder, file, self.info, self.table) for name, file in files.items()}


def open_embeddings(folder: str | Path) -> Embeddings:
    """Open an embeddings folder. Raises InputError if it is none or damaged, or if features and manifest do not fit."""
    path = require_folder(Path(folder), INFO, MAKER)
    info = read_json(inside(path, INFO), MAKER, EmbeddingInfo)
    table = read_manifest(path, MAKER)
    require_unchanged(inside(path, "manifest.parquet"), info["sha256"], MAKER)
    return Embeddings(path, info, table, _read_features(path, "features.npy", info, table))


def _read_features(folder: Path, name: str, info: dict[str, Any], table: pa.Table) -> np.ndarray:
    path = inside(folder, name)
    features, again = read_npy(path, MAKER), f"run `{MAKER}` again"
    dim, kind = info["encoder"]["dim"], info["dtype"]
    if features.shape != (table.num_rows, dim) or features.dtype != kind:
        raise InputError(
            f"{path} has shape {features.shape} of {features.dtype}, but the folder holds {table.num_rows} images with "
            f"{dim} numbers of {kind}: {again}"
        )
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        image = table["image_id"][int(bad[0])].as_py()
        raise InputError(f"{path}: the features of {image} hold NaN or infinity: check the encoder")
    require_unchanged(path, info["sha256"], MAKER)
    return features


def content_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of the manifest and of every array of an embeddings folder by file name."""
    files = sorted([folder / "manifest.parquet", *folder.glob("features*.npy")])
    return {path.name: sha256_file(path) for path in files}


def how_made(part: EmbeddedRows) -> dict[str, Any]:
    """Everything that must be equal in folders to pool them: encoder, preprocessing, kind of features, and type.

    The type is None for an index, in which it does not matter.
    """
    same = {key: part.encoder.get(key) for key in ("fingerprint", "preprocessing", "features")}
    return same | {"dtype": part.info.get("dtype")}


def require_same_images(folder: Path | str, dataset: Dataset, rows: pd.DataFrame) -> None:
    """Raise InputError if ``dataset`` lacks an image of ``rows``, those of ``folder``, or has other pixels for it."""
    held = pd.Series(dataset.column("pixel_sha256"), index=dataset.column("image_id"))
    now = held.reindex(rows["image_id"]).to_numpy()
    killed = ", or repeat a `dermeval index --remove` that was killed"
    for wrong, what, other in (
        (pd.isna(now), f"no longer in {dataset.folder}", killed),
        (now != rows["pixel_sha256"].to_numpy(), f"changed in {dataset.folder} after embedding", ""),
    ):
        if wrong.any():
            first = rows["image_id"].to_numpy()[wrong][0]
            images = counted(int(wrong.sum()), "image")
            raise InputError(f"{folder}: {images} (first {first}) {what}: run `{MAKER}` again{other}")


def refuse_mixed(parts: Sequence[EmbeddedRows], remedy: str) -> None:
    """Raise InputError, ending in ``remedy``, unless all ``parts`` were made in the same way, see `how_made`."""
    for part in parts[1:]:
        one, other = how_made(parts[0]), how_made(part)
        differing = [key for key in one if one[key] != other[key] and None not in (one[key], other[key])]
        if differing:
            raise InputError(
                f"{parts[0].folder} and {part.folder} come from different encoders ({parts[0].encoder['path']}, "
                f"{part.encoder['path']}; different: {', '.join(differing)}): {remedy}"
            )


def pooled_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of several manifests. A free column that has different types in them gets one that fits all values."""
    try:
        return pa.concat_tables(tables, promote_options="default")
    except pa.ArrowTypeError:
        return to_table(pd.concat([table.to_pandas() for table in tables], ignore_index=True))


def saw_test(encoder: Mapping[str, Any]) -> bool:
    """Whether an encoder was pretrained on all splits, test images included."""
    return encoder.get("training", {}).get("splits") == "all"


def doubts(datasets: Sequence[Mapping[str, Any]], synthetic: bool, encoder: Mapping[str, Any]) -> list[str]:
    """What every report of scores says of its data sets and its encoder (records as in ``embedding.json``)."""
    text = ["SYNTHETIC data: these scores say nothing about patients"] * synthetic
    doubt = "has no patient key: patient leakage cannot be ruled out, and intervals may be too narrow"
    text += [f"{entry['name']} {doubt}" for entry in datasets if not entry["patient_key"]]
    return text + ["the encoder was pretrained on all splits, test images included"] * saw_test(encoder)


def dataset_entry(dataset: Dataset) -> dict[str, Any]:
    """The record of a data set in ``embedding.json``, see `DatasetEntry`."""
    what = {"name": dataset.name, "path": str(dataset.folder.resolve()), "fingerprint": dataset.fingerprint}
    return what | {key: dataset.info[key] for key in ("synthetic", "group", "case", "patient_key", "targets")}


def write_embeddings(
    folder: Path,
    features: np.ndarray,
    datasets: Sequence[Dataset],
    encoder: dict[str, Any],
    extra: dict[str, Any],
    views: Iterable[tuple[str, np.ndarray]] = (),
) -> dict[str, Any]:
    """Write an embeddings folder atomically and return its ``embedding.json``.

    ``features`` (N, D) are in the order of ``datasets``, each in manifest order. ``views`` are the names and features
    of further views. ``encoder`` is the encoder's record without ``dim``, ``extra`` are further entries of the JSON.
    """
    info: dict[str, Any] = {
        "encoder": encoder | {"dim": int(features.shape[1])},
        "dtype": str(features.dtype),
        "views": [],
        "datasets": list(map(dataset_entry, datasets)),
        "licences": licences.merge([d.licence for d in datasets] + encoder.get("licences", [])),
        **extra,
    }
    with atomic_folder(folder) as temporary:
        write_npy(temporary / "features.npy", features)
        for name, seen in views:
            write_npy(temporary / f"features.{name}.npy", seen)
            info["views"].append(name)
        write_parquet(temporary / "manifest.parquet", pooled_rows([dataset.table for dataset in datasets]))
        info["sha256"] = content_hashes(temporary)
        write_json(temporary / INFO, info)
    return info
