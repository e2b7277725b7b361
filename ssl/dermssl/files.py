"""Reads and writes the files that stages pass to each other, without pickle.

Every write is atomic. Reading a missing, damaged or foreign file raises an InputError that names it and its maker.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermssl.atomic import NOT_SUPPORTED, atomic_file
from dermssl.errors import InputError, shortened
from dermssl.paths import require_file

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from pydantic import BaseModel
    from torch import Tensor

LARGEST_TEXT = 256 * 2**20
"""Larger JSON and YAML files are refused, in bytes."""


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, which is the fingerprint of manifests and encoders."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_unchanged(path: Path, hashes: Mapping[str, str], maker: str) -> Path:
    """``path`` if it has the SHA-256 that ``hashes`` records under its name. Raises InputError naming ``maker``."""
    if sha256_file(require_file(path, maker)) != hashes.get(path.name):
        raise InputError(f"{path} was changed after it was written: run `{maker}` again")
    return path


@contextmanager
def reading(path: Path, maker: str) -> Iterator[None]:
    """Turn any exception of a library about the file's content into an InputError that names file and remedy."""
    require_file(path, maker)
    try:
        yield
    except (InputError, PermissionError):
        raise
    except Exception as error:  # a damaged file makes libraries raise nearly anything
        raise InputError(f"{path} is damaged ({shortened(error)}): make it again with `{maker}`") from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically. Characters that UTF-8 cannot hold (bytes of file names) become ``\\udcff``."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. Raises ValueError for NaN, which JSON has not."""
    # A lone surrogate stands for a byte of a file name that is not UTF-8. Its escape is read back unchanged.
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, maker: str, model: "type[BaseModel] | None" = None) -> dict[str, Any]:
    """Read a JSON object that the command ``maker`` wrote.

    ``model`` is a pydantic model of the required content. Keys that it does not name are returned too.
    Raises InputError: the file is missing, damaged or does not fit ``model``; the message names file and key.
    """
    from pydantic import ValidationError

    with reading(path, maker):
        if path.stat().st_size > LARGEST_TEXT:
            raise InputError(f"{path} is too large to be the output of `{maker}`: make it again")
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_no_number)
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: make it again with `{maker}`")
    try:
        if model is not None:
            model.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"]))
        what = f"has no '{key}'" if first["type"] == "missing" else f"'{key}': {first['msg']}"
        raise InputError(f"{path}: {shortened(what)}: make it again with `{maker}`") from None
    return value


def _no_number(word: str) -> None:
    raise ValueError(f"JSON has no {word}")


def write_yaml(path: Path, value: Any) -> None:
    """Write ``value`` as YAML in its own key order, atomically."""
    import yaml

    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises InputError naming the file and the mistake."""
    if not path.is_file():
        raise InputError(f"{path} is not a file: give the path of a YAML config")
    if path.stat().st_size > LARGEST_TEXT:
        raise InputError(f"{path} is too large for a YAML config")
    try:
        value = _parsed_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # PyYAML raises nearly anything for a value that does not fit its tag
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else shortened(error)
        raise InputError(f"{path} is not valid YAML: {reason}") from None
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{path} must hold `key: value` lines, not a {type(value).__name__}")
    return value or {}


def _parsed_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ValueError if a mapping has a key twice, of which PyYAML takes the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            for key, times in keys.items():
                if times > 1:
                    raise ValueError(f"line {node.start_mark.line + 1}: '{key}' stands {times} times: keep one")
            super().flatten_mapping(node)

    return yaml.load(text, Loader)


def write_csv(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table as CSV, atomically. A cell that a spreadsheet would run as a formula gets a ``'`` in front."""
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

    # A stream, because Arrow accepts only paths in UTF-8.
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        pq.write_table(table, stream, compression="zstd")


def read_parquet(path: Path, maker: str, columns: Sequence[str] = ()) -> "pa.Table":
    """Read a table that the command ``maker`` wrote. Raises InputError if it is damaged or lacks one of ``columns``."""
    import pyarrow.parquet as pq

    with reading(path, maker), path.open("rb") as stream, pq.ParquetFile(stream) as file:
        table = file.read()
        table.validate(full=True)  # text that is not UTF-8 would fail later
        table.slice(0, 0).to_pandas()  # so would damaged JSON in the metadata that pandas writes
    twice, number = Counter(table.column_names).most_common(1)[0] if table.column_names else ("", 0)
    if number > 1:
        raise InputError(f"{path} has {number} columns '{shortened(twice)}': make it again with `{maker}`")
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InputError(f"{path} has no column '{missing[0]}': make it again with `{maker}`")
    return table


def write_npy(path: Path, array: "np.ndarray") -> None:
    """Write one array as ``.npy`` without pickle, atomically."""
    import numpy as np

    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def new_npy(path: Path, shape: tuple[int, int]) -> "np.memmap":
    """A new memory-mapped ``.npy`` array of float32, to be written to. Raises OSError if the disk has no room for it.

    Without reserved room, a full disk would end the process by a signal (SIGBUS) when it writes.
    """
    import numpy as np

    array: np.memmap = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    if reserve := getattr(os, "posix_fallocate", None):
        try:
            with path.open("r+b") as stream:
                reserve(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
    return array


def read_npy(path: Path, maker: str, dimensions: int | None = None) -> "np.ndarray":
    """Memory-map one ``.npy`` array of floating-point numbers, read-only.

    Raises InputError: a missing or damaged file; an array without columns, of another type, or not of ``dimensions``.
    """
    import numpy as np

    with reading(path, maker):
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    if array.dtype.kind != "f" or 0 in array.shape[1:] or dimensions not in (None, array.ndim):
        what = f"{array.dtype}, shape {array.shape}"
        raise InputError(f"{path} holds no features ({what}): make it again with `{maker}`")
    return array


def write_safetensors(path: Path, tensors: "dict[str, Tensor]") -> None:
    """Write tensors as ``.safetensors``, atomically."""
    from safetensors.torch import save_file

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(ready, temporary, metadata={"format": "pt"})
