"""The joining of table rows to image files, with every row and file that finds no partner reported."""

import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from dermssl.dataset.splits import check_split
from dermssl.prepare.raw import IMAGE_SUFFIXES, PHONE_SUFFIXES, RawFolder
from dermssl.prepare.source import Problem, Rows


def match_files(raw: RawFolder, rows: Rows) -> Rows:
    """Join the rows to files, reporting both kinds of loss.

    ``file`` of a row is a path, below the root or from another one, or a bare name, with any image extension or
    none. A row is matched by its whole path, else by its name. Of several files of that name it takes the one whose
    path shares the longest end, or the first where all are copies of each other.
    Raises InputError: rows, second ones included, put a patient (else case, else lesion) or a file into two splits.
    """
    wanted = [name if isinstance(name, str) else None for name in rows.frame["file"]]
    index, problems = _Index(raw.images), rows.problems
    files = [name and index.exact(name) for name in wanted]
    taken, told = {file for file in files if file}, set[str]()
    for row, name in enumerate(wanted):
        if not files[row]:
            found, problem = _by_name(raw, name, index, taken)
            files[row] = None if problem else found[0]
            problems += [Problem(name or "(blank)", problem, "left out")] if problem else []
            told.update(found)
    matched = rows.frame.assign(file=files)
    matched = matched[matched["file"].notna()]
    problems += _without_a_row(raw, set(matched["file"]), told)
    unit = matched["file"]
    # Lesion numbers may repeat from patient to patient, so they count only where there is no patient.
    for name in (name for name in ("lesion_id", "case_id", "patient_id") if name in matched):
        unit = matched[name].where(matched[name].notna(), unit)
    for group in (unit, matched["file"]):
        check_split(matched.assign(group_id=group), str(raw.root))
    doubled = matched["file"].duplicated()
    problems += [Problem(file, "second row for the same file", "first row kept") for file in matched["file"][doubled]]
    rows.frame = matched[~doubled].sort_values("file").reset_index(drop=True)
    return rows


def _by_name(raw: RawFolder, name: str | None, index: "_Index", taken: set[str]) -> tuple[list[str], str]:
    """The files that a row can mean by its name alone, and why none of them is taken ("": the first is)."""
    if not name:
        return [], "row without a file name"
    named = [file for file in index.named(name) if file not in taken]
    if not named:
        return [], "named in the table but there is no such file"
    nearest = index.nearest(name, named)
    if len(nearest) == 1 or raw.same_bytes(*nearest):
        return nearest[:1], ""
    return nearest, "several different files have that name: keep one"


def _without_a_row(raw: RawFolder, matched: set[str], told: set[str]) -> Iterator[Problem]:
    of_name = defaultdict(list)
    for file in sorted(matched):
        of_name[PurePosixPath(file).name.casefold()].append(file)
    for file in raw.images:
        if file not in matched and file not in told:
            same = of_name[PurePosixPath(file).name.casefold()]
            original = next((other for other in same if raw.same_bytes(file, other)), None)
            problem = f"byte-identical copy: {original}" if original else "file without a row in the table"
            yield Problem(file, problem, "one image kept" if original else "left out")


class _Index:
    """Image files by path and by bare name, both without extension."""

    def __init__(self, files: Sequence[str]) -> None:
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for file in files:
            key = _key(file)
            self._by_path[file if key in self._by_path else key] = file
            last = PurePosixPath(key).name
            # An image by its content (x.jpe) is also known by its name without that suffix.
            known = PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES
            names = {last} if known else {last, PurePosixPath(last).stem}
            for name in names | {name.casefold() for name in names}:
                self._by_name[name].append(file)

    def exact(self, name: str) -> str | None:
        """The file of this path, or of this bare name with its extension."""
        named = self._by_name.get(PurePosixPath(_key(name)).name, [])
        return name if name in named else self._by_path.get(_key(name))

    def named(self, name: str) -> list[str]:
        """Files of this bare name, in any case if there is none in the same."""
        last = PurePosixPath(_key(name)).name
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
    while path.suffix.lower() in {*IMAGE_SUFFIXES, *PHONE_SUFFIXES}:  # Windows makes x.jpg.jpg of x.jpg
        path = path.with_suffix("")
    return path.as_posix()


def settle_copies(frame: pd.DataFrame, raw: RawFolder) -> tuple[pd.DataFrame, list[Problem]]:
    """Byte-identical files: no image lies in two splits, and copies of one name in two folders are one image.

    Copies that differ in their labels or ids are kept; the column ``picture``, the same for all of them, joins them in
    one group. Of copies in two splits those in test stay, else those in val.
    """
    problems, left_out, picture = [], [], {}
    rows = frame.set_index("file")
    for files in raw.copies(frame["file"]):
        sides = {file: rows["split"][file] for file in files} if "split" in rows else {}
        strictest = next((side for side in ("test", "val") if side in sides.values()), None)
        facts = {file: (Path(file).name.casefold(), *map(str, rows.loc[file])) for file in files}
        kept: dict[tuple, str] = {}
        for file in sorted(files, key=lambda file: sides.get(file) != strictest):
            if strictest and sides[file] != strictest:
                original, action = next(iter(kept.values())), f"left out, as the other lies in {strictest}"
            elif facts[file] in kept:
                original, action = kept[facts[file]], "one image kept"
            else:
                original, action = next(iter(kept.values()), file), "kept in one group"
                kept[facts[file]] = file
                picture[file] = files[0]
            if original != file:
                problems.append(Problem(file, f"byte-identical copy: {original}", action))
            if action != "kept in one group":
                left_out.append(file)
    frame = frame.assign(picture=frame["file"].map(picture).astype(object))
    return frame[~frame["file"].isin(left_out)].reset_index(drop=True), problems
