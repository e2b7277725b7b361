"""What a source declares: where its facts, units and targets come from, and how its raw layout is read."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dermssl.dataset.targets import Target


class Problem(NamedTuple):
    """One line of ``problems.csv``: what was wrong with which file or row, and what was done about it.

    Where ``problem`` has a detail of this one file, it stands last, after ``:`` or in brackets.
    """

    file: str
    problem: str
    action: str

    @property
    def kind(self) -> str:
        """``problem`` without its detail: what equal problems of other files are counted under."""
        return re.split(r": | \(", self.problem, maxsplit=1)[0]


@dataclass(frozen=True)
class Source:
    """One known data set. ``group`` and ``case`` name the unit kept together and the unit scored as one."""

    name: str
    title: str
    licence: str
    citation: str
    where: str
    layout: str
    group: str
    case: str
    targets: dict[str, Target]
    read: Callable[[Path], "Records"]
    patient_key: bool = True
    """False: patient leakage cannot be ruled out, and every report says so."""
    overlaps: tuple[str, ...] = ()
    """Sources known to share images or lesions with this one; saying it on one of the two is enough."""


@dataclass
class Records:
    """What a source read: one row per image with its ``file`` (below the root), raw ids and labels."""

    frame: pd.DataFrame
    problems: list[Problem] = field(default_factory=list)
    source: Source | None = None
    """The source with what reading found out (classes, terms, units); None: as declared."""
