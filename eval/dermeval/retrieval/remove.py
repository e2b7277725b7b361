"""``dermeval index --remove``: a withdrawn consent. The images leave every folder that holds them, bytes included.

The dataset folders come first and the index last, since the index knows the others: a command that was killed is
given again and does the rest.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dermeval.features.embeddings import array_hashes, open_embeddings
from dermeval.features.ledger import seen_images
from dermeval.retrieval.build import rebuild
from dermeval.retrieval.index_folder import MARK, SearchIndex, open_index
from dermssl import neighbours
from dermssl.atomic import atomic_folder, locked
from dermssl.commandline import Report
from dermssl.dataset.dataset import open_dataset
from dermssl.dataset.store import shard_name, write_shard
from dermssl.errors import InputError, did_you_mean
from dermssl.files import read_json, write_csv, write_json, write_npy, write_parquet
from dermssl.prepare.prepare import count

IMAGES_PER_SHARD = 1024
MARKS = ("dataset.json", "embedding.json", MARK)


def remove(out: Path, ids: Sequence[str], also: Sequence[str]) -> Report:
    """Take images out of the index at ``out``, the embeddings and data sets that it was made from, and ``also``.

    Args:
        out: index folder.
        ids: image or patient ids.
        also: further dataset, embeddings and index folders that hold the images.

    Raises:
        InputError: an id that none of the folders holds. Nothing is then removed from any.
    """
    with locked(out):  # another command may be adding to it at this moment
        return _remove(open_index(out), ids, also)


def _remove(index: SearchIndex, ids: Sequence[str], also: Sequence[str]) -> Report:
    folders, lost = _holding(index, also)
    tables = {folder: _table(folder) for folder in folders}
    _check_known(ids, tables)
    told = _trained_on(index, ids)
    removed, fingerprints = {}, {}
    for folder, table in tables.items():
        going = matches(table, ids)
        if going.any():
            before = _fingerprint(folder)
            _remove_from(folder, going)
            fingerprints[before] = _fingerprint(folder)
            removed[str(folder)] = int(going.sum())
        _rename_fingerprints(folder, fingerprints)
    text = [f"{number} images removed from {folder}" for folder, number in removed.items()]
    text += [f"OUT OF REACH, remove them there too: {folder}" for folder in lost] + told
    return Report("\n".join(text), {"removed": removed, "out_of_reach": lost, "encoders": told})


def matches(table: pa.Table, ids: Sequence[str]) -> np.ndarray:
    """Which rows of a manifest have one of the ids as image or patient, ``(N,)`` bool."""
    values = pa.array(list(ids), pa.string())
    found = [
        pc.is_in(table[name], value_set=values) for name in ("image_id", "patient_id") if name in table.column_names
    ]
    return np.any([column.to_numpy() for column in found], axis=0)


def _holding(index: SearchIndex, also: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Folders that may hold the images, data sets first and the index last; and recorded ones that are gone."""
    sources = [Path(folder) for folder in index.info["sources"]]
    data = [Path(entry["path"]) for entry in index.info["datasets"]]
    for folder in map(Path, also):
        if not any((folder / mark).is_file() for mark in MARKS):
            raise InputError(f"--also {folder} is no dataset, embeddings or index folder")
        (data if (folder / "dataset.json").is_file() else sources).append(folder)
    found = [path for path in [*data, *sources] if any((path / mark).is_file() for mark in MARKS)]
    lost = [str(path) for path in [*data, *sources] if path not in found]
    unique = dict.fromkeys(path.resolve() for path in found)
    unique.pop(index.folder.resolve(), None)
    return [*unique, index.folder.resolve()], list(dict.fromkeys(lost))


def _table(folder: Path) -> pa.Table:
    if (folder / "dataset.json").is_file():
        return open_dataset(folder).table
    return open_index(folder).table if (folder / MARK).is_file() else open_embeddings(folder).table


def _check_known(ids: Sequence[str], tables: dict[Path, pa.Table]) -> None:
    known: set[str] = set()
    for table in tables.values():
        known |= {name for column in ("image_id", "patient_id") for name in table[column].to_pylist() if name}
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise InputError(
            f"--remove {unknown[0]}: no image and no patient of that id in {', '.join(map(str, tables))}; "
            f"{did_you_mean(unknown[0], known) if len(known) < 5000 else 'nothing was removed'}"
        )


