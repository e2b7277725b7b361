"""Checks of the paths that users give: what must be there, and where a command may write."""

import json
import os
import stat
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
"""Bytes of a name that a user may give: file systems take 255, and temporary names are longer than their target's."""
HIDDEN = (".*.lock", f".*{TEMPORARY}")
"""Locks, and what a killed command left."""


def require_file(path: Path, maker: str) -> Path:
    """``path`` if it is an ordinary file; else InputError that names the command which makes it."""
    mode = file_mode(path)
    if mode is None:
        raise InputError(f"{path} does not exist: make it with `{maker}`")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is damaged (no ordinary file): make it again with `{maker}`")
    return path


def require_folder(path: Path, holding: str, maker: str) -> Path:
    """``path`` if it is a folder that holds ``holding``; else InputError saying what it should be."""
    if file_mode(path) is None:
        raise InputError(f"{path} does not exist: make it with `{maker}`")
    if not (path / holding).is_file():
        raise InputError(f"{path} holds no {holding}, so it is not the output of `{maker}`: give that folder")
    return path


def inside(folder: Path, name: str) -> Path:
    """``folder / name``; InputError where it is a link out of the folder, as a folder from somebody else may hold."""
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
    """``path`` if it may be written: absent, an empty folder, or one to replace because ``overwrite`` was asked for.

    ``written`` are patterns of the files that the command writes, such as ``images/*.jpg``. A folder is replaced only
    if it holds the first of them, and only files that match one of them (or reports of ``--json``). It must also lie
    apart from the ``inputs``, which the command reads. Where other programs write a file of that first name too, this
    command's file (JSON) must have the ``key``, with the ``value`` where one is given.
    """
    mode = _require_writable(path, "--out")
    if mode is not None and not stat.S_ISDIR(mode):
        raise InputError(f"{path} is a file: choose another --out")
    if mode is None or all(_is_named(entry.name, HIDDEN) for entry in path.iterdir()):
        return path
    mark = written[0]
    held = json_object(path / mark)
    if not (path / mark).is_file() or (key is not None and (key not in held or value not in (None, held[key]))):
        raise InputError(
            f"{path} already exists and holds no {mark} of this command, so it is not replaced, even with --overwrite: "
            "choose another --out"
        )
    where = path.resolve()
    for given in inputs:
        read = Path(given).resolve() if given and file_mode(Path(given)) is not None else None
        if read and (where == read or where in read.parents or read in where.parents):
            raise InputError(f"{path} is, holds or lies in {given}, which is read: choose another --out")
    if not overwrite:
        raise InputError(f"{path} already exists: choose another --out, or add --overwrite to replace it")
    below = {entry.relative_to(path) for entry in path.rglob("*") if entry.is_symlink() or not entry.is_dir()}
    names = {name.as_posix() for name in below if not any(_is_named(part, HIDDEN) for part in name.parts)}
    others = sorted(name for name in names if not _is_named(name, written))
    others = [name for name in others if not (name.endswith(".json") and REPORT_MARK in json_object(path / name))]
    if others:
        raise InputError(
            f"{path} also holds {shortened(', '.join(others), 200)}, which this command did not write, so it is not "
            "replaced: move that away, or choose another --out"
        )
    return path


def _is_named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def json_object(file: Path, *below: str) -> dict[str, Any]:
    """The JSON object in ``file``, or the one under the keys ``below``; an empty one where there is none."""
    if not file.is_file():
        return {}
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        value = json.loads(file.read_text(encoding="utf-8"))
        for key in below:
            value = value[key]
        return value if isinstance(value, dict) else {}
    return {}


def require_output_file(path: Path, option: str, ours: Callable[[Path], bool]) -> Path:
    """``path`` if a file may be written there: it is absent, or a file that ``ours`` says this program wrote.

    Raises InputError: it is a folder, a device or another's file, or its folder cannot be written.
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


def _require_writable(path: Path, option: str) -> int | None:
    """The mode of ``path``, None where there is nothing; InputError where nothing can be put under that name."""
    size = len(os.fsencode(path.name))
    if size > LONGEST_NAME:
        raise InputError(f"{option}: the name {shortened(path.name, 40)} has {size} bytes: {LONGEST_NAME} are allowed")
    mode = file_mode(path, option)
    parent = path.absolute().parent
    while not parent.exists() and not parent.is_symlink():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{option} {shortened(path)}: {parent} is no folder: choose another {option}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{option} {shortened(path)}: {parent} cannot be written: choose another {option}")
    return mode


def file_mode(path: Path, name: str | None = None) -> int | None:
    """``st_mode``, None where there is nothing; InputError (of ``name``) for names that no file can have."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shortened(name or path)} cannot be used ({reason}): give another path") from None
