"""A report as tables under headings, which text and page show alike."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from dermssl.page import Section


@dataclass(frozen=True)
class ReportTable:
    """A heading and a table of text. Figures (SVG), sentences and terms stand on the page only."""

    heading: str
    frame: pd.DataFrame
    figures: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    terms: Mapping[str, str] = field(default_factory=dict)


def tables_as_text(tables: Iterable[ReportTable]) -> list[str]:
    """Aligned columns under each heading; figures alone are left out."""
    text = []
    for table in tables:
        if len(table.frame):
            text += ["", table.heading, table.frame.fillna("").to_string(index=False)]
    return text


def tables_as_sections(tables: Iterable[ReportTable]) -> list[Section]:
    """The sections of a page."""
    sections = []
    for table in tables:
        rows = table.frame.fillna("").astype(str).map(_whole_intervals).to_numpy().tolist()
        columns = [str(name).replace("_", " ") for name in table.frame.columns]
        sections.append(Section(table.heading, table.sentences, columns, rows, table.figures, table.terms))
    return sections


def _whole_intervals(cell: str) -> str:
    """The cell, with no-break spaces in ``[low, high]``."""
    return re.sub(r"\[.*?\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)
