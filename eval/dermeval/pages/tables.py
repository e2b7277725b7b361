"""A report as tables under headings, the same in text and on a page. Their cells are scores with intervals."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dermssl.page import Section

NARROW = "too narrow"
"""The words that follow an interval which is too narrow."""
ABBREVIATIONS = {"f1": "F1", "auroc": "AUROC", "ece": "ECE"}


@dataclass(frozen=True)
class ReportTable:
    """A heading and a table. The page also has the figures (SVG)."""

    heading: str
    frame: pd.DataFrame
    figures: tuple[str, ...] = ()


def show(entry: Mapping[str, Any], digits: str = ".3f") -> str:
    """``0.412 [0.371, 0.455]`` with numbers in the format ``digits``, then `NARROW` or p where the entry has them.

    p is never 0 (see `two_sided_p`), so one that would be rounded to 0 is shown as ``p below 0.001``.
    """
    if entry["value"] is None or np.isnan(entry["value"]):
        return "undefined"
    value, low, high = (format(entry[key], digits) for key in ("value", "low", "high"))
    text = f"{value} [{low}, {high}]" + (f" {NARROW}" if entry.get("narrow") else "")
    if "p" not in entry:
        return text
    return f"{text}, p {entry['p']:.3f}" if entry["p"] >= 0.0005 else f"{text}, p below 0.001"


def tables_as_text(tables: Iterable[ReportTable]) -> list[str]:
    """The tables as aligned columns under their headings, without those that have no rows."""
    text = []
    for table in tables:
        if len(table.frame):
            text += ["", table.heading, table.frame.fillna("").to_string(index=False)]
    return text


def tables_as_sections(tables: Iterable[ReportTable]) -> list[Section]:
    """The tables as sections of a page, with no-break spaces in ``[low, high]``, ``p 0.050`` and ``sd 0.002``."""

    def whole(cell: str) -> str:
        together = r"\[.*?\]|(p|sd)( below)? [\d.]+$"
        return re.sub(together, lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)

    sections = []
    for table in tables:
        rows = table.frame.fillna("").astype(str).map(whole).to_numpy().tolist()
        columns = [in_words(str(name)) for name in table.frame.columns]
        sections.append(Section(table.heading, (), columns, rows, table.figures))
    return sections


def in_words(name: str) -> str:
    """The name of a column as words: ``macro F1`` for ``macro_f1``."""
    return " ".join(ABBREVIATIONS.get(word, word) for word in name.split("_"))
