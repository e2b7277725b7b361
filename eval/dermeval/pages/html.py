"""One self-contained page design for every report: no scripts, no outside files, no patient images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import jinja2


@dataclass(frozen=True)
class Section:
    """A heading, sentences, a table and a figure (SVG text of `dermeval.pages.plots`); any may be missing."""

    heading: str
    text: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    figure: str | None = None


def render(
    title: str, lead: Sequence[str], sections: Sequence[Section], notes: Sequence[str], foot: Sequence[str]
) -> str:
    """The page as HTML; everything but figures is escaped."""
    template = files("dermeval.pages").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(title=title, lead=lead, sections=sections, notes=notes, foot=foot)
