"""A raw data set as it lies on disk: its image files and tables.

What cannot be used is reported: links that lead elsewhere, foreign formats, packed archives.
"""

import os
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from dermssl.errors import InputError
from dermssl.files import sha256_file
from dermssl.prepare.decode import FORMATS, MAX_BYTES
from dermssl.prepare.source import Problem
from dermssl.prepare.tables import choose_tables, read_table

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"}
PHONE_SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".avif": "AVIF"}
REMEDIES = {"HEIF": "install the extra heif (pip install 'dermssl[heif]')", "AVIF": "install a Pillow with AVIF"}
UNREADABLE_SUFFIXES = {
    *(".dcm", ".dicom", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".svs", ".psd"),
    *(".jp2", ".j2k", ".jxl", ".jxr", ".tga", ".ico", ".eps", ".svg"),
}
ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
TABLE_SUFFIXES = {".csv", ".tsv", ".tab"}
SHEET_SUFFIXES = {".xlsx", ".xls", ".ods", ".numbers", ".parquet"}
OTHER_SUFFIXES = {
    *(*TABLE_SUFFIXES, *SHEET_SUFFIXES, ".txt"),
    *(".md", ".json", ".yaml", ".yml", ".xml", ".html", ".pdf", ".py"),
}
"""Suffixes of files that are not opened to see whether they are images."""
FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
FIRST_BOXES = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
TABLE_DEPTH = 3
"""Folders below the root in which tables are looked for."""


