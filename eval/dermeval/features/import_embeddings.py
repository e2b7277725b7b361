"""``dermeval import-embeddings``: turns features of another program into an embeddings folder."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dermeval.features.embeddings import WRITTEN, write_embeddings
from dermeval.features.options import ImportOptions
from dermssl import licences
from dermssl.commandline import Report
from dermssl.dataset.dataset import Dataset, open_datasets
from dermssl.errors import InputError, counted, did_you_mean
from dermssl.files import read_npy, read_parquet, reading, sha256_file
from dermssl.paths import require_file, require_new_folder
from dermssl.prepare.tables import read_table

MAKER = "the program that made the features"
ID_COLUMNS = ("image_id", "file", "filename", "path", "image", "id")
LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
FEATURE_NAMES = ("features", "embeddings", "embedding", "feature")
PLOTTED = ("x", "y", "projection_x", "projection_y")
"""Columns of an atlas (`dermeval export` and embedding-atlas write them): places in a plot, which are no features."""
log = logging.getLogger("dermssl")


def import_embeddings(options: ImportOptions) -> Report:
    """Check features, match them to images by ids, and write an embeddings folder; see `ImportOptions`.

    Raises InputError: features or ids cannot be read, an id is no image or occurs twice, or the licence is unknown.
    """
    out, path = Path(options.out), Path(options.features)
    if options.licence not in licences.LICENCES:
        raise InputError(f"--licence {options.licence}: {did_you_mean(options.licence, licences.LICENCES)}")
    inputs = [options.features, options.ids, *options.data]
    require_new_folder(out, options.overwrite, WRITTEN, inputs, key="imported_from")
    datasets = open_datasets(options.data)
    features, beside = _read_features(path, {name for dataset in datasets for name in dataset.table.column_names})
    ids = _read_ids(Path(options.ids)) if options.ids else beside
    if ids is None:
        raise InputError(f"{path} holds no ids: give a table of them with one row per row of features, in their order")
    if len(ids) != len(features):
        raise InputError(f"{options.ids or path}: {len(ids)} ids for {len(features)} rows of features: give as many")
    rows = _match(ids, datasets, options.ids or options.features)
    if options.ids and beside is not None and not _agree(rows, beside, datasets):
        raise InputError(f"{path} has the ids of {options.ids} in another order: leave {options.ids} out")
    name = options.name or out.name
    notice = licences.notice(f"weights {name}", options.licence, "Features of another program.", synthetic=False)
    encoder: dict[str, Any] = {"path": f"imported:{name}", "name": name, "fingerprint": sha256_file(path)}
    encoder |= {"preprocessing": {}, "features": "cls", "licences": [notice], "training": {}}
    order, parts = [], []
    for number, dataset in enumerate(datasets):
        found = np.flatnonzero(rows[number] >= 0)
        if missing := len(dataset) - len(found):
            log.warning("warning: %d of %d images of %s have no features", missing, len(dataset), dataset.folder)
        order.append(rows[number][found])
        parts.append(replace(dataset, table=dataset.table.take(pa.array(found))))
    extra = {"imported_from": str(path.resolve())}
    info = write_embeddings(out, features[np.concatenate(order)], [part for part in parts if len(part)], encoder, extra)
    text = [f"{counted(len(ids), 'image')} with {features.shape[1]} features each ({features.dtype}), {name} -> {out}"]
    return Report("\n".join(text + licences.notice_lines(info["licences"])), info | {"out": str(out)})


def _read_features(path: Path, facts: Collection[str]) -> tuple[np.ndarray, list[str] | None]:
    """Features ``(N, D)``, float32 or float16, finite, no row all zeros; and the ids in the same file, if any.

    ``facts`` are the columns of manifests, which are no features.
    """
    match path.suffix.lower():
        case ".parquet":
            features, ids = _from_parquet(path, facts)
        case ".npy":
            features, ids = read_npy(path, MAKER), None
        case ".h5" | ".hdf5":
            features, ids = _from_hdf5(path)
        case _:
            raise InputError(f"{path}: give features as .npy, .parquet, .h5 or .hdf5")
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind != "f":
        raise InputError(
            f"{path} holds {features.dtype} of shape {features.shape}: give floating-point numbers, one row per image"
        )
    with np.errstate(over="ignore"):
        features = np.asarray(features, np.float16 if features.dtype == np.float16 else np.float32)
        lengths = np.linalg.norm(features.astype(np.float32), axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))  # zeros often stand for an image that failed
    if len(bad):
        held = "NaN, infinity or too large numbers" if lengths[bad[0]] else "nothing but zeros"
        raise InputError(f"{path}: row {bad[0] + 1} of the features holds {held}: leave that image out")
    return features, ids


def _from_parquet(path: Path, facts: Collection[str]) -> tuple[np.ndarray, list[str] | None]:
    """The column of lists with one of `FEATURE_NAMES`, or all floating-point columns in their order; and the ids.

    A column named like one of ``facts``, such as the age or a label, is no feature, nor is one of `PLOTTED`.
    """
    table = read_parquet(path, MAKER)
    name = next((name for name in ID_COLUMNS if name in table.column_names), None)
    ids = None if name is None else [str(value) for value in table[name].to_pylist()]
    lists = [column for column in FEATURE_NAMES if column in table.column_names]
    if lists:
        column = table[lists[0]]
        if not any(fits(column.type) for fits in LISTS) or len(pc.list_value_length(column).unique()) != 1:
            raise InputError(f"{path}: the rows of column '{lists[0]}' must be lists of one length")
        numbers = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
        return np.concatenate(numbers).reshape(len(column), -1), ids
    floating = {field.name for field in table.schema if pa.types.is_floating(field.type)} - set(facts)
    columns = [name for name in table.column_names if name in floating - set(PLOTTED)]
    if not columns:
        plot = f" ({' and '.join(sorted(floating))} are places in a plot)" if floating else ""
        raise InputError(
            f"{path} has neither a column '{FEATURE_NAMES[0]}' nor floating-point columns of features{plot}: give them"
        )
    return np.column_stack([table[column].to_numpy() for column in columns]), ids


def _from_hdf5(path: Path) -> tuple[np.ndarray, list[str] | None]:
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path}: reading HDF5 needs h5py: pip install h5py, or give .npy or .parquet") from None
    with reading(path, MAKER), h5py.File(path, "r") as file:
        arrays = {name: file[name] for name in file if isinstance(file.get(name, getlink=False), h5py.Dataset)}
        names = [name for name in FEATURE_NAMES if name in arrays][:1]
        names = names or [name for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind == "f"]
        if len(names) != 1:
            several = f" but {', '.join(names)}" if names else ""
            raise InputError(f"{path} has no array '{FEATURE_NAMES[0]}' of two dimensions{several}: give one")
        ids = next((arrays[name].asstr()[:].tolist() for name in (*ID_COLUMNS, "ids") if name in arrays), None)
        return arrays[names[0]][:], ids


def _read_ids(path: Path) -> list[str]:
    """The ids in a table: its first column with one of `ID_COLUMNS`, or its only column."""
    require_file(path, MAKER)
    if path.suffix.lower() == ".parquet":
        frame = read_parquet(path, MAKER).to_pandas()
    else:
        frame = read_table(path, [])
    name = next((name for name in ID_COLUMNS if name in frame), None)
    if name is None and len(frame.columns) > 1:
        raise InputError(f"{path} has no column {' or '.join(ID_COLUMNS)}: rename the column that holds the ids")
    values = frame[name or frame.columns[0]]
    if values.isna().any():
        raise InputError(f"{path}: row {int(np.flatnonzero(values.isna())[0]) + 1} has no id")
    return [str(value) for value in values]


def _agree(rows: Sequence[np.ndarray], ids: Sequence[str], datasets: Sequence[Dataset]) -> bool:
    """Whether ``ids``, which may be names of another kind, give the same ``rows``, or are not known."""
    try:
        return all(map(np.array_equal, _match(ids, datasets, ""), rows))
    except InputError:
        return True


def _match(ids: Sequence[str], datasets: Sequence[Dataset], where: str) -> list[np.ndarray]:
    """For each data set, the row of features of each image, -1 for none.

    An id is an ``image_id``, a ``file``, or a file name with or without suffix that only one image has.
    """
    places: dict[str, tuple[int, int] | None] = {}
    for number, dataset in enumerate(datasets):
        frame = dataset.frame(["image_id", "file"])
        for row, (image_id, file) in enumerate(zip(frame["image_id"], frame["file"], strict=True)):
            path = Path(file)
            for key in {image_id, file, path.name, path.stem}:
                places[key] = None if key in places and places[key] != (number, row) else (number, row)
    found = [np.full(len(dataset), -1) for dataset in datasets]
    for row, value in enumerate(ids):
        place = places.get(value)
        if place is None:
            names = ", ".join(str(dataset.folder) for dataset in datasets)
            why = f"is the name of several images of {names}" if value in places else f"is no image of {names}"
            near = did_you_mean(value, places) if value not in places and len(places) < 20_000 else "give image_id"
            raise InputError(f"{where}: '{value}' (row {row + 1}) {why}: {near}")
        number, image = place
        if found[number][image] >= 0:
            raise InputError(f"{where}: '{value}' (row {row + 1}) occurs twice: give one row of features per image")
        found[number][image] = row
    return found
