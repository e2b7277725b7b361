"""``dermeval index --remove``: removes images with all their bytes, for instance after a withdrawn consent.

Only folders that the user names are changed, since an index from somebody else could record any folder of this machine
as its source. The index is changed last because it knows the other folders: a command can be repeated after a kill.
"""

import itertools
import re
import shlex
import shutil
from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dermeval.features.embeddings import INFO, EmbeddedRows, content_hashes, open_embeddings
from dermeval.features.ledger import seen_images
from dermeval.retrieval.index import write_index
from dermeval.retrieval.index_folder import MARK, SearchIndex, open_index
from dermssl.atomic import atomic_folder, locked, remove_folder
from dermssl.commandline import Report
from dermssl.dataset.dataset import Dataset, open_dataset
from dermssl.dataset.store import ImageStore, shard_name, write_shard
from dermssl.errors import InputError, counted, did_you_mean
from dermssl.files import write_csv, write_json, write_npy, write_parquet
from dermssl.prepare.prepare import count
from dermssl.prepare.shards import PROGRESS_FILES, work_beside

IMAGES_PER_SHARD = 1024
ID_COLUMNS = ("image_id", "patient_id", "lesion_id", "case_id", "group_id")
Holder = Dataset | EmbeddedRows
OPENERS: dict[str, Callable[[Path], Holder]] = {"dataset.json": open_dataset, INFO: open_embeddings, MARK: open_index}
"""For each file that marks a kind of folder, the function that opens it; in the order of removal."""


def remove(out: Path | str, ids: Sequence[str], also: Sequence[str], index_only: bool) -> Report:
    """Remove images, given by ``ids`` of `ID_COLUMNS`, from the index at ``out`` and from the folders ``also``.

    Other folders that the index was made from may keep the images only with ``index_only``; otherwise, and if no folder
    holds one of the ids, or one means different images, InputError is raised and nothing is removed.
    """
    out = out if isinstance(out, str) else out.resolve()
    for folder in also:
        if _mark(Path(folder)) is None:
            raise InputError(f"--also {folder} is no dataset, embeddings or index folder: give one of these")
    marks = [None, *OPENERS]  # data sets come first, indexes last
    named = sorted(
        {Path(folder).resolve() for folder in also} - {out}, key=lambda path: (marks.index(_mark(path)), path)
    )
    with ExitStack() as locks:  # no other command may change these folders meanwhile
        for path in [*named, *([out] if isinstance(out, Path) else [])]:
            locks.enter_context(locked(path))
        index = open_index(out)
        holders: dict[Path | str, Holder] = {**{path: OPENERS[_mark(path) or MARK](path) for path in named}, out: index}
        _check_ids(holders, ids)
        kept, lost = _recorded(index, ids, holders)
        if kept and not index_only:
            raise InputError(
                f"nothing was removed: the images are also in {' and '.join(kept)}, which the index was made from: add "
                f"--also {shlex.join(kept)} to remove them there, or --index-only to keep them there"
            )
        notes = [f"KEPT in {folder}, which was not given with --also" for folder in kept]
        notes += [f"OUT OF REACH, remove them there too: {folder}" for folder in lost]
        going = _going(holders, ids)
        notes.append(_trained_on(index.encoder, holders, going))
        removed = _remove_all(holders, going)
    text = [f"{counted(number, 'image')} removed from {folder}" for folder, number in removed.items()]
    data = {"removed": removed, "kept": kept, "out_of_reach": lost, "notes": notes}
    return Report("\n".join(text + notes), data)


def _mark(folder: Path) -> str | None:
    return next((mark for mark in OPENERS if (folder / mark).is_file()), None)


def _meant(given: str) -> tuple[Sequence[str], str]:
    """The columns and the id that are meant by ``ID`` or by ``COLUMN=ID`` (no id begins with the name of a column)."""
    column, _, name = given.partition("=")
    return ([column], name) if column in ID_COLUMNS else (ID_COLUMNS, given)


def matches(table: pa.Table, ids: Sequence[str]) -> np.ndarray:
    """Which rows of a manifest have one of the ids (see `_meant`) in one of `ID_COLUMNS`, ``(N,)`` bool."""
    asked, found = list(map(_meant, ids)), np.zeros(len(table), bool)
    for column in ID_COLUMNS:
        values = pa.array([name for columns, name in asked if column in columns], pa.string())
        found |= pc.is_in(table[column], value_set=values).to_numpy()
    return found


