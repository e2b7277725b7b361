"""A long table of scores, one row for each encoder and column, as the tables, plots and files of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.pages import plots
from dermeval.pages.tables import ReportTable, show
from dermeval.statistics.bootstrap import Interval
from dermssl.atomic import atomic_folder
from dermssl.files import write_csv, write_json, write_text

KEYS, ENDS = ("value", "low", "high"), ("", "_low", "_high")


def long_row(score: Interval) -> dict[str, Any]:
    """The columns ``value``, ``low``, ``high`` and ``narrow``."""
    return {"narrow": False} | score.entry()


def interval_columns(prefix: str, interval: Interval | None) -> dict[str, Any]:
    """The columns ``prefix``, ``prefix_low``, ``prefix_high`` of a further interval, and ``p`` of a difference."""
    entry = interval.entry() if interval else {}
    columns = {prefix + end: entry.get(key) for end, key in zip(ENDS, KEYS, strict=True)}
    return columns | ({"p": entry.get("p")} if prefix == "difference" else {})


def _interval_at(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The interval in the columns of ``prefix`` (empty: ``value``, ``low``, ``high``), as `show` takes it."""
    names = [prefix + end for end in ENDS] if prefix else KEYS
    entry = {key: row[name] for key, name in zip(KEYS, names, strict=True)}
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
        bars = [plots.Bar(name, *(own[key] for key in (*KEYS, "narrow"))) for name, own in entries]
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
