"""Reading and writing of the files that stages hand to each other, and the checks of the paths that users give.

Every write is atomic (`dermssl.atomic`). Every read of a missing, damaged or foreign file is one line that names the
file and the command that makes it. Nothing here reads or writes pickle.
"""

import errno
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermssl.atomic import TEMPORARY, atomic_file, atomic_folder, locked, publish_folder  # noqa: F401
from dermssl.errors import InputError, shortened

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from pydantic import BaseModel
    from torch import Tensor

LONGEST_NAME = 200
"""Bytes of a name that a user may give: file systems take 255, and temporary names are longer than their target's."""
LARGEST_TEXT = 256 * 2**20
"""Bytes of a JSON or YAML file that is read at all."""
REPORT_MARK = "report_of"
"""The key of a JSON report (``--json``) that names the command which wrote it."""


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; what UTF-8 cannot hold (bytes of a file's name) is written as ``\\udcff``."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused because JSON has none."""
    # A lone surrogate stands for a byte of a file's name that is not UTF-8. As an escape it is read back as it was.
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, maker: str, model: "type[BaseModel] | None" = None) -> dict[str, Any]:
    """Read a JSON object that the command ``maker`` wrote.

    Args:
        path: the file.
        maker: the command, for the error.
        model: a pydantic model of what must be in the file; keys that it does not name are kept as they are.

    Raises:
        InputError: the file is missing, damaged or does not fit ``model``; the line names the file and the key.
    """
    text = _read_text(path, maker)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({shortened(error)}): make it again with `{maker}`") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: make it again with `{maker}`")
    if model is not None:
        _check_model(path, maker, model, text)
    return value


def _check_model(path: Path, maker: str, model: "type[BaseModel]", text: str) -> None:
    from pydantic import ValidationError

    try:
        model.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"]))
        what = f"has no '{key}'" if first["type"] == "missing" else f"'{key}': {first['msg']}"
        raise InputError(f"{path}: {shortened(what)}: make it again with `{maker}`") from None


def _read_text(path: Path, maker: str) -> str:
    require_file(path, maker)
    if path.stat().st_size > LARGEST_TEXT:
        raise InputError(f"{path} is too large to be the output of `{maker}`: make it again")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged ({error}): make it again with `{maker}`") from None


def require_file(path: Path, maker: str) -> Path:
    """``path`` if it is an ordinary file; else InputError that names the command which makes it."""
    mode = _mode(path, str(path))
    if mode is None:
        raise InputError(f"{path} does not exist: make it with `{maker}`")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is damaged (no ordinary file): make it again with `{maker}`")
    return path


def write_yaml(path: Path, value: Any) -> None:
    """Write ``value`` as YAML in its own key order, atomically."""
    import yaml

    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raises InputError naming the file and the line of a mistake."""
    import yaml

    mode = _mode(path, str(path))
    if mode is None or not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a file: give the path of a YAML config")
    if path.stat().st_size > LARGEST_TEXT:
        raise InputError(f"{path} is too large for a YAML config")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # PyYAML raises nearly anything for a value that does not fit its tag
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else shortened(error)
        raise InputError(f"{path} is not valid YAML: {reason}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold `key: value` lines, not a {type(value).__name__}")
    return value


def write_csv(path: Path, frame: "pd.DataFrame", index: bool = False) -> None:
    """Write a table as CSV, atomically; cells that a spreadsheet would run as a formula get a ``'`` in front."""
    if index:
        frame = frame.reset_index()
    safe = frame.apply(lambda column: column.map(_defused) if column.dtype.kind not in "biufM" else column)
    safe = safe.set_axis([_defused(name) for name in frame.columns], axis=1)
    write_text(path, safe.to_csv(index=False, lineterminator="\n"))


def _defused(cell: Any) -> Any:
    if not isinstance(cell, str) or cell[:1] not in tuple("=+-@\t\r"):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell


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


