"""Plots of scores, as SVG text that a page can hold."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dermssl.plotting import BLUE, INK, PLOT_STYLE, VERMILION, as_svg


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
    with rc_context(PLOT_STYLE):
        figure = Figure(figsize=(3.0 * len(panels), 0.9 + 0.36 * rows), layout="constrained")
        axes = figure.subplots(1, len(panels), sharex=same_axis, sharey=True, squeeze=False)[0]
        for axis, (title, bars) in zip(axes, panels, strict=True):
            for height, bar in enumerate(bars):
                clear = zero and (bar.low > 0 or bar.high < 0)
                colour = VERMILION if clear else BLUE
                axis.plot([bar.low, bar.high], [height, height], color=colour, linewidth=2, solid_capstyle="round")
                axis.plot(bar.value, height, "o", color=colour, markersize=6)
            if zero:
                axis.axvline(0, color=INK, linewidth=0.8)
            axis.set_title(title)
            _rows_only(axis, rows)
        axes[0].set_yticks(range(rows), [bar.label for bar in panels[0][1]])
        return as_svg(figure)


def _rows_only(axis: Axes, rows: int) -> None:
    """One line per row, a light grid to read the values by, no frame."""
    axis.set_ylim(rows - 0.5, -0.5)
    axis.grid(axis="x")
    axis.tick_params(length=0, labelsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.spines["left"].set_visible(False)
