"""HTML pages with one style, light and dark, for screens of any width, without outside resources or scripts.

A page with its own layout extends ``dermssl/page.html`` and fills its blocks (style, header, notes, content, footer).
Templates are named by package and file: ``dermeval/leaks/report.html`` is ``report.html`` of the package
``dermeval.leaks``. All text in a template is escaped, but not the figures of `dermssl.plotting`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import markupsafe

from dermssl.errors import counted

BARE_LABEL = re.compile(r"[+-]?[\d.]+|yes|no|true|false|y|n|ja|nein|oui|non|s[ií]|não|positive|negative", re.IGNORECASE)
"""Labels that say nothing without the name of their target."""


@dataclass(frozen=True)
class Section:
    """A heading, then any of: sentences, figures (SVG text), a table, and terms with their meanings."""

    heading: str
    text: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figures: Sequence[str] = ()
    terms: Mapping[str, str] = field(default_factory=dict)

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds a number and is aligned to the right. The first holds names."""
        held = [any(re.match(r"[+−-]?[\d.]", str(cell)) for cell in column) for column in zip(*self.rows, strict=True)]
        return [False, *held[1:]]


def render(template: str = "dermssl/page.html", **values: Any) -> str:
    """The page as HTML. ``page.html`` itself takes ``title``, ``lead``, ``notes``, ``sections`` and ``foot``."""
    return templates().get_template(template).render(**values)


def breakable(name: str) -> markupsafe.Markup:
    """An id or path, escaped, which a narrow page breaks after ``/ _ . -`` and not within a number (``<wbr>``)."""
    return markupsafe.Markup("<wbr>").join(re.findall(r"[^/_.-]*[/_.-]|[^/_.-]+", name))


def shown_label(value: Any, target: str) -> str:
    """The label of a target in a caption: with the target's name if it is a number, or a word such as yes or no."""
    text = str(value)
    return f"{target.replace('_', ' ')}: {text}" if BARE_LABEL.fullmatch(text) else text


def commands(text: str) -> markupsafe.Markup:
    """A text, escaped, with what stands between backticks as code."""
    code = markupsafe.Markup("<code>{}</code>")
    return markupsafe.Markup("").join(code.format(part) if n % 2 else part for n, part in enumerate(text.split("`")))


@cache
def templates() -> jinja2.Environment:
    """The Jinja environment that finds templates in the packages."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in (breakable, commands, counted, shown_label)}
    return environment


def _template(name: str) -> str | None:
    package, _, file = name.rpartition("/")
    found = resources.files(package.replace("/", ".")).joinpath(file)
    return found.read_text(encoding="utf-8") if found.is_file() else None
