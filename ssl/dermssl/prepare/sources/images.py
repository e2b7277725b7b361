"""Finding the image files of a data set and joining them to the rows of its table; what is lost is reported."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pandas as pd

from dermssl.dataset.splits import check_split
from dermssl.prepare.sources.source import Problem, Records

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"}
UNREADABLE_SUFFIXES = {".heic", ".heif", ".avif", ".dcm", ".dng", ".nef", ".cr2", ".arw", ".svs", ".psd"}


def list_images(root: Path) -> list[str]:
    """Paths of all image files below ``root``, relative, with ``/``, sorted; hidden ones are passed over."""
    found = (path for path in _visible(root) if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path.as_posix() for path in found if _is_text(path))


def passed_over(root: Path) -> list[Problem]:
    """What `list_images` cannot use though it may hold images: linked folders, foreign formats, broken names."""
    problems = []
    for path in _visible(root):
        shown = os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
        if path.suffix.lower() in UNREADABLE_SUFFIXES:
            problems.append(Problem(shown, f"{path.suffix} images cannot be read: convert to JPEG or PNG", "left out"))
        elif path.suffix.lower() in IMAGE_SUFFIXES and not _is_text(path):
            problems.append(Problem(shown, "file name is not UTF-8: rename it", "left out"))
        elif (root / path).is_symlink() and (root / path).is_dir():
            problems.append(Problem(shown, "link to a folder: move the images below the root", "left out"))
    return sorted(problems)


def _visible(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        below = path.relative_to(root)
        if not any(part.startswith(".") for part in below.parts):
            yield below


def _is_text(path: Path) -> bool:
    try:
        path.as_posix().encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def match_images(root: Path, frame: pd.DataFrame, known: Iterable[Problem] = ()) -> Records:
    """Join table rows to files, reporting both kinds of loss.

    ``file`` of a row is a path below the root or a bare name, with any image extension or none: a row is matched by
    its whole path, else by its name where that is unique. A row without a file, a file without a row, and a second
    row of the same file go to the problems.

    Raises:
        InputError: rows, second ones included, put a patient (else case, else lesion) or a file into two splits.
    """
    problems = list(known)
    by_path, by_name = _index_files(root)
    files = []
    for wanted in frame["file"].astype(object).where(frame["file"].notna(), None):
        file, problem = _find(wanted, by_path, by_name)
        files.append(file)
        if problem:
            problems.append(Problem(wanted or "(blank)", problem, "left out"))
    matched = frame.assign(file=files)
    for file in sorted(set(by_path.values()) - {file for file in files if file}):
        problems.append(Problem(file, "file without a row in the table", "left out"))
    matched = matched[matched["file"].notna()]
    _check_second_rows(matched, root)
    for file in matched["file"][matched["file"].duplicated()]:
        problems.append(Problem(file, "second row for the same file", "first row kept"))
    matched = matched.drop_duplicates("file").sort_values("file").reset_index(drop=True)
    return Records(matched, problems)


def _check_second_rows(rows: pd.DataFrame, root: Path) -> None:
    unit = rows["file"]
    # Lesion numbers may repeat from patient to patient, so they count only where there is no patient.
    for name in ("lesion_id", "case_id", "patient_id"):
        unit = rows[name].where(rows[name].notna(), unit) if name in rows else unit
    for group in (unit, rows["file"]):
        check_split(rows.assign(group_id=group), str(root))


def _index_files(root: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Files by path without extension, and by bare name."""
    by_path: dict[str, str] = {}
    by_name: dict[str, list[str]] = {}
    for file in list_images(root):
        key = _key(file)
        by_path[file if key in by_path else key] = file
        by_name.setdefault(key.rpartition("/")[2], []).append(file)
    return by_path, by_name


def _find(wanted: str | None, by_path: dict[str, str], by_name: dict[str, list[str]]) -> tuple[str | None, str | None]:
    if not wanted:
        return None, "row without a file name"
    key = _key(wanted)
    named = by_name.get(key.rpartition("/")[2], [])
    if wanted in named:
        return wanted, None
    if key in by_path:
        return by_path[key], None
    if len(named) == 1:
        return named[0], None
    return (
        None,
        f"several files of that name ({len(named)})" if named else "named in the table but there is no such file",
    )


def _key(name: str) -> str:
    """A path without image extension, in one Unicode form: archives made on a Mac decompose accents."""
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./"))
    return (path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path).as_posix()