def _check_ids(holders: dict[Path | str, Holder], ids: Sequence[str]) -> None:
    """Raise InputError for an id that no folder has, and for one that means different images in a folder."""
    known: dict[str, set[str]] = {column: set() for column in ID_COLUMNS}
    for holder, column in itertools.product(holders.values(), ID_COLUMNS):
        known[column].update(holder.table[column].drop_null().unique().to_pylist())
    for given in ids:
        columns, name = _meant(given)
        if not any(name in known[column] for column in columns):
            every = set[str]().union(*known.values())
            hint = did_you_mean(given, every) if len(every) < 5000 else "nothing was removed"
            where = ", ".join(map(str, holders))
            raise InputError(f"--remove {given}: no image, patient, lesion or case of that id in {where}; {hint}")
    for holder in holders.values():
        rows = holder.table.select(list(ID_COLUMNS)).filter(pa.array(matches(holder.table, ids))).to_pandas()
        for given in ids:
            _refuse_several(given, rows)


def _refuse_several(given: str, rows: pd.DataFrame) -> None:
    """Raise InputError if an id is that of a patient and of another's lesion, of a group of several patients, ..."""
    columns, name = _meant(given)
    same = rows[list(columns)] == name
    meant: dict[tuple[int, ...], str] = {}
    for column in (column for column in columns if same[column].any()):
        meant.setdefault(tuple(rows.index[same[column]]), f"{column}={name}")
    if len(meant) < 2:
        return
    both = rows[same.any(axis=1)]
    patients = both["patient_id"].nunique() if same["patient_id"].any() else 1
    if same["image_id"].any() or both["group_id"].nunique() > 1 or patients > 1:
        told = ", ".join(f"{shown} ({counted(len(images), 'image')})" for images, shown in meant.items())
        raise InputError(f"--remove {name} means different images: give one or more of {told}")


def _going(holders: dict[Path | str, Holder], ids: Sequence[str]) -> dict[Path | str, np.ndarray]:
    """Which rows of each folder go, ``(N,)`` bool. An image has the ids that its data set gives it now, if named."""
    going = {folder: matches(holder.table, ids) for folder, holder in holders.items()}
    held, named = list[str](), list[str]()
    for folder, holder in holders.items():
        if isinstance(holder, Dataset):
            held += holder.table["image_id"].to_pylist()
            named += holder.table["image_id"].filter(pa.array(going[folder])).to_pylist()
        else:
            known, gone = (
                pc.is_in(holder.table["image_id"], value_set=pa.array(part, pa.string())).to_numpy()
                for part in (held, named)
            )
            going[folder] = gone | (going[folder] & ~known)
    return going


def _recorded(index: SearchIndex, ids: Sequence[str], named: Container[Path | str]) -> tuple[list[str], list[str]]:
    """Folders that the index was made from and that are not ``named``: those with the images, those out of reach."""
    recorded = [*(entry["path"] for entry in index.info["datasets"]), *index.info["sources"]]
    kept, lost = [], []
    for folder in dict.fromkeys(recorded):
        if Path(folder).resolve() in named:
            continue
        try:
            if matches(OPENERS[_mark(Path(folder)) or MARK](Path(folder)).table, ids).any():
                kept.append(folder)
        except InputError:  # no such folder, or a damaged one
            lost.append(folder)
    return kept, lost


def _trained_on(encoder: dict[str, Any], holders: dict[Path | str, Holder], going: dict[Path | str, np.ndarray]) -> str:
    """Whether the encoder was trained on the images that the folders hold, by its ledger."""
    rows = [holder.table.filter(pa.array(going[folder])).to_pandas() for folder, holder in holders.items()]
    datasets = {holder.name: holder for holder in holders.values() if isinstance(holder, Dataset)}
    seen, path = seen_images(encoder, pd.concat(rows).drop_duplicates("image_id"), datasets), encoder["path"]
    if seen.reasons is None:
        return f"whether the encoder {path} was trained on them is not known: {seen.source}"
    trained, remedy = int(seen.reasons.any(axis=1).sum()), "pretrain again without them to remove their influence"
    if not trained:
        return f"the encoder {path} was not trained on them ({seen.source})"
    return f"the encoder {path} was TRAINED on {trained} of them ({seen.source}): {remedy}"


