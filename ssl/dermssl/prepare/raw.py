"""A raw data set as it lies on disk: its image files and tables, and the joining of rows to files.

What cannot be used is reported: links that lead elsewhere, foreign formats, packed archives, rows and files that
find no partner.
"""

import hashlib
import itertools
import os
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from dermssl.dataset.splits import check_split
from dermssl.errors import InputError
from dermssl.prepare.decode import FORMATS
from dermssl.prepare.source import Problem, Records
from dermssl.prepare.tables import choose_table, read_table

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"}
PHONE_SUFFIXES = {".heic": "HEIF", ".heif": "HEIF", ".avif": "AVIF"}
REMEDIES = {"HEIF": "install the extra heif (pip install 'dermssl[heif]')", "AVIF": "install a Pillow with AVIF"}
UNREADABLE_SUFFIXES = {".dcm", ".dng", ".nef", ".cr2", ".arw", ".svs", ".psd"}
ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
OTHER_SUFFIXES = {
    ".csv",
    ".tsv",
    ".tab",
    ".txt",
    ".md",
    ".json",
    ".yaml",
    ".yml",
    ".xml",
    ".html",
    ".pdf",
    ".xlsx",
    ".py",
}
"""Suffixes of files that are not opened to see whether they are images."""
FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
TABLE_DEPTH = 2
"""Folders below the root in which tables are looked for."""


