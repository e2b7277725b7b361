"""The tables of a raw data set: which file is meant, and reading it in whatever dialect of CSV it was saved."""

import codecs
import csv
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pandas as pd

from dermssl.errors import InputError, did_you_mean, shortened
from dermssl.prepare.values import MISSING_NUMBERS, clean, read_number


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
            lines.seek(0)
            reader = csv.reader(lines, delimiter=max(",;\t|", key=first.count), strict=True)
            rows = (row for row in reader if len(row) > 1 or (row and not row[0].isspace()))
            if first.startswith("sep="):  # Excel's own line above the header
                next(rows)
            header = [name.strip() for name in next(rows, [])]
            for name in required if header else ():
                require_column(header, name, path)
            names = [name for name in dict.fromkeys(header) if name and (only is None or name in {*required, *only})]
            places, short, cells = [header.index(name) for name in names], 0, []
            for row in rows:
                if any(row[len(header) :]):
                    raise csv.Error(f"line {reader.line_num} has more fields than the header")
                short += len(row) < len(header)
                # Interned, because a column holds few different texts.
                cells.append([sys.intern(row[place]) if place < len(row) else "" for place in places])
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a readable CSV ({shortened(error)}): save it as CSV UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path} is not a readable CSV ({shortened(error)}): mend its fields and quotes") from None
    if not header:
        raise InputError(f"{path} is empty: it must hold a header and one line per record")
    if not cells:
        raise InputError(f"{path} has a header but no rows")
    table = pd.DataFrame(cells, columns=names, dtype=object)
    cleaned = table.map(clean).astype(object).where(lambda t: t.notna(), None)
    worded = {name: words for name in table if (words := _missing_words(table[name], cleaned[name]))}
    table, coded = _without_missing_numbers(cleaned)
    doubled = [name for name, times in Counter(header).items() if name and times > 1]
    table.attrs |= {"path": str(path), "short": short, "doubled": doubled, "coded": coded, "worded": worded}
    return table


def require_column(columns: Collection[str], name: str, path: object) -> None:
    """Raise InputError unless the table ``path``, which has the ``columns``, has one called ``name``."""
    if name not in columns:
        raise InputError(f"{path} has no column '{name}'; {did_you_mean(name, columns)}")


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
