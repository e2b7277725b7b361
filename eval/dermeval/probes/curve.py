"""The plot of a few-shot curve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from dermssl.atomic import atomic_file

COLOURS = {"image": "#1f5f8b", "case": "#b5482f"}
INK, RULE = "#22303a", "#d5dbe0"


def draw_curve(path: Path, points: Sequence[dict[str, Any]], result: dict[str, Any], group: str) -> None:
    """Balanced accuracy over ``group``s per class as PNG.

    The last place is the ``result`` of all of them, apart from the curve since its classes are as unequal as they come.
    """
    levels = result["levels"]
    with matplotlib.rc_context({"font.size": 9, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(5.2, 3.4))
        axes = figure.add_subplot()
        for index, level in enumerate(level for level in COLOURS if level in points[0]):
            entries = [point[level]["balanced_accuracy"] for point in points]
            entries += [levels[level]["scores"]["balanced_accuracy"]] if level in levels else []
            # Side by side, so that one level's interval does not hide the other's.
            places = [place + 0.08 * (2 * index - 1) for place in range(len(entries))]
            axes.plot(places, [entry["value"] for entry in entries], "o", color=COLOURS[level], label=f"{level} level")
            axes.plot(places[: len(points)], [entry["value"] for entry in entries[: len(points)]], color=COLOURS[level])
            axes.vlines(places, [e["low"] for e in entries], [e["high"] for e in entries], color=COLOURS[level])
        axes.axhline(1 / len(result["classes"]), color=INK, linewidth=0.8, linestyle=":", label="chance")
        axes.set_xticks(range(len(points) + 1), [str(point["shots"]) for point in points] + ["all"])
        axes.set(xlabel=f"training {group}s per class", ylabel="balanced accuracy")
        names = ", ".join(entry["name"] for entry in result["datasets"])
        axes.set_title(f"{result['probe']}: {result['target']} of {names}", loc="left", fontsize=9, color=INK)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.tight_layout()
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
