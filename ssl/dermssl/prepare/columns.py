"""The columns of the manifest, read from those of a table, and labels that stand in a table of their own."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.tables import require_column
from dermssl.prepare.values import READERS, read_number


def read_columns(
    raw: RawFolder,
    table: pd.DataFrame,
    optional: Sequence[str] = (),
    /,
    **columns: str | list[str] | tuple[str, Callable[[str], Any] | Mapping[str, Any]],
) -> pd.DataFrame:
    """Read columns of the manifest from ``table`` (from `read_table`), one row per row of it.

    ``columns`` are manifest name = table name. A tuple (table name, reader or dictionary) replaces the column's own
    reader. The values of a list of table names are joined by ``/``. The ``optional`` table names may be absent. A value
    that cannot be read becomes missing and is reported.
    Raises InputError: the table lacks a column, or a split is none of train, val and test.
    """
    frame, path = pd.DataFrame(index=table.index), table.attrs.get("path", "the table")
    for name, wanted in columns.items():
        column, reader = wanted if isinstance(wanted, tuple) else (wanted, READERS.get(name, str))
        read = reader.get if isinstance(reader, Mapping) else reader
        parts = column if isinstance(column, list) else [column]
        for part in (part for part in parts if part not in optional):
            require_column(table, part, path)
        cells = zip(*(table[part] if part in table else [None] * len(table) for part in parts), strict=True)
        texts = ["/".join(row) if all(isinstance(cell, str) for cell in row) else None for row in cells]
        column = " + ".join(parts)
        values = [None if text is None else read(text) for text in texts]
        numeric = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        frame[name] = pd.Series(values, index=table.index, dtype=float if numeric else object)
        unread = Counter(text for text, value in zip(texts, values, strict=True) if text is not None and value is None)
        if unread and name == "split":
            raise InputError(f"{path}: column '{column}' holds '{next(iter(unread))}': a split is train, val or test")
        if unread:
            examples = ", ".join(f"'{text[:40]}'" for text, _ in unread.most_common(3))
            problem = f"values of {column} cannot be read ({unread.total()}, such as {examples})"
            raw.report(f"column {column}", problem, "kept as missing")
    return frame


def one_row_each(raw: RawFolder, table: pd.DataFrame, key: str, unit: str, rows: str = "label") -> pd.DataFrame:
    """The first row of each value of ``key``, the id of a ``unit``. Reports further rows, and rows without a value."""
    for row in table.index[table[key].isna()]:
        raw.report(f"{rows} row {row + 2}", f"no {key}")
    table = table[table[key].notna()]
    for name, same in table[table[key].duplicated(keep=False)].groupby(key):
        twice = f"{rows} row stands twice" if len(same.drop_duplicates()) == 1 else f"two {rows} rows that differ"
        raw.report(f"{unit} {name}", twice, "first row kept")
    return table.drop_duplicates(key)


def one_hot_labels(raw: RawFolder, table: pd.DataFrame, key: str, classes: Sequence[str]) -> dict[str, str]:
    """The class of each row by its ``key``, which no two rows share. Reports rows with no class or several."""
    marks = table[list(classes)].map(lambda value: read_number(value) == 1)
    labels = {}
    for name, count, label in zip(table[key], marks.sum(axis=1), marks.idxmax(axis=1), strict=True):
        if count == 1:
            labels[name] = label
        else:
            raw.report(str(name), f"{count} classes marked in the label table", "kept unlabelled")
    return labels


def found_classes(table: pd.DataFrame, column: str, level: Literal["image", "case"] = "image") -> Target:
    """A target whose classes are the values of ``column`` in alphabetical order."""
    return Target(column, tuple(sorted(table[column].dropna().unique())), level=level)
