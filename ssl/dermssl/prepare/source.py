"""What a source declares, and what reading a raw data set with it gives: rows, targets and problems."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pandas as pd

from dermssl.dataset.targets import Target


class Problem(NamedTuple):
    """A line of ``problems.csv``: the file or row, what is wrong with it, and what was done.

    A detail that only this file has stands at the end of ``problem``, after ``:`` or in brackets.
    """

    file: str
    problem: str
    action: str

    @property
    def kind(self) -> str:
        """``problem`` without the detail."""
        return re.split(r": | \(", self.problem, maxsplit=1)[0]


def count_problems(problems: Iterable[Problem]) -> list[str]:
    """One line per kind of problem with its count, the most frequent first; with the detail if all have the same."""
    texts: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        texts.setdefault((problem.kind, problem.action), []).append(problem.problem)
    return [
        f"{len(found)} x {found[0] if len(set(found)) == 1 else kind} ({action})"
        for (kind, action), found in sorted(texts.items(), key=lambda item: -len(item[1]))
    ]


@dataclass(frozen=True)
class Source:
    """One known data set. ``group`` is the unit that splits keep together; ``case`` is the unit that scores count."""

    name: str
    title: str
    licence: str
    citation: str
    where: str
    layout: str
    group: str
    case: str = ""
    """Default: the group."""
    tables: tuple[str, ...] = ()
    """For a data set with one table: the table's name, and the names that other editions give it."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The columns of that table, as `read_columns` takes them."""
    optional: tuple[str, ...] = ()
    """Columns of that table that some copies lack."""
    reader: Callable[[Any], "Rows"] | None = None
    """For any other layout: the function that reads a `dermssl.prepare.raw.RawFolder`."""
    targets: dict[str, Target] = field(default_factory=dict)
    found: Mapping[str, Literal["image", "case"]] = field(default_factory=dict)
    """Targets whose classes are found in that table, and their level."""
    modality: str | None = None
    """``clinical`` or ``dermoscopic`` if that holds for all images."""
    overlaps: tuple[str, ...] = ()
    """Sources that share images or lesions with this one. It is enough if one of the two names the other. A source that
    reads several editions of one data set names itself."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "case", self.case or self.group)

    @property
    def patient_key(self) -> bool:
        """Whether patients are known. If not, every report says that patient leakage cannot be ruled out."""
        return self.group == "patient"


@dataclass
class Rows:
    """What a source read: one row per image, with its ``file`` (below the root), raw ids and labels."""

    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    """What the source concluded from names, for the report."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Targets beside those of the source, with the classes that were found."""
    source: Source | None = None
    """The source with the licence and units that the data set itself states; None: as declared."""
    problems: list[Problem] = field(default_factory=list)
    """All that `read_source` found wrong."""
