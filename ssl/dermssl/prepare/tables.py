"""Finding and reading the tables that come with data sets, in whatever dialect of CSV they were saved."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from dermssl.errors import InputError, did_you_mean
from dermssl.prepare.values import clean

SUFFIXES = ("", ".csv", ".tsv", ".tab", ".txt")
CHUNK = 20_000


def choose_table(files: Iterable[str], *names: str) -> str | None:
    """The file that is the table called one of ``names``; the first name counts most, then the shortest path.

    A name is found in any case, with any suffix of a table or none, with ``-``, ``_`` or a space between its words.
    Where no file has the name itself, it may have a version behind it (``_v2``, `` (1)``): the highest is taken.
    """
    stems = {file: _stem(file) for file in files}
    for name in map(_stem, names):
        exact = [file for file, stem in stems.items() if stem == name]
        if exact:
            return min(exact, key=lambda file: (file.count("/"), file))
    for name in map(_stem, names):
        version = re.compile(re.escape(name) + r"_?(?:v|\(|copy|final)*_?(\d*)(?:_\d+)*\)?")
        found = {file: match for file, stem in stems.items() if (match := version.fullmatch(stem))}
        if found:
            return max(found, key=lambda file: (int(found[file][1] or 0), -file.count("/"), file))
    return None


def _stem(file: str) -> str:
    path = Path(file)
    return re.sub(r"[\s_.-]+", "_", (path.stem if path.suffix.lower() in SUFFIXES else path.name).casefold())


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
        delimiter = max(",;\t|", key=first.count)
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
