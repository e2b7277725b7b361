"""The one style of every plot, and plots as SVG text that a page can hold.

Colours are those of Okabe and Ito (2008), which people with any colour vision can tell apart. Text is never read as
mathematics, so that a ``$`` in the name of a class or file stands as it is. Figures are made without pyplot, which
keeps them until they are closed.
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
"""Characters of a name at an axis; with longer ones nothing of the plot would be left."""
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
    """The figure as an ``<svg>`` element. Its ink and rules take the colours of the page, light or dark.

    On a narrow screen it shrinks to two thirds of its width, but no further, as the text must stay readable.
    """
    buffer = io.StringIO()
    with rc_context(PLOT_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the page's own fonts draw the text
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace("<svg", f'<svg style="min-width: {64 * figure.get_figwidth():.0f}px"', 1)
    # Only clip paths and markers are referred to; other ids would stand several times on a page.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    return text.replace(INK, "currentColor").replace(RULE, "var(--rule)")
