"""The tables that come with data sets, in whatever dialect of CSV they were saved, and the reading of their columns."""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError, did_you_mean, shortened
from dermssl.prepare.source import Problem, Rows
from dermssl.prepare.values import READERS, clean, read_number

CHUNK = 20_000


def choose_tables(files: Iterable[str], *names: str) -> list[str]:
    """The files that may be the table called one of ``names``, the best first.

    The first name counts most, then the shortest path. A name is found in any case, with any suffix of a table or none,
    with ``-``, ``_`` or a space between its words. A file of the name itself comes before those with a version behind
    it (``_v2``, `` (1)``), of which the highest comes first.
    """
    found = []
    for place, name in enumerate(map(_stem, names)):
        version = re.compile(re.escape(name) + r"_?(?:v|\(|copy|final|rev|version)*_?(\d*)(?:_\d+)*\)?")
        for file in files:
            stem = _stem(file)
            if match := version.fullmatch(stem):
                number = int(match[1] or 0)
                found.append((stem != name, place, -number * (stem != name), file.count("/"), file))
    return list(dict.fromkeys(file for *_, file in sorted(found)))


def _stem(file: str) -> str:
    name = re.sub(r"(\.(csv|tsv|tab|txt))+$", "", Path(file).name.casefold())  # Windows makes x.csv.txt of x.csv
    return re.sub(r"[\s_.-]+", "_", name)


def read_table(path: Path, required: Iterable[str] = (), only: Sequence[str] | None = None) -> pd.DataFrame:
    """A CSV as stripped strings with None for missing; any delimiter, line ending, and UTF-8 or Excel's UTF-16.

    ``only`` are the columns that are kept, where they exist, besides the ``required`` ones (None: all); a wide table of
    400,000 rows takes a gigabyte as strings. The table's ``attrs`` hold its ``path``, the number of rows that are too
    short (``short``) and the names that several columns have (``doubled``), of which the first keeps it.
    Raises InputError: the table is empty or unreadable, or lacks one of the ``required`` columns.
    """
    try:
        with path.open("rb") as file:
            encoding = "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        with path.open(encoding=encoding) as lines:
            first = next((line for line in lines if line.strip()), "")
            delimiter = max(",;\t|", key=first.count)
            lines.seek(0)
            rows = (row for row in csv.reader(lines, delimiter=delimiter) if row)
            excel = first.startswith("sep=")  # Excel's own line above the header
            if excel:
                next(rows)
            header = next(rows, [])
            short = sum(len(row) < len(header) for row in rows)
        # index_col=False: a delimiter at the end of every line would otherwise shift all columns by one.
        how = {"sep": delimiter, "encoding": encoding, "skiprows": int(excel), "index_col": False}
        chunks = pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=CHUNK, **how)
        table = pd.concat([_columns(chunk, path, required, only) for chunk in chunks], ignore_index=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a readable CSV ({shortened(error)}): save it as UTF-8") from None
    except (csv.Error, pd.errors.ParserError) as error:
        raise InputError(f"{path} is not a readable CSV ({shortened(error)}): mend its fields and quotes") from None
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty: it must hold a header and one line per record") from None
    if table.empty:
        raise InputError(f"{path} has a header but no rows")
    table = table.map(clean).astype(object).where(lambda t: t.notna(), None)
    doubled = [name for name, times in Counter(map(str.strip, header)).items() if name and times > 1]
    table.attrs |= {"path": str(path), "short": short, "doubled": doubled}
    return table


def _columns(table: pd.DataFrame, path: Path, required: Iterable[str], only: Sequence[str] | None) -> pd.DataFrame:
    table.columns = table.columns.str.strip()
    table = table.loc[:, ~table.columns.duplicated()]
    for name in required:
        _require_column(table, name, path)
    # Not read_csv's usecols: with it, rows that are too long are cut off in silence.
    return table if only is None else table[[name for name in table if name in {*required, *only}]]


def _require_column(table: pd.DataFrame, name: str, path: object) -> None:
    if name not in table:
        raise InputError(f"{path} has no column '{name}'; {did_you_mean(name, table.columns)}")


def read_columns(
    table: pd.DataFrame,
    optional: Sequence[str] = (),
    **columns: str | list[str] | tuple[str, Callable[[str], Any] | Mapping[str, Any]],
) -> Rows:
    """The manifest's columns from those of ``table`` (from `read_table`), each by its reader.

    ``columns``: name in the manifest = name in the table, or that name with a reader or a dictionary of its own, or a
    list of names whose values are joined by ``/``. Those in ``optional`` may be missing from the table. A value that is
    there but cannot be read becomes missing, and is counted among the problems; whatever is no text is missing.
    Raises InputError: the table lacks a column, or a split is none of train, val and test.
    """
    rows = Rows(pd.DataFrame(index=table.index))
    for name, wanted in columns.items():
        column, reader = wanted if isinstance(wanted, tuple) else (wanted, READERS.get(name, str))
        read = reader.get if isinstance(reader, Mapping) else reader
        parts = column if isinstance(column, list) else [column]
        for part in (part for part in parts if part not in optional):
            _require_column(table, part, table.attrs.get("path", "the table"))
        cells = zip(*(table[part] if part in table else [None] * len(table) for part in parts), strict=True)
        raw = ["/".join(row) if all(isinstance(cell, str) for cell in row) else None for row in cells]
        column = " + ".join(parts)
        values = [None if text is None else read(text) for text in raw]
        numeric = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        rows.frame[name] = pd.Series(values, index=table.index, dtype=float if numeric else object)
        unread = Counter(text for text, value in zip(raw, values, strict=True) if text is not None and value is None)
        if unread and name == "split":
            raise InputError(f"column '{column}' holds '{next(iter(unread))}': a split is train, val or test")
        if unread:
            examples = ", ".join(f"'{text[:40]}'" for text, _ in unread.most_common(3))
            problem = f"values of {column} cannot be read ({unread.total()}, such as {examples})"
            rows.problems.append(Problem(f"column {column}", problem, "kept as missing"))
    return rows


def one_hot_labels(table: pd.DataFrame, key: str, classes: tuple[str, ...]) -> tuple[dict[str, str], list[Problem]]:
    """The class of each row by its ``key``; a row with no class or several is a problem and stays unlabelled."""
    marks = table[list(classes)].map(lambda value: read_number(value) == 1)
    labels, problems = {}, []
    for name, count, label in zip(table[key], marks.sum(axis=1), marks.idxmax(axis=1), strict=True):
        if count == 1:
            labels[name] = label
        else:
            problems.append(Problem(str(name), f"{count} classes marked in the label table", "kept unlabelled"))
    return labels, problems


def found_classes(table: pd.DataFrame, column: str, level: Literal["image", "case"] = "image") -> Target:
    """A target whose classes are the names in ``column``, in alphabetical order."""
    return Target(column, tuple(sorted(table[column].dropna().unique())), level=level)