class RawFolder:
    """The files below ``root``; links are followed where they stay there or lead into ``follow``."""

    def __init__(self, root: Path, follow: Path | None = None) -> None:
        self.root = root
        self.allowed = [folder.resolve() for folder in (root, follow) if folder]
        self.problems: list[Problem] = []
        self._digests: dict[str, str | None] = {}
        self._told: set[str] = set()

    @cached_property
    def images(self) -> list[str]:
        """Paths of all image files, relative, with ``/``, sorted; hidden ones are passed over."""
        found, archives = [], []
        for file in self._files:
            suffix = _suffix(file)
            kind = PHONE_SUFFIXES.get(suffix)
            if suffix in IMAGE_SUFFIXES or kind in FORMATS:
                found.append(file)
            elif kind or suffix in UNREADABLE_SUFFIXES:
                remedy = f"{REMEDIES[kind]} or " if kind else ""
                self._report(file, f"{suffix} images cannot be read: {remedy}convert to JPEG or PNG")
            elif suffix in ARCHIVE_SUFFIXES:
                archives.append(file)
            elif suffix not in OTHER_SUFFIXES:
                start = b""
                with suppress(OSError), (self.root / file).open("rb") as stream:
                    start = stream.read(132)
                riff, box = (start[:4], start[8:12]) == (b"RIFF", b"WEBP"), start[4:12] in FIRST_BOXES
                if riff or box or start.startswith(FIRST_BYTES):
                    self._report(file, "an image by its content, though not by its name", "used")
                    found.append(file)
                elif start[128:] == b"DICM":
                    self._report(file, "DICOM images cannot be read: convert to JPEG or PNG")
        names = {PurePosixPath(file).name for file in found}
        for file in archives:
            self._report_archive(file, names)
        return sorted(found)

    @cached_property
    def _files(self) -> list[str]:
        """Every file that is not hidden, sorted."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[str]:
        """Real folders first, so that a linked one is read under its own name."""
        folders, links = [""], list[str]()
        seen = set()
        while folders or links:
            below = folders.pop() if folders else links.pop(0)
            folder = os.path.realpath(self.root / below)
            if folder in seen:
                self._report(below, "link to a folder that is read under its own name", "read once")
                continue
            seen.add(folder)
            try:
                entries = sorted(os.scandir(self.root / below), key=lambda entry: entry.name)
            except OSError as error:
                self._report(below or ".", f"folder cannot be read ({error.strerror})")
                continue
            for entry in entries:
                path = f"{below}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink() and not self._may_follow(entry.path):
                    outside = "link out of the data folder: allow the folder it points to with --follow"
                    self._report(path, outside if Path(entry.path).exists() else "link to nothing")
                elif entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif entry.is_file() and _is_utf8(path):
                    yield path
                elif _suffix(path) in IMAGE_SUFFIXES:
                    self._report(path, "file name is not UTF-8: rename it" if entry.is_file() else "not a file")

    def _may_follow(self, path: str) -> bool:
        real = Path(os.path.realpath(path))
        return real.exists() and any(real.is_relative_to(folder) for folder in self.allowed)

    def _report(self, path: str, problem: str, action: str = "left out") -> None:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        self.problems.append(Problem(shown, problem, action))

    def _report_archive(self, file: str, names: set[str]) -> None:
        """An archive is reported where it may hold images that are not among the files called ``names``."""
        if _suffix(file) != ".zip":
            self._report(file, "archive still packed: unpack it")
            return
        try:
            members = {PurePosixPath(name).name for name in zipfile.ZipFile(self.root / file).namelist()}
        except (zipfile.BadZipFile, OSError, ValueError):
            self._report(file, "archive damaged or not wholly downloaded")
            return
        images = {name for name in members if _suffix(name) in IMAGE_SUFFIXES} - names
        if images:
            self._report(file, f"archive still packed: unpack it ({len(images)} further images)")

    @property
    def tables(self) -> list[str]:
        """Tables near the root, whatever they hold."""
        return [file for file in self._files if _suffix(file) in TABLE_SUFFIXES and file.count("/") <= TABLE_DEPTH]

    def find(self, *names: str) -> Path:
        """The table called one of ``names``, see `choose_tables`; others of its name are reported.

        Raises InputError: there is none.
        """
        near = [file for file in self._files if file.count("/") <= TABLE_DEPTH and _suffix(file) not in IMAGE_SUFFIXES]
        found = choose_tables(near, *names)
        for other in found[1:]:
            if other not in self._told and not self.same_bytes(found[0], other):
                self._told.add(other)
                self._report(other, f"another table that may be meant: {found[0]} is read")
        if found:
            return self.root / found[0]
        shown = " or ".join(name if "." in name else f"{name}.csv" for name in names)
        packed = [file for file in near if _suffix(file) in ARCHIVE_SUFFIXES]
        sheets = [file for file in near if _suffix(file) in SHEET_SUFFIXES]
        remedy = f"; unpack {', '.join(packed[:5])} first" * bool(packed)
        remedy += f"; save {', '.join(sheets[:5])} as CSV" * bool(sheets)
        others = [file for file in near if _suffix(file) in TABLE_SUFFIXES]
        remedy += f"; its tables are {', '.join(others[:5])}" * bool(others and not remedy)
        raise InputError(f"{self.root} holds no {shown}: give the folder that does with --root{remedy}")

    def table(self, *names: str, required: Iterable[str] = (), only: Sequence[str] | None = None) -> pd.DataFrame:
        """The table called one of ``names``, see `find` and `read_table`."""
        path = self.find(*names)
        table, name = read_table(path, required, only), path.relative_to(self.root).as_posix()
        if table.attrs["short"]:
            problem = f"rows with fewer fields than the header ({table.attrs['short']}): is the file cut off?"
            self._report(name, problem, "the missing fields are blank")
        if table.attrs["doubled"]:
            self._report(name, f"several columns of one name: {', '.join(table.attrs['doubled'])}", "the first is read")
        return table

    def copies(self, files: Iterable[str]) -> list[list[str]]:
        """Those of ``files`` that are byte for byte the same, two or more together, in their order."""
        by_size, by_digest = defaultdict[int, list[str]](list), defaultdict[str | None, list[str]](list)
        for file in files:
            with suppress(OSError):
                by_size[(self.root / file).stat().st_size].append(file)
        for size, same in by_size.items():
            for file in same if 0 < size <= MAX_BYTES and len(same) > 1 else ():
                by_digest[self._digest(file)].append(file)
        return [same for digest, same in by_digest.items() if digest and len(same) > 1]

    def same_bytes(self, *files: str) -> bool:
        """Whether these files are copies of each other."""
        return len(files) < 2 or any(len(same) == len(files) for same in self.copies(files))

    def _digest(self, file: str) -> str | None:
        """Hash of a file's bytes, None where it cannot be read."""
        if file not in self._digests:
            self._digests[file] = None
            with suppress(OSError):
                self._digests[file] = sha256_file(self.root / file)
        return self._digests[file]


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _is_utf8(path: str) -> bool:
    return path.encode("utf-8", "replace").decode("utf-8") == path
