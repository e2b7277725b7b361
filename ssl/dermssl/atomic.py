"""Atomic writing of files and folders, and the lock against two writers of one folder.

A file or folder is written under a temporary name beside its target, flushed to the disk, and renamed. So a reader sees
the complete old version or the complete new one, also after a crash.
"""

import ctypes
import errno
import glob
import hashlib
import importlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from dermssl import log
from dermssl.errors import InputError, shortened

TEMPORARY = ".partial"
LEASE = 180
"""Seconds that a requeued job waits for a lock: NFSv4 and Lustre release the locks of a lost node after 90 to 150."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Linux's constants for renameat2(2)."""
NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of a file system that lacks a function."""

_held: set[Path] = set()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. On success it replaces ``path``, on failure it is removed.

    The file gets the permissions of the umask, even if the library that writes it sets others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{_host()}-*{TEMPORARY}"):
        number = leftover.name.removesuffix(TEMPORARY).rpartition("-")[2]
        if not (number.isdigit() and psutil.pid_exists(int(number))):  # its process no longer runs
            leftover.unlink(missing_ok=True)
    temporary = _temporary(path)
    temporary.touch()
    permissions = temporary.stat().st_mode & 0o777
    try:
        yield temporary
        temporary.chmod(permissions)
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder. On success it replaces ``path``, on failure it is removed. ``path`` is `locked`."""
    path = path.resolve()
    with locked(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.mkdir()
        try:
            yield temporary
            publish_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(temporary: Path, path: Path) -> None:
    """Replace ``path`` with the finished folder ``temporary`` on the same file system, in one step if possible.

    If the system cannot exchange two folders, the old one is renamed first; after a crash `locked` puts it back.
    """
    for file in temporary.rglob("*"):
        _fsync(file)
    _fsync(temporary)
    with locked(path):
        if not path.exists():
            temporary.rename(path)
            _fsync(path.parent)
            return
        old = _old(path)
        if _exchange(temporary, path):
            temporary.rename(old)
        else:
            path.rename(old)
            temporary.rename(path)
        _fsync(path.parent)
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder in one step if it exists. After a kill, `locked` removes the rest of it."""
    if folder.exists():
        with locked(folder):
            temporary = _temporary(folder)
            folder.rename(temporary)
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step. False if the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in NOT_SUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing ``folder``, and remove what a killed writer left beside it.

    The lock is a file beside the folder. This process may lock it again inside the block. Ranks above 0 do not lock.
    Raises InputError: another process is writing the folder.
    """
    try:
        folder = folder.resolve()
        file = folder.with_name(f".{folder.name}.lock")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a null, the root
        raise InputError(f"{shortened(folder)} cannot be used ({shortened(error)}): give another path") from None
    if folder in _held or int(os.environ.get("RANK") or 0):
        yield
        return
    made = [parent for parent in folder.parents if not parent.exists()]
    lock = None
    try:
        with suppress(OSError):  # if nothing can be written, the command's own write reports it
            folder.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(file, folder)
        _held.add(folder)
        _tidy(folder)
        yield
    finally:
        _held.discard(folder)
        if lock is not None:
            file.unlink(missing_ok=True)
            lock.close()
        for parent in made:
            with suppress(OSError):  # it is no longer empty
                parent.rmdir()


def take_lock(file: Path, folder: Path) -> IO[str] | None:
    """Take a POSIX lock on ``file``, which lasts until the returned stream is closed or this process ends.

    A job that Slurm requeued waits for the lock, because network storage keeps the lock of a dead node for a while.
    Without locks in the system or file system, nothing is locked.
    Raises InputError: another process holds the lock, so it is writing ``folder``.
    """
    requeued = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    until = time.monotonic() + (LEASE if requeued else 0)
    while True:
        try:
            stream = file.open("a")
        except OSError:
            return None
        if os.name != "posix":
            return stream
        fcntl: Any = importlib.import_module("fcntl")
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            stream.close()
            if (left := until - time.monotonic()) <= 0:
                raise InputError(
                    f"another process is writing {folder}: wait for its end or choose another --out; "
                    f"if there is no such process, delete {file}"
                ) from None
            log.info("waiting at most %.0f s for the lock of %s", left, folder)
            time.sleep(min(10, left))
            continue
        except OSError:
            return stream
        with suppress(FileNotFoundError):
            if os.path.samestat(file.stat(), os.fstat(stream.fileno())):
                return stream
        stream.close()  # its last holder removed the file between our opening and our locking


def remove_leftovers(folder: Path) -> None:
    """Remove all temporary files and folders below ``folder``. The caller must hold its lock."""
    for leftover in folder.rglob(f".*{TEMPORARY}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Put back an old folder whose replacement a crash interrupted, and remove its other leftovers, and those in it."""
    if _old(folder).exists() and not folder.exists():
        _old(folder).rename(folder)
    for beside in folder.parent.glob(f".{glob.escape(folder.name)}.*{TEMPORARY}"):
        # Those of a folder whose name only begins alike (`run.v2` beside `run`) may be in use.
        owner = beside.name[1:].removesuffix(TEMPORARY).rpartition(".")[0]
        if owner in (folder.name, f"{folder.name}.unfinished") and beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
    for inside in filter(Path.is_file, folder.glob(f".*{TEMPORARY}")):
        inside.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}{TEMPORARY}")


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old{TEMPORARY}")


def _host() -> str:
    """Six characters that stand for this machine, because process ids differ between machines."""
    return hashlib.sha256(os.fsencode(socket.gethostname())).hexdigest()[:6]


def _fsync(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
