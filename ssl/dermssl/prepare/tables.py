"""The tables of a raw data set: which file is meant, and reading it in whatever dialect of CSV it was saved."""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from dermssl.errors import InputError, did_you_mean, shortened
from dermssl.prepare.values import MISSING_NUMBERS, clean, read_number

CHUNK = 20_000


def choose_tables(files: Iterable[str], *names: str) -> list[str]:
    """The files that may be the table with one of ``names``, the best first.

    Case does not count, nor does a table's suffix, nor which of ``-``, ``_`` and space stands between words. A file
    with the exact name comes before files with a version after it (``_v2``, `` (1)``), the highest version first. Then
    the order of ``names`` counts, then the depth of the path.
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
    """Read a CSV as stripped strings, None where missing; any delimiter and line ending, UTF-8 or Excel's UTF-16.

    ``only`` names the columns to keep beside the ``required`` ones, None all: a table of 400,000 rows and many columns
    takes a gigabyte as strings. ``attrs`` of the table holds its ``path``; ``short``, the number of rows with fewer
    fields than the header; ``doubled``, the names that several columns have (the first column is kept); ``coded``, the
    number of values per column that `_without_missing_numbers` took out; and ``worded``, for each column the words for
    missing and their numbers.
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
        raise InputError(f"{path} is not a readable CSV ({shortened(error)}): save it as CSV UTF-8") from None
    except (csv.Error, pd.errors.ParserError) as error:
        raise InputError(f"{path} is not a readable CSV ({shortened(error)}): mend its fields and quotes") from None
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty: it must hold a header and one line per record") from None
    if table.empty:
        raise InputError(f"{path} has a header but no rows")
    cleaned = table.map(clean).astype(object).where(lambda t: t.notna(), None)
    worded = {name: words for name in table if (words := _missing_words(table[name], cleaned[name]))}
    table, coded = _without_missing_numbers(cleaned)
    doubled = [name for name, times in Counter(map(str.strip, header)).items() if name and times > 1]
    table.attrs |= {"path": str(path), "short": short, "doubled": doubled, "coded": coded, "worded": worded}
    return table


def _columns(table: pd.DataFrame, path: Path, required: Iterable[str], only: Sequence[str] | None) -> pd.DataFrame:
    table.columns = table.columns.str.strip()
    table = table.loc[:, ~table.columns.duplicated()]
    for name in required:
        require_column(table, name, path)
    # Not read_csv's usecols: with it, fields beyond the header's would be cut off in silence.
    return table if only is None else table[[name for name in table if name in {*required, *only}]]


def require_column(table: pd.DataFrame, name: str, path: object) -> None:
    """Raise InputError unless ``table``, which was read from ``path``, has the column ``name``."""
    if name not in table:
        raise InputError(f"{path} has no column '{name}'; {did_you_mean(name, table.columns)}")


def _missing_words(column: pd.Series, cleaned: pd.Series) -> dict[str, int]:
    """The texts of a ``column`` that are missing in the ``cleaned`` one, and their numbers. Blanks do not count."""
    words = column[cleaned.isna()].str.strip()
    return words[words != ""].value_counts().to_dict()


def _without_missing_numbers(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """``table`` without `MISSING_NUMBERS`, and how many of them each column held.

    A column with other negative numbers, such as SCIN's case ids, keeps them: there they are values.
    """
    coded = {}
    for name in table:
        bare = {text: text.strip("()[] ") for text in table[name].dropna().unique()}
        numbers = {text: read_number(number) or 0 for text, number in bare.items() if number.startswith("-")}
        negative = {text: number for text, number in numbers.items() if number < 0}
        if negative and set(negative.values()) <= MISSING_NUMBERS:
            found = table[name].isin(list(negative))
            table[name], coded[name] = table[name].where(~found, None), int(found.sum())
    return table, coded
