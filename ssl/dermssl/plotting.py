"""The style of all plots, and plots as SVG text for a page.

The colours of Okabe and Ito (2008) can be told apart with any colour vision. Text is never parsed as mathematics, so a
``$`` in a class name stays a ``$``. Figures are made without pyplot, which keeps them in memory.
"""

import io
import re
import warnings
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW = OKABE_ITO
GREY, INK, RULE = "#B5B5B5", "#22303a", "#d5dbe0"
LONGEST_LABEL = 30
"""Most characters of a label at an axis; longer ones would leave no room for the plot."""
PLOT_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "dermssl",
    "svg.fonttype": "none",
}


def as_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element, with text and lines in the colours of the page, light or dark.

    On a narrow screen it shrinks to two thirds of its width at most, so that the text stays readable.
    """
    buffer = io.StringIO()
    with rc_context(PLOT_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the browser draws the text with other fonts
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace("<svg", f'<svg style="min-width: {64 * figure.get_figwidth():.0f}px"', 1)
    # Other ids than those of clip paths and markers are not referred to, and a page must not repeat ids.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    return text.replace(INK, "currentColor").replace(RULE, "var(--rule)")
