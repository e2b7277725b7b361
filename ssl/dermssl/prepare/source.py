"""What a source declares and what the reading of its layout gives: rows, and problems (``problems.csv``)."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pandas as pd

from dermssl.dataset.targets import Target


class Problem(NamedTuple):
    """What was wrong with which file or row, and what was done about it.

    Where ``problem`` has a detail of this one file, it stands last, after ``:`` or in brackets.
    """

    file: str
    problem: str
    action: str

    @property
    def kind(self) -> str:
        """``problem`` without its detail: what equal problems of other files are counted under."""
        return re.split(r": | \(", self.problem, maxsplit=1)[0]


def count_problems(problems: Iterable[Problem]) -> list[str]:
    """Counted kinds of problems, the most frequent first; a detail is shown where all of a kind have the same."""
    texts: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        texts.setdefault((problem.kind, problem.action), []).append(problem.problem)
    return [
        f"{len(found)} x {found[0] if len(set(found)) == 1 else kind} ({action})"
        for (kind, action), found in sorted(texts.items(), key=lambda item: -len(item[1]))
    ]


@dataclass(frozen=True)
class Source:
    """One known data set. ``group`` is the unit kept whole, ``case`` the unit scored as one (default: the group)."""

    name: str
    title: str
    licence: str
    citation: str
    where: str
    layout: str
    group: str
    case: str = ""
    tables: tuple[str, ...] = ()
    """Names of the table, where one has all columns; a further name where other editions call it otherwise."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What `read_columns` takes for each column of the manifest from that table."""
    optional: tuple[str, ...] = ()
    """Columns of the table that some copies lack."""
    reader: Callable[[Any], "Rows"] | None = None
    """Reads the layout of a `dermssl.prepare.raw.RawFolder`, where it is not one table."""
    targets: dict[str, Target] = field(default_factory=dict)
    found: Mapping[str, Literal["image", "case"]] = field(default_factory=dict)
    """Further targets, whose classes are the names found in the table, and their level."""
    modality: str | None = None
    """``clinical`` or ``dermoscopic``, where all images are of one kind."""
    overlaps: tuple[str, ...] = ()
    """Sources known to share images or lesions with this one; saying it on one of the two is enough."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "case", self.case or self.group)

    @property
    def patient_key(self) -> bool:
        """False: patient leakage cannot be ruled out, and every report says so."""
        return self.group == "patient"


@dataclass
class Rows:
    """What a source read: one row per image with its ``file`` (below the root), raw ids and labels."""

    frame: pd.DataFrame
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was taken for what, where the source had to find out."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Further targets than the source's, with classes that stand in the table alone."""
    source: Source | None = None
    """The source with terms and units that reading found out; None: as declared."""