def _trained_on(index: SearchIndex, ids: Sequence[str]) -> list[str]:
    """What the encoder was trained on, by its ledger: an encoder cannot forget."""
    rows = matches(index.table, ids)
    seen = seen_images(index.encoder, index.table.filter(pa.array(rows)).to_pandas())
    if seen.reasons is None:
        return [f"whether the encoder {index.encoder['path']} was trained on them is not known: {seen.source}"]
    count = int(seen.reasons.any(axis=1).sum())
    if not count:
        return [f"the encoder {index.encoder['path']} was not trained on them ({seen.source})"]
    return [
        f"the encoder {index.encoder['path']} was TRAINED on {count} of them ({seen.source}): "
        "pretrain again without them to remove their influence"
    ]


def _remove_from(folder: Path, going: np.ndarray) -> None:
    """Rewrite one folder without some rows, and delete what unfinished writers left of it."""
    if (folder / "dataset.json").is_file():
        _from_dataset(folder, going)
    elif (folder / MARK).is_file():
        index = open_index(folder)
        kept = np.flatnonzero(~going)
        entries = neighbours.Index(index.entries.vectors[kept])
        rebuild(replace(index, table=index.table.take(pa.array(kept)), entries=entries))
    else:
        _from_embeddings(folder, going)
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)


def _copied(folder: Path, temporary: Path, written: set[str]) -> None:
    """Copy the files of a folder that are not written anew."""
    for file in folder.iterdir():
        if file.is_file() and not file.is_symlink() and file.name not in written and not file.name.startswith("."):
            shutil.copy2(file, temporary / file.name)


def _from_dataset(folder: Path, going: np.ndarray) -> None:
    dataset = open_dataset(folder)
    kept = np.flatnonzero(~going)
    table = dataset.table.take(pa.array(kept))
    files = set(dataset.table.filter(pa.array(going))["file"].to_pylist())
    shards = {path.name for path in folder.glob("images-*.arrow")}
    with atomic_folder(folder) as temporary:
        _copied(folder, temporary, {"manifest.parquet", "dataset.json", "problems.csv", *shards})
        for number, start in enumerate(range(0, len(kept), IMAGES_PER_SHARD)):
            jpegs = [bytes(dataset.images.jpeg(int(row))) for row in kept[start : start + IMAGES_PER_SHARD]]
            write_shard(temporary / shard_name(number), jpegs)
        write_parquet(temporary / "manifest.parquet", table)
        write_json(temporary / "dataset.json", dataset.info | {"counts": count(table)})
        if (folder / "problems.csv").is_file():
            problems = pd.read_csv(folder / "problems.csv", dtype=str, keep_default_na=False)
            problems = problems[~problems["file"].isin(files)] if "file" in problems else problems
            write_csv(temporary / "problems.csv", problems)


def _from_embeddings(folder: Path, going: np.ndarray) -> None:
    kept = np.flatnonzero(~going)
    embeddings = open_embeddings(folder)
    arrays = {file.name: np.load(file, mmap_mode="r") for file in folder.glob("features*.npy")}
    with atomic_folder(folder) as temporary:
        _copied(folder, temporary, {"manifest.parquet", "embedding.json", *arrays})
        for name, array in arrays.items():
            write_npy(temporary / name, array[kept])
        write_json(temporary / "embedding.json", embeddings.info | {"sha256": array_hashes(temporary)})
        write_parquet(temporary / "manifest.parquet", embeddings.table.take(pa.array(kept)))


def _fingerprint(folder: Path) -> str:
    """The fingerprint of a dataset folder, empty for others."""
    return open_dataset(folder).fingerprint if (folder / "dataset.json").is_file() else ""


def _rename_fingerprints(folder: Path, renamed: dict[str, str]) -> None:
    """Record the new fingerprints of data sets that lost rows, so that no later command says that they changed."""
    for mark in MARKS[1:]:
        if (folder / mark).is_file():
            info = read_json(folder / mark, "dermeval")
            for entry in info["datasets"]:
                entry["fingerprint"] = renamed.get(entry["fingerprint"], entry["fingerprint"])
            write_json(folder / mark, info)
