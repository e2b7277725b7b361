"""Reading and writing of the folders that stages hand to each other.

Every write is atomic: a temporary name in the same folder, fsync, rename. A reader therefore sees the
whole old file or the whole new one, also after a crash. Nothing here reads or writes pickle.
"""

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermssl.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from torch import Tensor

TEMPORARY = ".partial"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success it becomes ``path`` (replacing an old one), on failure it is removed.

    A crash between the two renames leaves the old folder under ``.<name>.old.partial``.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        publish_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(temporary: Path, path: Path) -> None:
    """Make the finished folder ``temporary`` (same file system) known as ``path``."""
    for file in temporary.rglob("*"):
        _fsync(file)
    _fsync(temporary)
    old = path.with_name(f".{path.name}.old{TEMPORARY}")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, maker: str) -> dict[str, Any]:
    """Read a JSON object that the command ``maker`` wrote; raises InputError naming file and remedy."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: make it with `{maker}`") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}): make it again with `{maker}`") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: make it again with `{maker}`")
    return value


def write_yaml(path: Path, value: Any) -> None:
    """Write ``value`` as YAML in its own key order, atomically."""
    import yaml

    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raises InputError naming the file and the line of a mistake."""
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path} is not a file: give the path of a YAML config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold `key: value` lines, not a {type(value).__name__}")
    return value


def write_parquet(path: Path, table: "pa.Table") -> None:
    """Write an Arrow table as Parquet (zstd), atomically."""
    import pyarrow.parquet as pq

    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_parquet_parts(path: Path, parts: "Iterable[pa.Table]") -> None:
    """Write Arrow tables of one schema as one Parquet file (zstd), atomically, with one of them in memory at a time."""
    import pyarrow.parquet as pq

    parts = iter(parts)
    first = next(parts)
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], parts):
            for batch in table.to_batches():
                # Batches share row groups, where write_table would begin a new one for every part.
                writer.write_batch(batch)


def read_parquet(path: Path, maker: str) -> "pa.Table":
    """Read a Parquet table that the command ``maker`` wrote; raises InputError naming file and remedy."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: make it with `{maker}`") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): make it again with `{maker}`") from None


def write_npy(path: Path, array: "np.ndarray") -> None:
    """Write one array as ``.npy`` without pickle, atomically."""
    import numpy as np

    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def read_npy(path: Path, maker: str) -> "np.ndarray":
    """Memory-map one ``.npy`` array read-only; raises InputError naming file and remedy."""
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: make it with `{maker}`") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): make it again with `{maker}`") from None


def write_safetensors(path: Path, tensors: "dict[str, Tensor]") -> None:
    """Write tensors (moved to the CPU, contiguous) as ``.safetensors``, atomically; a full disk is an OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_file(path) as temporary:
            save_file(ready, temporary, metadata={"format": "pt"})
    except SafetensorError as error:
        full = "No space" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from None


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes: the fingerprint of manifests and encoders."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_folder(path: Path, holding: str, maker: str) -> Path:
    """``path`` if it is a folder that holds ``holding``; else InputError saying what it should be."""
    if not path.exists():
        raise InputError(f"{path} does not exist: make it with `{maker}`")
    if not (path / holding).is_file():
        raise InputError(f"{path} holds no {holding}, so it is not the output of `{maker}`: give that folder")
    return path


def require_new_folder(path: Path, overwrite: bool, mark: str | None = None) -> Path:
    """``path`` if it may be written: absent, an empty folder, or ``overwrite`` was asked for.

    With ``mark`` only a folder that holds this file, so was made by the same command, is ever replaced.
    """
    if path.is_file():
        raise InputError(f"{path} is a file: choose another --out")
    if not path.exists() or not any(path.iterdir()):
        return path
    if not overwrite:
        raise InputError(f"{path} already exists: choose another --out, or add --overwrite to replace it")
    if mark and not (path / mark).is_file():
        raise InputError(f"{path} holds no {mark}, so it is not replaced even with --overwrite: choose another --out")
    return path
