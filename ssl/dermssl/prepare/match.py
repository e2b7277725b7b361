"""Joins table rows to image files, and reports every row and every file that finds no partner."""

import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import pandas as pd

from dermssl.dataset.splits import check_split
from dermssl.prepare.raw import IMAGE_SUFFIXES, RawFolder
from dermssl.prepare.source import Problem


def match_files(raw: RawFolder, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``frame`` that have an image file, with ``file`` as its path below the root, sorted by it.

    The column ``file`` of ``frame`` holds a path (below the root or another folder) or a bare name, with any image
    suffix or none. A row is matched by its whole path, else by its name. If several files have that name, the row gets
    the one whose path has the longest common end with its own, or the first one if all have the same bytes.
    Raises InputError: rows put a patient (else case, else lesion) or a file into two splits.
    """
    names = [name if isinstance(name, str) else None for name in frame["file"]]
    index = _Index(raw.images, raw.problems)
    files = [name and index.exact(name) for name in names]
    taken, ambiguous = {file for file in files if file}, set[str]()
    for row, name in enumerate(names):
        files[row] = files[row] or _by_name(raw, name, index, taken, ambiguous)
    matched = frame.assign(file=files)
    matched = matched[matched["file"].notna()]
    _report_without_row(raw, set(matched["file"]), ambiguous)
    unit = matched["file"]
    # Lesion numbers may repeat from patient to patient, so they count only where there is no patient.
    for name in (name for name in ("lesion_id", "case_id", "patient_id") if name in matched):
        unit = matched[name].where(matched[name].notna(), unit)
    for group in (unit, matched["file"]):
        check_split(matched.assign(group_id=group), str(raw.root))
    doubled = matched["file"].duplicated()
    for file in matched["file"][doubled]:
        raw.report(file, "second row for the same file", "first row kept")
    return matched[~doubled].sort_values("file").reset_index(drop=True)


def _by_name(raw: RawFolder, name: str | None, index: "_Index", taken: set[str], ambiguous: set[str]) -> str | None:
    """The file that a row means by its name alone, None if there is not one. Adds to ``ambiguous``."""
    if not name:
        raw.report("(blank)", "row without a file name")
        return None
    nearest = index.nearest(name, taken)
    if nearest and raw.same_bytes(*nearest):
        return nearest[0]
    ambiguous.update(nearest)
    problem = "several different files have that name: keep one"
    if not nearest:
        problem = "named in the table but there is no such file"
        if PurePosixPath(_key(name)).name in index.unusable:
            problem = "named in the table but the file of that name cannot be used"
        padded = index.with_zeros.get(name.removesuffix(PurePosixPath(name).suffix))
        problem += f", only one with leading zeros, which spreadsheets remove: {padded}" if padded else ""
    raw.report(name, problem)
    return None


def _report_without_row(raw: RawFolder, matched: set[str], ambiguous: set[str]) -> None:
    alone = [file for file in raw.images if file not in matched and file not in ambiguous]
    names = {file: PurePosixPath(file).name.casefold() for file in raw.images}
    twice = {names[file] for file in alone} & {names[file] for file in matched}
    originals: dict[str, str] = {}
    for same in raw.copies(file for file in raw.images if names[file] in twice):
        kept = {names[file]: file for file in reversed(same) if file in matched}
        originals |= {file: kept[names[file]] for file in same if names[file] in kept}
    for file in alone:
        original = originals.get(file)
        problem = f"byte-identical copy: {original}" if original else "file without a row in the table"
        raw.report(file, problem, "one image kept" if original else "left out")


class _Index:
    """Image files by path, by bare name, and by folder and name, all without suffix."""

    def __init__(self, files: Sequence[str], problems: Sequence[Problem] = ()) -> None:
        self._files = set(files)
        self._by_path = {_key(file): file for file in reversed(files)}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self.unusable = {PurePosixPath(_key(told.file)).name for told in problems if told.action == "left out"}
        """The bare names of files that were found but left out."""
        self.with_zeros: dict[str, str] = {}
        """The first file whose name is a number that begins with zeros, by that number without them."""
        for file in files:
            key = _key(file)
            last, end = PurePosixPath(key).name, _end(key)
            if last.isdecimal() and last[0] == "0":
                self.with_zeros.setdefault(last.lstrip("0"), file)
            # An image by its content (x.jpe) is also known by its name without that suffix.
            known = PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES
            names = {last} if known else {last, PurePosixPath(last).stem}
            for name in names | {name.casefold() for name in names} | {end}:
                self._by_name[name].append(file)

    def exact(self, name: str) -> str | None:
        """The file with this path, with this suffix or else with any."""
        return name if name in self._files else self._by_path.get(_key(name))

    def nearest(self, name: str, taken: set[str]) -> list[str]:
        """Of the files with this bare name that are not ``taken``: those whose paths have the longest end of ``name``.

        If no file has the bare name, those with it in another case. Of several, those with the suffix of ``name``.
        """
        wanted = _key(name).split("/")[::-1]
        # Thousands of folders may hold a file of one name, so the folder's name is compared first.
        files = [file for file in self._by_name.get(_end(_key(name)), []) if file not in taken]
        if not files:
            named = self._by_name.get(wanted[0]) or self._by_name.get(wanted[0].casefold(), [])
            files = [file for file in named if file not in taken]
        common = [len(common_start([wanted, _key(file).split("/")[::-1]])) for file in files]
        longest = max(common, default=0)
        best = [file for file, length in zip(files, common, strict=True) if length == longest]
        suffix = PurePosixPath(name).suffix
        return [file for file in best if PurePosixPath(file).suffix == suffix] or best


def _end(key: str) -> str:
    return "/".join(key.split("/")[-2:])


def common_start(paths: Sequence[Sequence[str]]) -> list[str]:
    """The parts with which all paths begin."""
    levels = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    return [level[0] for level in levels]


def _key(name: str) -> str:
    """A path without image suffix, in one Unicode form, because archives made on a Mac decompose accents."""
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./"))
    while path.suffix.lower() in IMAGE_SUFFIXES:  # Windows makes x.jpg.jpg of x.jpg
        path = path.with_suffix("")
    return path.as_posix()


def settle_copies(raw: RawFolder, frame: pd.DataFrame) -> pd.DataFrame:
    """Decide which copies (files with the same bytes) stay, and report them.

    If copies lie in two splits, only those in test (else val) stay. Of these, copies with the same name, labels and ids
    are one image, the first. Copies that differ in one of them all stay. The new column ``picture``, equal for copies
    of one image, puts them into one group.
    """
    left_out, picture = [], {}
    rows = frame.set_index("file")
    for files in raw.copies(frame["file"]):
        sides = {file: rows["split"][file] for file in files} if "split" in rows else {}
        strictest = next((side for side in ("test", "val") if side in sides.values()), None)
        facts = {file: (PurePosixPath(file).name.casefold(), *map(str, rows.loc[file])) for file in files}
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
                patients = {rows["patient_id"][copy] for copy in (file, original)} if "patient_id" in rows else set()
                whose = " under another patient" * (len({name for name in patients if isinstance(name, str)}) > 1)
                raw.report(file, f"byte-identical copy{whose}: {original}", action)
            if action != "kept in one group":
                left_out.append(file)
    frame = frame.assign(picture=frame["file"].map(picture).astype(object))
    return frame[~frame["file"].isin(left_out)].reset_index(drop=True)
