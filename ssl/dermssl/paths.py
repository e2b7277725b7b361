"""Checks the paths that users give: whether an input is there, and whether a command may write an output."""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dermssl.atomic import TEMPORARY
from dermssl.errors import InputError, shortened

REPORT_MARK = "report_of"
"""The key of a JSON report (``--json``) that names the command which wrote it."""
LONGEST_NAME = 200
"""Longest file name that a user may give, in bytes: file systems take 255, and temporary names are longer."""
HIDDEN = (".*.lock", f".*{TEMPORARY}")
"""Locks and leftovers of killed commands."""


def require_file(path: Path, maker: str) -> Path:
    """``path`` if it is an ordinary file. Raises InputError that names the command ``maker`` otherwise."""
    if not path.exists():
        raise InputError(f"{path} does not exist: make it with `{maker}`")
    if not path.is_file():
        raise InputError(f"{path} is no ordinary file: make it again with `{maker}`")
    return path


def require_folder(path: Path, holding: str, maker: str) -> Path:
    """``path`` if it is a folder with the file ``holding``. Raises InputError that names ``maker`` otherwise."""
    if not path.exists():
        raise InputError(f"{path} does not exist: make it with `{maker}`")
    if not (path / holding).is_file():
        raise InputError(f"{path} holds no {holding}, so it is not the output of `{maker}`: give such a folder")
    return path


def require_name(name: str, what: str) -> None:
    """Raise InputError unless ``name``, which is ``what``, can begin ids and file names."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        allowed = "up to 100 letters, digits, '_', '-' and '.'"
        raise InputError(f"{what} '{name[:120]}' cannot begin an id or file name: use {allowed}")


def inside(folder: Path, name: str) -> Path:
    """``folder / name``. Raises InputError if it is a link out of the folder, which somebody else may have made."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} is a link out of its folder: put a copy of the file in its place")
    return path


def require_new_folder(
    path: Path,
    overwrite: bool,
    written: Sequence[str],
    inputs: Iterable[str | Path | None] = (),
    key: str | None = None,
    value: str | None = None,
) -> Path:
    """``path`` if the command may write it: it is absent, an empty folder, or a folder that ``overwrite`` may replace.

    ``written`` are patterns of the files that the command writes, such as ``images/*.jpg``. A folder may be replaced if
    it holds the first of them and no other files than these and reports of ``--json``. If other programs write a file
    with that first name too, the folder's file must be JSON with the ``key`` (and ``value``) that this command writes.
    An existing folder must not overlap with the ``inputs`` of the command. No output may lie in a dataset folder.
    Raises InputError: the command may not write ``path``.
    """
    _require_writable(path, "--out")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose another --out")
    where = path.resolve()
    if not path.exists() or all(_is_named(entry.name, HIDDEN) for entry in path.iterdir()):
        return path
    mark = written[0]
    held = json_object(path / mark)
    if not (path / mark).is_file() or (key is not None and (key not in held or value not in (None, held[key]))):
        raise InputError(
            f"{path} already exists and holds no {mark} of this command, so it is not replaced, even with --overwrite: "
            "choose another --out"
        )
    for given in inputs:
        read = Path(given).resolve() if given and Path(given).exists() else None
        if read and (where == read or where in read.parents or read in where.parents):
            raise InputError(f"{path} is, holds or lies in the input {given}, which is read: choose another --out")
    if not overwrite:
        raise InputError(f"{path} already exists: choose another --out, or add --overwrite to replace it")
    below = {entry.relative_to(path) for entry in path.rglob("*") if entry.is_symlink() or not entry.is_dir()}
    names = {name.as_posix() for name in below if not any(_is_named(part, HIDDEN) for part in name.parts)}
    others = sorted(name for name in names if not _is_named(name, written))
    others = [name for name in others if not (name.endswith(".json") and REPORT_MARK in json_object(path / name))]
    if others:
        raise InputError(
            f"{path} also holds {shortened(', '.join(others), 200)}, which this command did not write, so it is not "
            "replaced: move these files away, or choose another --out"
        )
    return path


def refuse_within_dataset(out: Path, option: str = "--out") -> None:
    """Raise InputError if ``out`` lies in a dataset folder, which holds the data set and nothing else."""
    for parent in out.resolve().parents:
        if "schema_version" in json_object(parent / "dataset.json"):
            raise InputError(f"{out} lies in the dataset folder {parent}: choose another {option}")


def _is_named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def json_object(file: Path, *below: str) -> dict[str, Any]:
    """The JSON object in ``file``, or the one under its keys ``below``; an empty one if there is none."""
    if not file.is_file():
        return {}
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        value = json.loads(file.read_text(encoding="utf-8"))
        for key in below:
            value = value[key]
        return value if isinstance(value, dict) else {}
    return {}


def require_output_file(path: Path, option: str, ours: Callable[[Path], bool]) -> Path:
    """``path`` if a file may be written there: it is absent, or a file that this program wrote, as ``ours`` finds out.

    Raises InputError: it is a folder, a device or another program's file, or its folder cannot be written.
    """
    _require_writable(path, option)
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder: give the name of a file")
    if (path.exists() or path.is_symlink()) and not path.is_file():
        raise InputError(f"{option} {path} is no ordinary file: give another name")
    if path.exists() and not ours(path):
        raise InputError(f"{option} {path} was not written by this command, so it is kept: give another name")
    return path


def _require_writable(path: Path, option: str) -> None:
    """Raise InputError if nothing can be written at ``path``."""
    size = len(os.fsencode(path.name))
    if size > LONGEST_NAME:
        raise InputError(f"{option}: the name {shortened(path.name, 40)} has {size} bytes: {LONGEST_NAME} are allowed")
    try:
        refuse_within_dataset(path, option)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null
        raise InputError(f"{option} {shortened(path)} cannot be used ({shortened(error)}): give another path") from None
    parent = path.absolute().parent
    while not parent.exists() and not parent.is_symlink():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{option} {shortened(path)}: {parent} is no folder: choose another {option}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{option} {shortened(path)}: {parent} cannot be written: choose another {option}")
