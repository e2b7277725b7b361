"""What is wrong with a raw data set, one line each: ``problems.csv``."""

import re
from collections.abc import Iterable
from typing import NamedTuple


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
