"""The plots of a data set, drawn from `all_tables`, so that plots and tables agree."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dermssl.describe.tables import MISSING
from dermssl.errors import shortened
from dermssl.plotting import GREY, INK, LONGEST_LABEL, OKABE_ITO, ORANGE, PLOT_STYLE, SKY, YELLOW

LIGHT = {ORANGE, SKY, YELLOW, GREY}
PANELS_PER_ROW = 3
MOST_PLACES, MOST_COLOURS = 40, 12
"""The numbers of labels at an axis and of entries in a legend that fit a panel."""
LEGEND_WIDTH, LEGEND_HANDLE = 64, 5
"""The characters of a line of a legend that fit a panel, and those that the handle of an entry takes."""


def draw_page(title: str, tables: dict[str, pd.DataFrame]) -> Figure:
    """One figure with a panel for each table that `choose_panel` can draw."""
    tables = {name: table.rename(index=_label, columns=_label) for name, table in tables.items()}
    panels = [(name, panel) for name, table in tables.items() if (panel := choose_panel(name, table))]
    rows = max(1, -(-len(panels) // PANELS_PER_ROW))
    with rc_context(PLOT_STYLE):
        figure = Figure(figsize=(5.0 * PANELS_PER_ROW, 3.4 * rows), layout="constrained")
        axes = figure.subplots(rows, PANELS_PER_ROW, squeeze=False)
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
        for axis, (name, panel) in zip(axes.flat[: len(panels)], panels, strict=True):
            panel(axis)
            legend = axis.get_legend()
            lines = _legend_lines([text.get_text() for text in legend.get_texts()]) if legend else 0
            axis.set_title(name[:1].upper() + name[1:], pad=6 + 18 * min(lines, 1) + 14 * max(lines - 1, 0))
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
    return figure


def _label(value: Any) -> Any:
    return shortened(value, LONGEST_LABEL) if isinstance(value, str) else value


def choose_panel(name: str, table: pd.DataFrame) -> Callable[[Axes], None] | None:
    """The function that draws a table, None for a table that reads better as numbers."""
    if table.empty or max(table.shape) > MOST_PLACES or "spread" in name or "pixels" in name or "years" in name:
        return None
    if name == "missing values":
        return partial(_shares, table=table)
    if " per split and " in name:
        return partial(_stacked_shares, table=table) if len(table.columns) - 1 <= MOST_COLOURS else None
    if "all" in table.columns and len(table) * len(table.columns) > 24:
        return partial(_heatmap, table=table.drop(columns="all"))
    if "all" in table.columns:
        return partial(_stacked, table=table.drop(columns="all"))
    return partial(_bars, table=table)


def _bars(axis: Axes, table: pd.DataFrame) -> None:
    """Bars side by side, one colour per column, with the value at each bar."""
    places, width = np.arange(len(table)), 0.8 / len(table.columns)
    for number, (name, values) in enumerate(table.items()):
        offset = (number - (len(table.columns) - 1) / 2) * width
        bars = axis.bar(places + offset, values, width, label=str(name), color=OKABE_ITO[number])
        axis.bar_label(bars, fontsize=7, padding=1)
    axis.margins(y=0.12)
    _label_places(axis, table)


def _stacked(axis: Axes, table: pd.DataFrame) -> None:
    bottom = np.zeros(len(table))
    for number, (name, values) in enumerate(table.items()):
        axis.bar(np.arange(len(table)), values, 0.75, bottom=bottom, label=str(name), color=_colour(name, number))
        bottom += values.to_numpy(dtype=float)
    _label_places(axis, table)


def _colour(name: Any, number: int) -> str:
    return GREY if name == MISSING else OKABE_ITO[number % len(OKABE_ITO)]


def _stacked_shares(axis: Axes, table: pd.DataFrame) -> None:
    """The class shares of each split as horizontal bars, longer than 100% if units have several classes."""
    shares = 100 * table.drop(columns="all").div(table["all"].replace(0, 1), axis=0)
    left = np.zeros(len(shares))
    for number, (name, values) in enumerate(shares.items()):
        colour = _colour(name, number)
        bars = axis.barh(np.arange(len(shares)), values, 0.6, left=left, label=str(name), color=colour)
        labels = [f"{value:.0f}" if value >= 6 else "" for value in values]
        ink = INK if colour in LIGHT else "white"
        axis.bar_label(bars, labels, label_type="center", fontsize=8, color=ink, fontweight="bold")
        left += values.to_numpy(dtype=float)
    axis.set_yticks(np.arange(len(shares)), [str(value) for value in shares.index])
    longest = float(left.max(initial=100))
    several = " (some have several classes)" if longest > 100.01 else ""
    axis.set(xlabel=f"share of the split, %{several}", xlim=(0, longest), ylim=(len(shares) - 0.5, -0.5))
    _legend(axis)


def _heatmap(axis: Axes, table: pd.DataFrame) -> None:
    values = table.to_numpy(dtype=float)
    axis.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5, np.arange(values.shape[0] + 1) - 0.5, values, cmap="Blues", vmin=0
    )
    axis.invert_yaxis()
    axis.set_xticks(np.arange(table.shape[1]), [str(name) for name in table.columns])
    axis.set_yticks(np.arange(table.shape[0]), [str(name) for name in table.index])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    dark = 0.55 * values.max(initial=1)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > dark else "black"
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)


def _shares(axis: Axes, table: pd.DataFrame) -> None:
    ordered = table["share"].iloc[::-1] * 100
    bars = axis.barh(np.arange(len(ordered)), ordered, color=GREY)
    axis.bar_label(bars, [f"{value:.1f}" for value in ordered], fontsize=7, padding=2)
    axis.set_yticks(np.arange(len(ordered)), [str(name) for name in ordered.index])
    axis.set(xlabel="images without a value, %", xlim=(0, 112))


def _label_places(axis: Axes, table: pd.DataFrame) -> None:
    names = [str(value) for value in table.index]
    crowded = sum(map(len, names)) > 45
    axis.set_xticks(np.arange(len(names)), names, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    axis.set(xlabel=str(table.index.name or "").replace("_", " "), ylabel="number")
    _legend(axis)


def _legend_columns(names: list[str]) -> int:
    return max(1, min(len(names), LEGEND_WIDTH // (max(map(len, names)) + LEGEND_HANDLE)))


def _legend_lines(names: list[str]) -> int:
    return -(-len(names) // _legend_columns(names))


def _legend(axis: Axes) -> None:
    """A legend above the panel, in as many lines as the panel's width asks for; none for a single entry."""
    names = [str(name) for name in axis.get_legend_handles_labels()[1]]
    if len(names) > 1:
        shape = {"ncols": _legend_columns(names), "columnspacing": 1, "handlelength": 1, "borderaxespad": 0.1}
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8, **shape)
