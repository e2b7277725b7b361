"""What a source declares: where its facts, units and targets come from, and how its raw layout is read."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from dermssl.dataset.targets import Target

if TYPE_CHECKING:
    from dermssl.prepare.raw import RawFolder


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
    reader: Callable[["RawFolder"], "Records"]
    patient_key: bool = True
    """False: patient leakage cannot be ruled out, and every report says so."""
    overlaps: tuple[str, ...] = ()
    """Sources known to share images or lesions with this one; saying it on one of the two is enough."""

    def read(self, root: Path, follow: Path | None = None) -> "Records":
        """The rows of the raw data set below ``root``, with everything that cannot be used among the problems."""
        from dermssl.prepare.raw import RawFolder

        raw = RawFolder(root, follow)
        records = self.reader(raw)
        records.problems += raw.problems
        return records


@dataclass
class Records:
    """What a source read: one row per image with its ``file`` (below the root), raw ids and labels."""

    frame: pd.DataFrame
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was taken for what, where the source had to find out."""
    source: Source | None = None
    """The source with what reading found out (classes, terms, units); None: as declared."""