class RawFolder:
    """The files below ``root``; links are followed where they stay there or lead into ``follow``."""

    def __init__(self, root: Path, follow: Path | None = None) -> None:
        self.root = root
        self.allowed = [folder.resolve() for folder in (root, follow) if folder]
        self.problems: list[Problem] = []
        self._digests: dict[str, str] = {}

    @cached_property
    def images(self) -> list[str]:
        """Paths of all image files, relative, with ``/``, sorted; hidden ones are passed over."""
        found, archives = [], []
        for file in self._files:
            suffix = PurePosixPath(file).suffix.lower()
            kind = PHONE_SUFFIXES.get(suffix)
            if suffix in IMAGE_SUFFIXES or kind in FORMATS:
                found.append(file)
            elif kind:
                remedy = f"{REMEDIES[kind]} or convert to JPEG"
                self.problems.append(Problem(file, f"{suffix} images cannot be read: {remedy}", "left out"))
            elif suffix in UNREADABLE_SUFFIXES:
                self.problems.append(
                    Problem(file, f"{suffix} images cannot be read: convert to JPEG or PNG", "left out")
                )
            elif suffix in ARCHIVE_SUFFIXES:
                archives.append(file)
            elif suffix not in OTHER_SUFFIXES and self._begins_like_an_image(file):
                self.problems.append(Problem(file, "an image by its content, though not by its name", "used"))
                found.append(file)
        self.problems += self._packed(archives, {PurePosixPath(file).name for file in found})
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
            real = os.path.realpath(self.root / below)
            if real in seen:
                self._report(below, "link to a folder that is read under its own name", "read once")
                continue
            seen.add(real)
            try:
                entries = sorted(os.scandir(self.root / below), key=lambda entry: entry.name)
            except OSError as error:
                self._report(below or ".", f"folder cannot be read ({error.strerror})", "left out")
                continue
            for entry in entries:
                path = f"{below}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink() and not self._may_follow(entry.path):
                    what = "link to nothing" if not Path(entry.path).exists() else "link out of the data folder"
                    self._report(path, f"{what}: allow the folder it points to with --follow", "left out")
                elif entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif not _is_utf8(path):
                    if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
                        self._report(path, "file name is not UTF-8: rename it", "left out")
                elif entry.is_file():
                    yield path
                elif PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
                    self._report(path, "not a file", "left out")

    def _may_follow(self, path: str) -> bool:
        real = Path(os.path.realpath(path))
        return real.exists() and any(real.is_relative_to(folder) for folder in self.allowed)

    def _report(self, path: str, problem: str, action: str) -> None:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        self.problems.append(Problem(shown, problem, action))

    def _begins_like_an_image(self, file: str) -> bool:
        try:
            with (self.root / file).open("rb") as stream:
                start = stream.read(12)
        except OSError:
            return False
        boxed = start[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")
        return boxed or start.startswith(FIRST_BYTES) or (start[:4], start[8:]) == (b"RIFF", b"WEBP")

    def _packed(self, archives: Iterable[str], names: set[str]) -> Iterator[Problem]:
        """Archives that hold images which are not among the files."""
        for file in archives:
            if file.lower().endswith(".zip"):
                try:
                    members = {PurePosixPath(name).name for name in zipfile.ZipFile(self.root / file).namelist()}
                except (zipfile.BadZipFile, OSError, ValueError):
                    yield Problem(file, "archive damaged or not wholly downloaded", "left out")
                    continue
                images = {name for name in members if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES} - names
                if images:
                    yield Problem(file, f"archive still packed: unpack it ({len(images)} further images)", "left out")
            else:
                yield Problem(file, "archive still packed: unpack it", "left out")

    def find(self, *names: str) -> Path:
        """The table called one of ``names``, see `choose_table`; raises InputError where there is none."""
        near = [file for file in self._files if file.count("/") <= TABLE_DEPTH]
        found = choose_table(
            [file for file in near if PurePosixPath(file).suffix.lower() not in IMAGE_SUFFIXES], *names
        )
        if found:
            return self.root / found
        shown = " or ".join(name if "." in name else f"{name}.csv" for name in names)
        packed = [file for file in near if PurePosixPath(file).suffix.lower() in ARCHIVE_SUFFIXES]
        remedy = f"; unpack {', '.join(packed[:5])} first" if packed else ""
        raise InputError(f"{self.root} holds no {shown}: give the folder that does with --root{remedy}")

    def table(self, *names: str, required: Sequence[str], further: Sequence[str] | None = None) -> pd.DataFrame:
        """The table called one of ``names``, see `find` and `read_table`."""
        return read_table(self.find(*names), required, further)

    def distinct(self, files: Sequence[str], label: Callable[[str], object] = lambda file: None) -> list[str]:
        """``files`` without those that are byte for byte one of the same name (and ``label``) in another folder."""
        kept: dict[tuple, list[str]] = defaultdict(list)
        for file in files:
            same = kept[PurePosixPath(file).name.casefold(), label(file)]
            original = next((other for other in same if self.same_bytes(file, other)), None)
            if original:
                self.problems.append(_copy_of(file, original))
            else:
                same.append(file)
        return sorted(file for same in kept.values() for file in same)

    def same_bytes(self, *files: str) -> bool:
        """Whether these files are copies of each other."""
        try:
            sizes = {(self.root / file).stat().st_size for file in files}
            return len(sizes) == 1 and len({self._digest(file) for file in files}) == 1
        except OSError:
            return False

    def _digest(self, file: str) -> str:
        if file not in self._digests:
            with (self.root / file).open("rb") as stream:
                self._digests[file] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._digests[file]

    def match(self, records: Records) -> Records:
        """Join the rows of ``records`` to files, reporting both kinds of loss.

        ``file`` of a row is a path, below the root or from another one, or a bare name, with any image extension or
        none. A row is matched by its whole path; else by its name, of several files the one with the longest common
        end of the path; else, where all files of that name are copies of each other, with the first of them.

        Raises:
            InputError: rows, second ones included, put a patient (else case, else lesion) or a file into two splits.
        """
        wanted = [name if isinstance(name, str) else None for name in records.frame["file"]]
        index = _Index(self.images)
        files = [name and index.exact(name) for name in wanted]
        taken = {file for file in files if file}
        problems = records.problems
        for row, name in enumerate(wanted):
            if not files[row]:
                files[row], problem = self._by_name(name, index, taken)
                problems += [Problem(name or "(blank)", problem, "left out")] if problem else []
        matched = records.frame.assign(file=files)
        matched = matched[matched["file"].notna()]
        problems += self._without_a_row(set(matched["file"]))
        _check_second_rows(matched, self.root)
        doubled = matched["file"].duplicated()
        problems += [
            Problem(file, "second row for the same file", "first row kept") for file in matched["file"][doubled]
        ]
        records.frame = matched[~doubled].sort_values("file").reset_index(drop=True)
        return records

    def _by_name(self, name: str | None, index: "_Index", taken: set[str]) -> tuple[str | None, str]:
        """The file that a row means by its name alone, and what is wrong where there is none."""
        if not name:
            return None, "row without a file name"
        named = [file for file in index.named(name) if file not in taken]
        if not named:
            return None, "named in the table but there is no such file"
        nearest = index.nearest(name, named)
        if len(nearest) == 1 or self.same_bytes(*nearest):
            return nearest[0], ""
        return None, f"several files of that name ({len(named)})"

    def _without_a_row(self, matched: set[str]) -> Iterator[Problem]:
        of_name = defaultdict(list)
        for file in sorted(matched):
            of_name[PurePosixPath(file).name.casefold()].append(file)
        for file in self.images:
            if file not in matched:
                same = of_name[PurePosixPath(file).name.casefold()]
                original = next((other for other in same if self.same_bytes(file, other)), None)
                yield (
                    _copy_of(file, original)
                    if original
                    else Problem(file, "file without a row in the table", "left out")
                )


def _copy_of(file: str, original: str) -> Problem:
    return Problem(file, f"byte-identical copy: {original}", "one image kept")


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_second_rows(rows: pd.DataFrame, root: Path) -> None:
    unit = rows["file"]
    # Lesion numbers may repeat from patient to patient, so they count only where there is no patient.
    for name in ("lesion_id", "case_id", "patient_id"):
        unit = rows[name].where(rows[name].notna(), unit) if name in rows else unit
    for group in (unit, rows["file"]):
        check_split(rows.assign(group_id=group), str(root))


class _Index:
    """Image files by path and by bare name, both without extension."""

    def __init__(self, files: Sequence[str]) -> None:
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for file in files:
            key = _key(file)
            self._by_path[file if key in self._by_path else key] = file
            self._by_name[_last(key)].append(file)
            if _last(key) != _last(key).casefold():
                self._by_name[_last(key).casefold()].append(file)

    def exact(self, name: str) -> str | None:
        """The file of this path, or of this bare name with its extension."""
        named = self._by_name.get(_last(_key(name)), [])
        return name if name in named else self._by_path.get(_key(name))

    def named(self, name: str) -> list[str]:
        """Files of this bare name, in any case if there is none in the same."""
        last = _last(_key(name))
        return self._by_name.get(last) or self._by_name.get(last.casefold(), [])

    @staticmethod
    def nearest(name: str, files: Sequence[str]) -> list[str]:
        """Those of ``files`` whose paths have the longest common end with ``name``."""
        wanted = _key(name).split("/")[::-1]
        common = [len(common_start([wanted, _key(file).split("/")[::-1]])) for file in files]
        return [file for file, length in zip(files, common, strict=True) if length == max(common)]


def common_start(paths: Sequence[Sequence[str]]) -> list[str]:
    """The parts that all paths begin with."""
    levels = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    return [level[0] for level in levels]


def _key(name: str) -> str:
    """A path without image extension, in one Unicode form: archives made on a Mac decompose accents."""
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./"))
    suffix = path.suffix.lower()
    return (path.with_suffix("") if suffix in IMAGE_SUFFIXES or suffix in PHONE_SUFFIXES else path).as_posix()


def _last(key: str) -> str:
    return key.rpartition("/")[2]
