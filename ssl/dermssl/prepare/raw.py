"""A raw data set as it lies on disk: its image files, its tables, and the problems that were found in them."""

import os
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from dermssl.errors import InputError, counted
from dermssl.files import sha256_file
from dermssl.prepare.decode import FORMATS, MAX_BYTES
from dermssl.prepare.source import Problem
from dermssl.prepare.tables import choose_tables, read_table

PHONE_SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".avif": "AVIF"}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", *PHONE_SUFFIXES}
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
"""Files with these suffixes are no images. Files with unknown suffixes are opened to find out."""
FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
FIRST_BOXES = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
TABLE_DEPTH = 3
"""Tables are looked for in the root and in folders up to this depth below it."""


class RawFolder:
    """The files below ``root``. Links are followed where they lead into ``root`` or ``follow``.

    Everything that reads the data set adds what it finds wrong to ``problems``, by `report`.
    """

    def __init__(self, root: Path, follow: Path | None = None) -> None:
        self.root = root
        self.allowed = [folder.resolve() for folder in (root, follow) if folder]
        self.problems: list[Problem] = []
        self._digests: dict[str, str | None] = {}
        self._other_tables: set[str] = set()

    def report(self, file: str, problem: str, action: str = "left out") -> None:
        """Add a `Problem`."""
        self.problems.append(Problem(os.fsencode(file).decode("utf-8", "backslashreplace"), problem, action))

    @cached_property
    def images(self) -> list[str]:
        """Paths of all image files below the root, with ``/``, sorted. Hidden files and folders are skipped."""
        found, archives = [], []
        for file in self._files:
            suffix = _suffix(file)
            format_ = PHONE_SUFFIXES.get(suffix)
            if format_ in FORMATS or (suffix in IMAGE_SUFFIXES and not format_):
                found.append(file)
            elif format_ or suffix in UNREADABLE_SUFFIXES:
                remedy = f"{REMEDIES[format_]} or " if format_ else ""
                self.report(file, f"{suffix} images cannot be read: {remedy}convert to JPEG or PNG")
            elif suffix in ARCHIVE_SUFFIXES:
                archives.append(file)
            elif suffix not in OTHER_SUFFIXES:
                start = b""
                with suppress(OSError), (self.root / file).open("rb") as stream:
                    start = stream.read(132)
                riff, box = (start[:4], start[8:12]) == (b"RIFF", b"WEBP"), start[4:12] in FIRST_BOXES
                if riff or box or start.startswith(FIRST_BYTES):
                    self.report(file, "an image by its content, though not by its name", "used")
                    found.append(file)
                elif start[128:] == b"DICM":
                    self.report(file, "DICOM images cannot be read: convert to JPEG or PNG")
        names = {PurePosixPath(file).name for file in self._files}
        for file in archives:
            self._report_archive(file, names)
        return sorted(found)

    @cached_property
    def _files(self) -> list[str]:
        """Every file that is not hidden, sorted."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[str]:
        """Walk through real folders first, so that a folder with a link to it is read under its own name."""
        folders, links = [""], list[str]()
        seen = set()
        while folders or links:
            below = folders.pop() if folders else links.pop(0)
            folder = os.path.realpath(self.root / below)
            if folder in seen:
                self.report(below, "link to a folder that is read under its own name", "read once")
                continue
            seen.add(folder)
            try:
                entries = sorted(os.scandir(self.root / below), key=lambda entry: entry.name)
            except OSError as error:
                self.report(below or ".", f"folder cannot be read ({error.strerror})")
                continue
            for entry in entries:
                path = f"{below}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    continue
                real = Path(os.path.realpath(entry.path)) if entry.is_symlink() else None
                if real and not real.exists():
                    self.report(path, "link to nothing")
                elif real and not any(real.is_relative_to(folder) for folder in self.allowed):
                    self.report(path, "link out of the data folder: allow the folder it points to with --follow")
                elif entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif entry.is_file() and path.encode("utf-8", "replace").decode("utf-8") == path:
                    yield path
                elif _suffix(path) in IMAGE_SUFFIXES:
                    self.report(path, "file name is not UTF-8: rename it" if entry.is_file() else "not a file")

    def _report_archive(self, file: str, names: set[str]) -> None:
        """Report an archive that may hold further images than the unpacked ones, which are called ``names``."""
        if _suffix(file) != ".zip":
            self.report(file, "archive still packed: unpack it")
            return
        try:
            members = {PurePosixPath(name).name for name in zipfile.ZipFile(self.root / file).namelist()}
        except (zipfile.BadZipFile, OSError, ValueError):
            self.report(file, "archive damaged or not wholly downloaded")
            return
        images = {name for name in members if _suffix(name) in IMAGE_SUFFIXES} - names
        if images:
            self.report(file, f"archive still packed: unpack it ({counted(len(images), 'further image')})")

    def near(self, suffixes: set[str]) -> list[str]:
        """Files with one of ``suffixes`` down to `TABLE_DEPTH`."""
        return [file for file in self._files if file.count("/") <= TABLE_DEPTH and _suffix(file) in suffixes]

    def find(self, *names: str) -> Path:
        """The table with one of ``names`` (see `choose_tables`), else InputError. Reports others with such a name."""
        files = [file for file in self._files if file.count("/") <= TABLE_DEPTH and _suffix(file) not in IMAGE_SUFFIXES]
        found = choose_tables(files, *names)
        for other in found[1:]:
            if other not in self._other_tables and not self.same_bytes(found[0], other):
                self._other_tables.add(other)
                self.report(other, f"another table that may be meant: {found[0]} is read")
        if found:
            return self.root / found[0]
        shown = " or ".join(name if "." in name else f"{name}.csv" for name in names)
        packed, sheets, others = map(self.near, (ARCHIVE_SUFFIXES, SHEET_SUFFIXES, TABLE_SUFFIXES))
        remedy = f"; unpack {', '.join(packed[:5])} first" * bool(packed)
        remedy += f"; save {', '.join(sheets[:5])} as CSV" * bool(sheets)
        remedy += f"; its tables are {', '.join(others[:5])}" * bool(others and not remedy)
        raise InputError(f"{self.root} holds no {shown}: give the folder that does with --root{remedy}")

    def table(self, *names: str, required: Iterable[str] = (), only: Sequence[str] | None = None) -> pd.DataFrame:
        """The content of the table with one of ``names``, see `find` and `read_table`."""
        path = self.find(*names)
        table, name = read_table(path, required, only), path.relative_to(self.root).as_posix()
        if table.attrs["short"]:
            problem = f"rows with fewer fields than the header ({table.attrs['short']}): is the file cut off?"
            self.report(name, problem, "the missing fields are blank")
        if table.attrs["doubled"]:
            self.report(name, f"several columns of one name: {', '.join(table.attrs['doubled'])}", "the first is read")
        return table

    def copies(self, files: Iterable[str]) -> list[list[str]]:
        """Groups of two or more of ``files`` with the same bytes, each in the order of ``files``."""
        by_size, by_digest = defaultdict[int, list[str]](list), defaultdict[str | None, list[str]](list)
        for file in files:
            with suppress(OSError):
                by_size[(self.root / file).stat().st_size].append(file)
        for size, same in by_size.items():
            for file in same if 0 < size <= MAX_BYTES and len(same) > 1 else ():
                by_digest[self._digest(file)].append(file)
        return [same for digest, same in by_digest.items() if digest and len(same) > 1]

    def same_bytes(self, *files: str) -> bool:
        """Whether all ``files`` have the same bytes."""
        return len(files) < 2 or any(len(same) == len(files) for same in self.copies(files))

    def _digest(self, file: str) -> str | None:
        """The SHA-256 of a file; None if it cannot be read."""
        if file not in self._digests:
            self._digests[file] = None
            with suppress(OSError):
                self._digests[file] = sha256_file(self.root / file)
        return self._digests[file]


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()