def read_parquet(path: Path, maker: str, columns: Sequence[str] = ()) -> "pa.Table":
    """Read a Parquet table that the command ``maker`` wrote, and that must have ``columns``.

    Raises:
        InputError: the file is missing or damaged, or has no such column; the line names the file and the remedy.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_file(path, maker)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        table.validate(full=True)  # text that is not UTF-8 would end some later step
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({shortened(error)}): make it again with `{maker}`") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InputError(f"{path} has no column '{missing[0]}': make it again with `{maker}`")
    return table


def write_npy(path: Path, array: "np.ndarray") -> None:
    """Write one array as ``.npy`` without pickle, atomically."""
    import numpy as np

    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        try:
            np.save(stream, array, allow_pickle=False)
        except OSError as error:  # NumPy says "N requested and M written" of a full disk, without its number
            raise OSError(error.errno or errno.ENOSPC, error.strerror or str(error), str(path)) from None


def read_npy(path: Path, maker: str, dimensions: int | None = None) -> "np.ndarray":
    """Memory-map one ``.npy`` array of floating-point numbers read-only.

    Raises:
        InputError: the file is missing, damaged, empty, of another type, or has not ``dimensions`` axes.
    """
    import numpy as np

    require_file(path, maker)
    try:
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header raises nearly anything
        raise InputError(f"{path} is damaged ({shortened(error)}): make it again with `{maker}`") from None
    if array.dtype.kind != "f" or 0 in array.shape[1:] or dimensions not in (None, array.ndim):
        what = f"{array.dtype}, shape {array.shape}"
        raise InputError(f"{path} holds no features ({what}): make it again with `{maker}`")
    return array


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


def read_safetensors(path: Path, maker: str) -> "dict[str, Tensor]":
    """Read the tensors that the command ``maker`` wrote; raises InputError naming file and remedy."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_file(path, maker)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is damaged ({shortened(error)}): make it again with `{maker}`") from None


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes: the fingerprint of manifests and encoders."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_folder(path: Path, holding: str, maker: str) -> Path:
    """``path`` if it is a folder that holds ``holding``; else InputError saying what it should be."""
    if _mode(path, str(path)) is None:
        raise InputError(f"{path} does not exist: make it with `{maker}`")
    if not (path / holding).is_file():
        raise InputError(f"{path} holds no {holding}, so it is not the output of `{maker}`: give that folder")
    return path


def require_new_folder(
    path: Path, overwrite: bool, mark: str, inputs: Iterable[str | Path | None] = (), key: str | None = None
) -> Path:
    """``path`` if it may be written: absent, an empty folder, or one to replace because ``overwrite`` was asked for.

    Args:
        path: the folder.
        overwrite: whether a folder that is there may be replaced.
        mark: a file that the same command puts into every folder it makes; only a folder that holds it is replaced.
        inputs: what the command reads; a folder that is, holds or lies in one of these is not replaced.
        key: where other programs have files of the name ``mark`` too, a key that ours has (JSON).
    """
    mode = _require_writable(path, "--out")
    if mode is not None and not stat.S_ISDIR(mode):
        raise InputError(f"{path} is a file: choose another --out")
    if mode is None or all(entry.name.endswith((TEMPORARY, ".lock")) for entry in path.iterdir()):
        return path
    if not _made_by_us(path / mark, key):
        raise InputError(
            f"{path} already exists and holds no {mark} of this command, so it is not replaced, even with --overwrite: "
            "choose another --out"
        )
    require_apart(path, inputs)
    if not overwrite:
        raise InputError(f"{path} already exists: choose another --out, or add --overwrite to replace it")
    return path


def require_apart(path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raise InputError if the folder ``path``, which is to be replaced, is, holds or lies in one of ``inputs``."""
    where = path.resolve()
    for given in inputs:
        if not given or _mode(Path(given), str(given)) is None:
            continue
        read = Path(given).resolve()
        if where == read or where in read.parents or read in where.parents:
            raise InputError(f"{path} is, holds or lies in {given}, which is read: choose another --out")


def _made_by_us(file: Path, key: str | None) -> bool:
    if key is None or not file.is_file():
        return file.is_file()
    try:
        return key in read_json(file, "")
    except (InputError, OSError):
        return False


def require_output_file(path: Path, option: str, ours: Callable[[Path], bool]) -> Path:
    """``path`` if a file may be written there: it is absent, or a file that ``ours`` says this program wrote.

    Raises:
        InputError: it is a folder, a device or another's file, or its folder cannot be written.
    """
    mode = _require_writable(path, option)
    if mode is None and not path.is_symlink():
        return path
    if mode is not None and stat.S_ISDIR(mode):
        raise InputError(f"{option} {path} is a folder: give the name of a file")
    if mode is None or not stat.S_ISREG(mode):
        raise InputError(f"{option} {path} is no ordinary file: give another name")
    if not ours(path):
        raise InputError(f"{option} {path} was not written by this command, so it is kept: give another name")
    return path


def is_report(path: Path) -> bool:
    """Whether ``path`` is a report that ``--json`` wrote."""
    try:
        return str(read_json(path, "").get(REPORT_MARK)).startswith(("dermssl ", "dermeval "))
    except (InputError, OSError):
        return False


def _require_writable(path: Path, option: str) -> int | None:
    """The mode of ``path``, None where there is nothing; InputError where nothing can be put under that name."""
    size = len(os.fsencode(path.name))
    if size > LONGEST_NAME:
        raise InputError(f"{option}: the name {shortened(path.name, 40)} has {size} bytes: {LONGEST_NAME} are allowed")
    mode = _mode(path, option)
    parent = path.absolute().parent
    while not parent.exists() and not parent.is_symlink():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{option} {shortened(path)}: {parent} is no folder: choose another {option}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{option} {shortened(path)}: {parent} cannot be written: choose another {option}")
    return mode


def _mode(path: Path, name: str) -> int | None:
    """``st_mode``, None where there is nothing; InputError for names that no file can have."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shortened(name)} cannot be used ({reason}): give another path") from None
