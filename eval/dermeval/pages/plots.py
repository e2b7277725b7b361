"""Plots of scores, as SVG text for a page."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dermssl.errors import shortened
from dermssl.plotting import BLUE, GREY, INK, LONGEST_LABEL, OKABE_ITO, PLOT_STYLE, VERMILION, as_svg

PAGE_WIDTH = 12.5
"""Inches. A wider plot would be shrunk, with its text."""


class Bar(NamedTuple):
    """A dot with its interval, or a ring where the interval is too narrow."""

    label: str
    value: float
    low: float
    high: float
    narrow: bool = False


def interval_plot(
    panels: Sequence[tuple[str, Sequence[Bar]]], zero: bool = False, same_axis: bool = False, foot: str = ""
) -> str:
    """Panels side by side, each a title and its bars; ``zero`` draws the line of no difference, ``foot`` stands below.

    All panels have the same labels. With ``same_axis`` they also have the same scale, as panels of one score need.
    """
    rows = len(panels[0][1])
    with rc_context(PLOT_STYLE):
        width = min(3.0 * len(panels), PAGE_WIDTH)
        figure = Figure(figsize=(width, 1.1 + 0.36 * rows), layout="constrained")
        axes = figure.subplots(1, len(panels), sharex=same_axis, sharey=True, squeeze=False)[0]
        for axis, (title, bars) in zip(axes, panels, strict=True):
            for height, bar in enumerate(bars):
                colour = VERMILION if zero and (bar.low > 0 or bar.high < 0) else BLUE
                axis.plot([bar.low, bar.high], [height, height], color=colour, linewidth=2, solid_capstyle="round")
                face = "white" if bar.narrow else colour
                axis.plot(bar.value, height, "o", color=colour, markerfacecolor=face, markersize=6)
            if zero:
                axis.axvline(0, color=INK, linewidth=0.8)
            axis.set_title(textwrap.fill(title, int(9 * width / len(panels))))
            axis.set_ylim(rows - 0.5, -0.5)
            axis.grid(axis="x")
            axis.tick_params(length=0, labelsize=8)
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.spines["left"].set_visible(False)
        figure.supxlabel(foot, fontsize=8)
        axes[0].set_yticks(range(rows), [shortened(bar.label, LONGEST_LABEL) for bar in panels[0][1]])
        return as_svg(figure)


def confusion_plot(counts: np.ndarray, classes: Sequence[str]) -> str:
    """The confusion matrix ``counts`` ``(C, C)``, true by predicted class, shaded by the share of the true class."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size, names = 1.6 + 0.48 * len(classes), [shortened(name, LONGEST_LABEL) for name in classes]
    with rc_context(PLOT_STYLE):
        figure = Figure(figsize=(size + 0.8, size), layout="constrained")
        axes = figure.add_subplot()
        shading = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            # Not INK: it turns light on a dark page, but the shading does not change.
            colour = "white" if shares[row, column] > 0.5 else "#111111"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), names)
        axes.set(xlabel="predicted", ylabel="true")
        axes.tick_params(length=0)
        figure.colorbar(shading, label="share of the true class", shrink=0.8)
        return as_svg(figure)


def roc_plot(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """ROC curves: by label, false and true positive rates ``(T,)`` each."""
    with rc_context(PLOT_STYLE):
        figure = Figure(figsize=(4.4, 3.4 + 0.2 * len(curves)), layout="constrained")
        axes = figure.add_subplot()
        for number, (label, (false, true)) in enumerate(curves.items()):
            style, colour = ("-", "--", ":")[number // len(OKABE_ITO) % 3], OKABE_ITO[number % len(OKABE_ITO)]
            axes.plot(false, true, style, color=colour, label=textwrap.fill(label, 60), linewidth=1.4)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="chance")
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1.005))
        figure.legend(loc="outside lower left", fontsize=8)
        return as_svg(figure)


def reliability_plot(confidence: np.ndarray, right: np.ndarray, images: np.ndarray) -> str:
    """For each of K bins of confidence: the mean confidence, the share that is right, and the number of images."""
    with rc_context(PLOT_STYLE):
        figure = Figure(figsize=(4.4, 4.2), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="perfect calibration")
        upper.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
        upper.plot(confidence, right, "o-", color=BLUE, label="measured")
        upper.legend()
        lower.bar(confidence, images, width=0.04, color=GREY)
        lower.set(xlabel="confidence: the probability of the predicted class", ylabel="images")
        return as_svg(figure)
