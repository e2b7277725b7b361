"""Encoders on the same patients: paired bootstrap of the difference of every score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dermeval.statistics.bootstrap import Interval, cluster_codes, percentiles, resample
from dermeval.statistics.scorer import Scorer


@dataclass(frozen=True)
class Difference:
    """``value`` is this minus the first, with its 95% interval and two-sided p; per-class ones are ``(C,)``."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Scores of each set of predictions, and differences of all but the first against the first."""

    scores: list[dict[str, Interval]]
    differences: list[dict[str, Difference]]
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
    predictions: Sequence[np.ndarray],
    groups: Sequence[str] | np.ndarray,
    positive: int | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Several ``(N, C)`` probabilities of the same rows against the first, all drawn together by patient."""
    codes = cluster_codes(groups)
    scorers = [Scorer(truth, probabilities, codes, positive) for probabilities in predictions]
    sampled, redrawn = resample(scorers, draws, seed)
    points = [scorer.point() for scorer in scorers]
    scores = [
        {name: Interval(value, *percentiles(drawn[name])) for name, value in point.items()}
        for point, drawn in zip(points, sampled, strict=True)
    ]
    differences = [
        {name: _difference(point[name] - points[0][name], drawn[name] - sampled[0][name]) for name in point}
        for point, drawn in zip(points[1:], sampled[1:], strict=True)
    ]
    return Comparison(scores, differences, len(scorers[0].sums), draws, redrawn)


def _difference(value: np.ndarray, drawn: np.ndarray) -> Difference:
    return Difference(value, *percentiles(drawn), two_sided_p(drawn))
