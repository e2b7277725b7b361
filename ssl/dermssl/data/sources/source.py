"""What a source declares, and the reading mechanics that all sources share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dermssl.data.targets import Target
from dermssl.errors import InputError, did_you_mean

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"}
MISSING = {"", "nan", "none", "null", "na", "n/a", "unknown", "-1", "-1.0"}


class Problem(NamedTuple):
    """One line of ``problems.csv``: what was wrong with which file or row, and what was done about it."""

    file: str
    problem: str
    action: str


@dataclass
class Records:
    """What a source read: one row per image with its ``file`` (below the root), raw ids and labels."""

    frame: pd.DataFrame
    problems: list[Problem] = field(default_factory=list)
    targets: dict[str, Target] | None = None
    """Targets found while reading (class folders); None: those that the source declares."""


@dataclass(frozen=True)
class Source:
    """One known data set. ``group`` and ``case`` name the unit kept together and the unit scored as one."""

    name: str
    title: str
    licence: str
    citation: str
    where: str
    layout: str
    group: str
    case: str
    targets: dict[str, Target]
    read: Callable[[Path], Records]
    patient_key: bool = True
    """False: patient leakage cannot be ruled out, and every report says so."""


def find_file(root: Path, *names: str) -> Path:
    """The first of ``names`` that exists below ``root`` (any case, at most two folders down)."""
    wanted = [name.lower() for name in names]
    for pattern in ("*", "*/*", "*/*/*"):
        found = {p.name.lower(): p for p in sorted(root.glob(pattern)) if p.is_file()}
        for name in wanted:
            if name in found:
                return found[name]
    raise InputError(f"{root} holds no {' or '.join(names)}: give the folder that does with --root")


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """A CSV as stripped strings with None for missing; any delimiter, BOM and line ending.

    Raises:
        InputError: the table is empty or unreadable, or lacks one of the ``required`` columns.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.lstrip().splitlines()[0] if text.strip() else ""
        delimiter = max(",;\t", key=first.count)
        table = pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is not a readable CSV ({error}): save it as UTF-8 CSV") from None
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty: it must hold a header and one line per record") from None
    table.columns = table.columns.str.strip()
    for name in required:
        if name not in table.columns:
            raise InputError(f"{path} has no column '{name}'; {did_you_mean(name, table.columns)}")
    if table.empty:
        raise InputError(f"{path} has a header but no rows")
    return table.map(clean).astype(object).where(lambda t: t.notna(), None)


def clean(value: object) -> str | None:
    """A stripped string, or None for any spelling of missing."""
    text = str(value).strip()
    return None if text.lower() in MISSING else text


def number(value: object) -> float | None:
    """A number from "35", "35.0" or "85+"; None for missing or unreadable."""
    if value is None or pd.isna(value):
        return None
    try:
        return float(str(value).strip().rstrip("+"))
    except ValueError:
        return None


def sex(value: object) -> str | None:
    """``female``, ``male`` or None, from the spellings in use."""
    first = str(value or "").strip().lower()[:1]
    return {"f": "female", "m": "male"}.get(first)


def fitzpatrick(value: object) -> int | None:
    """Fitzpatrick type 1-6 or None."""
    parsed = number(value)
    return int(parsed) if parsed is not None and 1 <= parsed <= 6 else None


def list_images(root: Path) -> list[str]:
    """Paths of all image files below ``root``, relative, with ``/``, sorted; hidden folders are passed over."""
    found = (p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))


def match_images(root: Path, frame: pd.DataFrame, known: Iterable[Problem] = ()) -> Records:
    """Join table rows to files by stem (``file`` may carry another extension), reporting both kinds of loss.

    A row without a file, a file without a row, and a second row of the same file go to the problems.
    """
    problems = list(known)
    by_stem: dict[str, str] = {}
    for path in list_images(root):
        stem = Path(path).stem
        if stem in by_stem:
            problems.append(Problem(path, f"second file named {stem}", "left out"))
        else:
            by_stem[stem] = path
    stems = frame["file"].map(lambda name: Path(str(name)).stem)
    for name in frame["file"][~stems.isin(by_stem)]:
        problems.append(Problem(str(name), "named in the table but there is no such file", "left out"))
    for stem in sorted(set(by_stem) - set(stems)):
        problems.append(Problem(by_stem[stem], "file without a row in the table", "left out"))
    for name in frame["file"][stems.duplicated() & stems.isin(by_stem)]:
        problems.append(Problem(str(name), "second row for the same file", "first row kept"))
    keep = stems.isin(by_stem) & ~stems.duplicated()
    matched = frame[keep].assign(file=stems[keep].map(by_stem))
    return Records(matched.sort_values("file").reset_index(drop=True), problems)
