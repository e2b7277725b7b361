"""Reading the tables that come with data sets, in whatever dialect of CSV they were saved, and their values."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dermssl.errors import InputError, did_you_mean

MISSING = {"", "nan", "none", "null", "na", "n/a", "unknown", "-1", "-1.0"}
CHUNK = 20_000


def find_file(root: Path, *names: str) -> Path:
    """The first of ``names`` that exists below ``root`` (any case, at most two folders down)."""
    for pattern in ("*", "*/*", "*/*/*"):
        found: dict[str, Path] = {}
        for path in sorted(root.glob(pattern)):
            if path.is_file():
                found.setdefault(path.name.lower(), path)
        for name in names:
            if name.lower() in found:
                return found[name.lower()]
    raise InputError(f"{root} holds no {' or '.join(names)}: give the folder that does with --root")


def read_table(path: Path, required: Sequence[str], further: Sequence[str] | None = None) -> pd.DataFrame:
    """A CSV as stripped strings with None for missing; any delimiter, BOM and line ending.

    Beside the ``required`` columns it has those of ``further`` that exist, or all (None): a wide table of
    400,000 rows takes a gigabyte as strings.

    Raises:
        InputError: the table is empty or unreadable, or lacks one of the ``required`` columns.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            first = next((line for line in lines if line.strip()), "")
        delimiter = max(",;\t", key=first.count)
        # index_col=False: a delimiter at the end of every line would otherwise shift all columns by one.
        chunks = pd.read_csv(
            path,
            sep=delimiter,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
            chunksize=CHUNK,
        )
        table = pd.concat([_columns(chunk, path, required, further) for chunk in chunks], ignore_index=True)
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is not a readable CSV ({' '.join(str(error).split())}): save it as UTF-8") from None
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty: it must hold a header and one line per record") from None
    if table.empty:
        raise InputError(f"{path} has a header but no rows")
    return table.map(clean).astype(object).where(lambda t: t.notna(), None)


def _columns(table: pd.DataFrame, path: Path, required: Sequence[str], further: Sequence[str] | None) -> pd.DataFrame:
    table.columns = table.columns.str.strip()
    for name in required:
        if name not in table.columns:
            raise InputError(f"{path} has no column '{name}'; {did_you_mean(name, table.columns)}")
    # Not read_csv's usecols: with it, rows that are too long are cut off in silence.
    return table if further is None else table[[name for name in table if name in {*required, *further}]]


def clean(value: object) -> str | None:
    """A stripped string, or None for any spelling of missing."""
    text = str(value).strip()
    return None if text.lower() in MISSING else text


def number(value: object) -> float | None:
    """A number from "35", "35.0" or "85+"; None for missing or unreadable."""
    if value is None or pd.isna(value):
        return None
    try:
        parsed = float(str(value).strip().rstrip("+"))
    except ValueError:
        return None
    return parsed if math.isfinite(parsed) else None


def sex(value: object) -> str | None:
    """``female``, ``male`` or None, from the spellings in use."""
    first = str(value or "").strip().lower()[:1]
    return {"f": "female", "m": "male"}.get(first)


def fitzpatrick(value: object) -> int | None:
    """Fitzpatrick type 1-6 or None."""
    parsed = number(value)
    return int(parsed) if parsed is not None and 1 <= parsed <= 6 else None
