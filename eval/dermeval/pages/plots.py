"""Plots of scores with intervals, as SVG text that a page can hold."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

BLUE, RED, INK, RULE = "#1f5f8b", "#b5482f", "#22303a", "#d5dbe0"


class Bar(NamedTuple):
    """One dot with its interval."""

    label: str
    value: float
    low: float
    high: float


def interval_plot(panels: Sequence[tuple[str, Sequence[Bar]]], zero: bool = False, same_axis: bool = False) -> str:
    """Panels side by side, each a titled column of dots with intervals; ``zero`` draws the line of no difference.

    Panels of one score have the ``same_axis``, so that they can be read across.
    """
    rows = len(panels[0][1])
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.0 * len(panels), 0.9 + 0.36 * rows), sharex=same_axis, sharey=True, squeeze=False
    )
    for axis, (title, bars) in zip(axes[0], panels, strict=True):
        for height, bar in enumerate(bars):
            clear = zero and (bar.low > 0 or bar.high < 0)
            colour = RED if clear else BLUE
            axis.plot([bar.low, bar.high], [height, height], color=colour, linewidth=2, solid_capstyle="round")
            axis.plot(bar.value, height, "o", color=colour, markersize=6)
        if zero:
            axis.axvline(0, color=INK, linewidth=0.8)
        axis.set_title(title, fontsize=10, loc="left", color=INK)
        _tidy(axis, rows)
    axes[0][0].set_yticks(range(rows), [bar.label for bar in panels[0][1]], fontsize=9, color=INK)
    return _svg(figure)


def _tidy(axis: plt.Axes, rows: int) -> None:
    axis.set_ylim(rows - 0.5, -0.5)
    axis.grid(axis="x", color=RULE, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelsize=8, colors=INK)
    axis.xaxis.set_major_locator(plt.MaxNLocator(4))
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(RULE)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "dermeval", "svg.fonttype": "none"}):
        figure.tight_layout()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
