"""A report as tables under headings, which text and page show alike, and scores with intervals as their cells."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dermssl.page import Section

NARROW = "too narrow"
"""Follows an interval that is wider in truth."""


@dataclass(frozen=True)
class ReportTable:
    """A heading and a table. Figures (SVG) and terms with their meanings stand on the page only."""

    heading: str
    frame: pd.DataFrame
    figures: tuple[str, ...] = ()
    terms: Mapping[str, str] = field(default_factory=dict)


def show(entry: Mapping[str, Any], digits: str = ".3f") -> str:
    """``0.412 [0.371, 0.455]``, in the number format ``digits``; a difference also has its p.

    An interval that is too narrow is followed by `NARROW`, which every report explains.
    """
    if entry["value"] is None or np.isnan(entry["value"]):
        return "undefined"
    value, low, high = (format(entry[key], digits) for key in ("value", "low", "high"))
    text = f"{value} [{low}, {high}]" + (f" {NARROW}" if entry.get("narrow") else "")
    return text + (f", p {entry['p']:.3f}" if "p" in entry else "")


def tables_as_text(tables: Iterable[ReportTable]) -> list[str]:
    """Aligned columns under each heading; tables without rows are left out."""
    text = []
    for table in tables:
        if len(table.frame):
            text += ["", table.heading, table.frame.fillna("").to_string(index=False)]
    return text


def tables_as_sections(tables: Iterable[ReportTable]) -> list[Section]:
    """The sections of a page, with no-break spaces in ``[low, high]`` and ``p 0.050``."""

    def whole(cell: str) -> str:
        return re.sub(r"\[.*?\]|p [\d.]+$", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)

    sections = []
    for table in tables:
        rows = table.frame.fillna("").astype(str).map(whole).to_numpy().tolist()
        columns = [str(name).replace("_", " ") for name in table.frame.columns]
        sections.append(Section(table.heading, (), columns, rows, table.figures, table.terms))
    return sections
