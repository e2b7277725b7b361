"""Decoding a raw data set in shards: a finished shard survives a kill and is never decoded again.

Shards are kept in ``.<out>.work`` beside the dataset folder that they will become.
"""

import functools
import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from dermssl.data import hashes, manifest, store
from dermssl.data.decode import DecodeError, open_image, orientation, read_bytes, upright_rgb
from dermssl.data.sources.source import Problem
from dermssl.data.workers import process_map
from dermssl.files import read_json, read_parquet, write_json, write_parquet

SHARD_ROWS = 1024

log = logging.getLogger("dermssl")


def work_folder(out: Path, root: Path, frame: pd.DataFrame, short_side: int) -> Path:
    """The folder of finished shards; emptied when it belongs to another root, size, or state of the files."""
    work = out.with_name(f".{out.name}.work")
    key = {"key": _listing_hash(root, frame["file"], short_side)}
    if not (work / "key.json").exists() or read_json(work / "key.json", "dermssl prepare") != key:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / "key.json", key)
    return work


def _listing_hash(root: Path, files: Iterable[str], short_side: int) -> str:
    """Changes with the root, the size to store, and every file's name, length and time."""
    digest = hashlib.sha256(f"{root.resolve()} {short_side}".encode())
    for file in files:
        try:
            state = (root / file).stat()
            digest.update(f"\n{file} {state.st_size} {state.st_mtime_ns}".encode())
        except (OSError, RuntimeError):
            digest.update(f"\n{file} unreadable".encode())
    return digest.hexdigest()


def decode_all(
    work: Path, root: Path, frame: pd.DataFrame, short_side: int, workers: int
) -> tuple[pd.DataFrame, list[Problem]]:
    """Decode every file, shard by shard, and join what was measured to the source's rows.

    Args:
        work: from `work_folder`; shards found in it are kept as they are.
        root: the raw data set.
        frame: one row per image with its ``file`` below the root.
        short_side: longest short side stored, pixels.
        workers: processes, see `process_map`.

    Returns:
        Rows of the images that could be decoded, in the order of the image store, and the others as problems.
    """
    starts = range(0, len(frame), SHARD_ROWS)
    finished = len(list(work.glob("rows-*.parquet")))
    if finished:
        log.info("going on with an interrupted run: %d of %d shards are done", finished, len(starts))
    one = functools.partial(decode_one, root=root, short_side=short_side)
    with (
        process_map(workers) as in_processes,
        tqdm(total=len(frame), desc="decode", unit="image", disable=None) as bar,
    ):
        parts = []
        for number, start in enumerate(starts):
            files = frame["file"].iloc[start : start + SHARD_ROWS].tolist()
            measured = work / f"rows-{number:05d}.parquet"
            if not measured.exists():
                _write_shard(work, number, files, in_processes(one, files), bar)
            else:
                bar.update(len(files))
            parts.append(read_parquet(measured, "dermssl prepare").to_pandas())
    rows = pd.concat(parts, ignore_index=True)
    bad = rows[rows["problem"].notna()]
    problems = [Problem(file, problem, "left out") for file, problem in zip(bad["file"], bad["problem"], strict=True)]
    good = rows[rows["problem"].isna()].drop(columns="problem")
    return good.merge(frame, on="file", how="left", validate="one_to_one"), problems


def _write_shard(work: Path, number: int, files: list[str], results: Iterator, bar: tqdm) -> None:
    rows, jpegs = [], []
    for file, (measured, jpeg) in zip(files, results, strict=True):
        rows.append({"file": file} | measured)
        if jpeg is not None:
            jpegs.append(jpeg)
        bar.update()
    store.write_shard(work / store.shard_name(number), jpegs)
    write_parquet(work / f"rows-{number:05d}.parquet", pa.Table.from_pylist(rows, schema=_ROW_SCHEMA))


_ROW_SCHEMA = pa.schema(
    [("file", pa.string()), ("problem", pa.string())]
    + [
        manifest.FIXED.field(name).with_nullable(True)
        for name in ("width", "height", "stored_width", "stored_height", "sha256", "pixel_sha256", "phash")
    ]
)


def decode_one(file: str, root: Path, short_side: int) -> tuple[dict[str, Any], bytes | None]:
    """Measurements of one file and its stored JPEG; on failure ``{"problem": ...}`` and None."""
    try:
        data = read_bytes(root / file, root)
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which is dropped, without saying in which file.
            warnings.simplefilter("ignore")
            original = open_image(data)
            image = upright_rgb(original)
    except DecodeError as error:
        return {"problem": str(error)}, None
    small = store.shrink(image, short_side)
    kept = original.format == "JPEG" and original.mode == "RGB" and small is image and orientation(original) == 1
    measured = {
        "width": original.width,
        "height": original.height,
        "stored_width": small.width,
        "stored_height": small.height,
        "sha256": hashes.file_hash(data),
        "pixel_sha256": hashes.pixel_hash(image),
        "phash": hashes.perceptual_hashes(small),
    }
    return measured, store.strip_metadata(data) if kept else store.encode(small)
