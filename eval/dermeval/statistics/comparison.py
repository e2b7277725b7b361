"""Encoders on the same patients: paired bootstrap of the difference of every score.

An encoder with several seeds counts as the mean of what each scores, under the same draws of patients as all others.
Scores are averaged, not probabilities, since the mean probability is an ensemble that nobody will run. The seeds
themselves are not drawn again: two or three say too little about a spread, so theirs is given apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dermeval.statistics.bootstrap import Interval, cluster_codes, debiased, percentiles, resample
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
    """Scores of each set of predictions, and differences of all but the first against the first.

    ``deviations`` are standard deviations over the seeds, NaN where there is one.
    """

    scores: list[dict[str, Interval]]
    deviations: list[dict[str, np.ndarray]]
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
    """Several ``(N, C)`` probabilities of the same rows against the first, all drawn together by patient.

    Those of an encoder with S seeds are ``(S, N, C)``; seeds are averaged.
    """
    codes = cluster_codes(groups)
    seeds = [entry.reshape(-1, *entry.shape[-2:]) for entry in predictions]
    scorers = [Scorer(truth, probabilities, codes, positive) for entry in seeds for probabilities in entry]
    sampled, redrawn = resample(scorers, draws, seed)
    ends = np.cumsum([len(entry) for entry in seeds])[:-1]
    point = _stacked([scorer.point() for scorer in scorers], ends)
    drawn = [_over(np.mean, entry) for entry in _stacked(sampled, ends)]
    means = [_over(np.mean, entry) for entry in point]
    for mean, sample in zip(means, drawn, strict=True):
        for name in mean:
            mean[name], sample[name] = debiased(name, mean[name], sample[name])
    scores = [
        {name: Interval(value, *percentiles(sample[name])) for name, value in mean.items()}
        for mean, sample in zip(means, drawn, strict=True)
    ]
    differences = [
        {name: _difference(mean[name] - means[0][name], sample[name] - drawn[0][name]) for name in mean}
        for mean, sample in zip(means[1:], drawn[1:], strict=True)
    ]
    deviations = [_over(_deviation, entry) for entry in point]
    return Comparison(scores, deviations, differences, len(scorers[0].sums), draws, redrawn)


def _stacked(scored: Sequence[dict[str, np.ndarray]], ends: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Scores of every seed, cut at ``ends`` into those of each encoder: its seeds are the first axis."""
    parts = {name: np.split(np.stack([entry[name] for entry in scored]), ends) for name in scored[0]}
    return [{name: part[index] for name, part in parts.items()} for index in range(len(ends) + 1)]


def _over(reduce: Callable[..., np.ndarray], seeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: reduce(values, axis=0) for name, values in seeds.items()}


def _deviation(values: np.ndarray, axis: int) -> np.ndarray:
    return values.std(axis, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def _difference(value: np.ndarray, drawn: np.ndarray) -> Difference:
    return Difference(value, *percentiles(drawn), two_sided_p(drawn))
