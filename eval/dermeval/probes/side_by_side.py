"""A long table of scores, one row for each encoder and column, as the tables, plots and files of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.pages import plots
from dermeval.pages.tables import ReportTable
from dermeval.probes.intervals import defined, interval_json, show
from dermeval.statistics.bootstrap import Interval
from dermeval.statistics.comparison import Difference
from dermssl.atomic import atomic_folder
from dermssl.files import write_csv, write_json, write_text

ENDS = ("", "_low", "_high")


def table_row(score: Interval) -> dict[str, Any]:
    """The columns ``value``, ``low``, ``high`` and ``narrow``."""
    return {"narrow": False} | interval_json(score)


def interval_columns(prefix: str, interval: Interval | None) -> dict[str, Any]:
    """The columns ``prefix``, ``prefix_low`` and ``prefix_high`` of a further interval; empty without one."""
    entry = interval_json(interval) if interval else {}
    return {prefix + end: entry.get(key) for end, key in zip(ENDS, ("value", "low", "high"), strict=True)}


def difference_columns(difference: Difference | None) -> dict[str, Any]:
    """`interval_columns` of a difference, and its ``p``."""
    return interval_columns("difference", difference) | {"p": defined(difference.p) if difference else None}


def _interval_at(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The interval in the columns of ``prefix`` (empty: ``value``, ``low``, ``high``), as `show` takes it."""
    names = [prefix + end for end in ENDS] if prefix else ["value", "low", "high"]
    entry = dict(zip(("value", "low", "high"), (row[name] for name in names), strict=True))
    return entry | {"narrow": row["narrow"]} | ({"p": row["p"]} if prefix == "difference" else {})


def interval_cells(rows: pd.DataFrame, prefix: str = "", digits: str = ".3f") -> list[str]:
    """The interval of each row in the columns of ``prefix`` (empty: the score itself)."""
    return [show(_interval_at(row, prefix), digits) for row in rows.to_dict("records")]


def grid(rows: pd.DataFrame, keys: tuple[str, str], cells: Sequence[str]) -> pd.DataFrame:
    """``cells`` of ``rows`` as a table: the first key down, unnamed, the second across, both in the order of rows."""
    down, across = keys
    found = rows.assign(cell=cells).pivot(index=down, columns=across, values="cell")
    order = list(dict.fromkeys(rows[down])), list(dict.fromkeys(rows[across]))
    return found.loc[order].rename_axis(index=None, columns=None).reset_index(names="")


def dots(rows: pd.DataFrame, keys: tuple[str, str], prefix: str = "", most: int = 6) -> str:
    """Dots with intervals as SVG: a panel for each of the first ``most`` columns."""
    panels = []
    for column, part in list(rows.groupby(keys[1], sort=False))[:most]:
        entries = [(row[keys[0]], _interval_at(row, prefix)) for row in part.to_dict("records")]
        bars = [plots.Bar(name, *(own[key] for key in ("value", "low", "high", "narrow"))) for name, own in entries]
        panels.append((str(column).replace("_", " "), bars))
    return plots.interval_plot(panels, zero=prefix == "difference")


def latex_table(table: ReportTable, caption: str) -> str:
    """A booktabs table."""
    style = table.frame.set_index("").rename_axis(None).rename(columns=lambda name: name.replace("_", " ")).style
    style = style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    return style.to_latex(hrules=True, caption=caption)


def write_side_by_side(
    folder: Path, name: str, data: dict[str, Any], tex: Sequence[str], page: str, page_name: str
) -> None:
    """``name.json``, ``name.csv`` (its rows), ``name.tex`` and the page."""
    with atomic_folder(folder) as temporary:
        write_json(temporary / f"{name}.json", data)
        write_csv(temporary / f"{name}.csv", pd.DataFrame(data["rows"]))
        write_text(temporary / f"{name}.tex", "\n".join(tex))
        write_text(temporary / page_name, page)
