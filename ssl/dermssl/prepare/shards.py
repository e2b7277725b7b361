"""Decodes a raw data set in shards, in ``.<out>.work`` beside ``<out>``. Finished shards survive a kill."""

import functools
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
from PIL import features
from tqdm import tqdm

from dermssl import log
from dermssl.dataset import manifest, store
from dermssl.files import read_json, read_parquet, write_json, write_parquet
from dermssl.parallel import process_map
from dermssl.prepare.decode import FORMATS
from dermssl.prepare.measure import decode_one
from dermssl.prepare.source import Problem

SHARD_ROWS = 1024
DECODING = 4
"""Raise this number when the same files give other pixels, so that unfinished work of older versions is discarded."""
MAKER = "dermssl prepare"
PROGRESS_FILES = ("rows-*.parquet", "key.json")
"""Files of a work folder beside the image store."""


def work_beside(out: Path) -> Path:
    """The path of the work folder of ``out``, which a killed command leaves behind."""
    return out.with_name(f".{out.name}.work")


def work_folder(out: Path, root: Path, files: Sequence[str], short_side: int) -> Path:
    """The work folder of ``out``. It is emptied if it belongs to another root, size, version or state of the files."""
    work = work_beside(out)
    key = {"key": _listing_hash(root, files, short_side)}
    if not (work / "key.json").exists() or read_json(work / "key.json", MAKER) != key:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / "key.json", key)
    return work


def _listing_hash(root: Path, files: Sequence[str], short_side: int) -> str:
    """A hash of the root, the size to store, versions, formats, and every file's name, length and time of change.

    Other versions of Pillow and of its decoders may give other pixels, and other formats other files.
    That time is the one of the inode, because a file that could not be read may be readable now.
    """
    decoders = [PIL.__version__, *map(features.version, ("jpg", "libjpeg_turbo", "webp", "littlecms2")), *FORMATS]
    version = f"{manifest.SCHEMA_VERSION} {DECODING} {short_side} {decoders} "
    digest = hashlib.sha256(version.encode() + os.fsencode(root.resolve()))
    for file in files:
        try:
            state = (root / file).stat()
            digest.update(f"\n{file} {state.st_size} {state.st_ctime_ns}".encode())
        except (OSError, RuntimeError):
            digest.update(f"\n{file} unreadable".encode())
    return digest.hexdigest()


def decode_all(
    work: Path, root: Path, files: Sequence[str], short_side: int, workers: int, follow: Path | None
) -> tuple[pa.Table, np.ndarray, list[Problem]]:
    """Decode ``files`` (paths below ``root``) in their order into shards of images and of measurements in ``work``.

    Finished shards in ``work`` are kept. Images are shrunk to ``short_side`` pixels at most. ``workers`` are those of
    `process_map`. Links may lead into the folder ``follow``.

    Returns the file and the measurements of every decoded image, which files these are, ``(N,)`` bool, and problems.
    """
    shards = [files[start : start + SHARD_ROWS] for start in range(0, len(files), SHARD_ROWS)]
    tables = [work / f"rows-{number:05d}.parquet" for number in range(len(shards))]
    todo = [number for number, table in enumerate(tables) if not table.exists()]
    if len(todo) < len(shards):
        log.info("continuing an interrupted run: %d of %d shards are done", len(shards) - len(todo), len(shards))
    left = sum(len(shards[number]) for number in todo)
    one = functools.partial(decode_one, root=root, short_side=short_side, follow=follow)
    bar = tqdm(total=len(files), initial=len(files) - left, desc="decode", unit="image", disable=None)
    with process_map(workers) as in_processes, bar:
        begun = (in_processes(one, shards[number]) for number in todo)
        ahead = next(begun, None)
        for number in todo:
            # One further shard is begun so that no worker waits. More of them could fill the memory.
            results, ahead = ahead, next(begun, None)
            rows, jpegs = [], []
            for file, (found, jpeg) in zip(shards[number], results or (), strict=True):
                rows.append({"file": file} | found)
                jpegs += [] if jpeg is None else [jpeg]
                bar.update()
            # The table comes last, because it marks the shard as finished.
            store.write_shard(work / store.shard_name(number), jpegs)
            write_parquet(tables[number], pa.Table.from_pylist(rows, schema=_ROW_SCHEMA))
    measured, decoded, problems = [], [], []
    for shard, path in zip(shards, tables, strict=True):
        table = read_parquet(path, MAKER)
        for column, action in (("problem", "left out"), ("note", "the first is used")):
            found = table[column].to_pylist()
            problems += [Problem(file, why, action) for file, why in zip(shard, found, strict=True) if why]
        decoded.append(table["problem"].is_null().to_numpy())
        measured.append(table.filter(decoded[-1]).drop_columns(["problem", "note"]))
    return pa.concat_tables(measured), np.concatenate(decoded), problems


_ROW_SCHEMA = pa.schema(
    [("file", pa.string()), ("problem", pa.string()), ("note", pa.string())]
    + [manifest.FIXED.field(name).with_nullable(True) for name in manifest.MEASURED if name != "phash"]
    # Before version 26, pyarrow cannot read lists of a fixed length from Parquet if some are null.
    + [("phash", pa.list_(pa.uint64()))]
)