def _remove_all(holders: dict[Path | str, Holder], every: dict[Path | str, np.ndarray]) -> dict[str, int]:
    """Rewrite the folders without the images; returns the number of images removed from each."""
    removed: dict[str, int] = {}
    renamed: dict[str, str] = {}
    for folder, holder in holders.items():
        going = every[folder]
        if isinstance(holder, Dataset):
            if going.any():
                before = holder.fingerprint
                _from_dataset(holder, going)
                renamed[before] = open_dataset(holder.folder).fingerprint
        else:
            # The recorded fingerprints follow the removal, except if only a copy of the recorded data set was named.
            changed = [
                entry
                for entry in holder.info["datasets"]
                if entry["fingerprint"] in renamed
                if Path(entry["path"]).resolve() in holders or not Path(entry["path"]).exists()
            ]
            for entry in changed:
                entry["fingerprint"] = renamed[entry["fingerprint"]]
            # A data set without an image here is no longer recorded, so that its folder need not be in reach.
            left = set(holder.table["dataset"].filter(pa.array(~going)).to_pylist())
            held = [entry for entry in holder.info["datasets"] if entry["name"] in left]
            holder.info["datasets"] = held or holder.info["datasets"]
            if isinstance(holder, SearchIndex) and (going.any() or changed):
                write_index(holder.folder, [holder], holder.info["type"], holder.info["reason"], kept=~going)
            elif going.any() or changed:
                _from_embeddings(holder, ~going)
        if going.any():
            removed[str(folder)] = int(going.sum())
    return removed


def _copy_others(folder: Path, temporary: Path, written: set[str]) -> None:
    """Copy the files of a folder other than ``written``."""
    for file in folder.iterdir():
        if file.is_file() and not file.is_symlink() and file.name not in written and not file.name.startswith("."):
            shutil.copy2(file, temporary / file.name)


def _from_dataset(dataset: Dataset, going: np.ndarray) -> None:
    folder, kept = dataset.folder, np.flatnonzero(~going)
    table, removed = (dataset.table.filter(pa.array(rows)) for rows in (~going, going))
    # What a killed `prepare` left goes first: after a kill below, the images are no longer here to be removed.
    remove_folder(work_beside(folder))
    shards = {path.name for pattern in ("images-*.arrow", *PROGRESS_FILES) for path in folder.glob(pattern)}
    with atomic_folder(folder) as temporary:
        _copy_others(folder, temporary, {"manifest.parquet", "dataset.json", "problems.csv", *shards})
        for number, start in enumerate(range(0, len(kept), IMAGES_PER_SHARD)):
            jpegs = [bytes(dataset.images.jpeg(int(row))) for row in kept[start : start + IMAGES_PER_SHARD]]
            write_shard(temporary / shard_name(number), jpegs)
        write_parquet(temporary / "manifest.parquet", table)
        rows = ImageStore(temporary).row_hash(table["image_id"])
        write_json(temporary / "dataset.json", dataset.info | {"counts": count(table), "rows": rows})
        if (folder / "problems.csv").is_file():
            problems = pd.read_csv(folder / "problems.csv", dtype=str, keep_default_na=False)
            write_csv(temporary / "problems.csv", _without_removed(problems, removed, table))


def _without_removed(problems: pd.DataFrame, removed: pa.Table, kept: pa.Table) -> pd.DataFrame:
    """The rows of problems.csv that name no removed image, and no patient, lesion or case of which no image is left."""
    ids = {value for name in ID_COLUMNS for value in {*removed[name].to_pylist()} - {None, *kept[name].to_pylist()}}
    files = removed["file"].to_pylist()
    named = re.compile(rf"(?<!\S)({'|'.join(map(re.escape, {*ids, *files}))})(?![^\s,])")
    # Some rows are about "subject ID" or an image, without its data set or folder.
    bare = {name.split("/", 1)[-1] for name in ids} | {name for f in map(Path, files) for name in (f.name, f.stem)}

    def is_about_removed(row: pd.Series) -> bool:
        own = str(row.get("file", "")).removeprefix("'")  # see `write_csv`
        return own in files or own.split(" ", 1)[-1] in bare or any(map(named.search, row))

    return problems.loc[[not is_about_removed(row) for _, row in problems.iterrows()]]


def _from_embeddings(embeddings: EmbeddedRows, kept: np.ndarray) -> None:
    folder = embeddings.folder
    remove_folder(folder.with_name(f"{folder.name}.unfinished"))  # what a killed `embed` left
    arrays = {file.name: np.load(file, mmap_mode="r") for file in folder.glob("features*.npy")}
    with atomic_folder(folder) as temporary:
        _copy_others(folder, temporary, {"manifest.parquet", INFO, *arrays})
        for name, array in arrays.items():
            write_npy(temporary / name, array[kept])
        write_parquet(temporary / "manifest.parquet", embeddings.table.filter(pa.array(kept)))
        write_json(temporary / INFO, embeddings.info | {"sha256": content_hashes(temporary)})
