"""Two encoders on the same patients: paired bootstrap of the difference of every score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dermeval.statistics.bootstrap import cluster_codes, percentiles, resample
from dermeval.statistics.scorer import Scorer


@dataclass(frozen=True)
class Difference:
    """``value`` is second minus first, with its 95% interval and two-sided p; per-class ones are ``(C,)``."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Differences of all scores, and what they rest on."""

    differences: dict[str, Difference]
    clusters: int
    draws: int
    redrawn: int


def two_sided_p(differences: np.ndarray) -> np.ndarray:
    """Bootstrap p of no difference over the first axis: twice the smaller tail, each with one added draw.

    The added draw keeps p above 0: with B draws it is at least 2 / (B + 1) (Davison & Hinkley 1997, section 4.2).
    """
    below = 1 + (differences <= 0).sum(0)
    above = 1 + (differences >= 0).sum(0)
    return np.minimum(1, 2 * np.minimum(below, above) / (len(differences) + 1))


def compare(
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    positive: int | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Differences ``second - first`` of two ``(N, C)`` predictions of the same rows, drawn together by patient."""
    codes = cluster_codes(groups)
    scorers = [Scorer(truth, probabilities, codes, positive) for probabilities in (first, second)]
    (one, two), redrawn = resample(scorers, draws, seed)
    before, after = (scorer.point() for scorer in scorers)
    differences = {}
    for name, value in after.items():
        drawn = two[name] - one[name]
        differences[name] = Difference(value - before[name], *percentiles(drawn), two_sided_p(drawn))
    return Comparison(differences, len(scorers[0].sums), draws, redrawn)
