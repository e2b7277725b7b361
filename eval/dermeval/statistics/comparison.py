"""Encoders on the same patients: paired bootstrap of the difference of every score.

An encoder with several seeds counts as the mean of what each scores, under the same draws of patients as all others.
Scores are averaged, not probabilities, since the mean probability is an ensemble that nobody will run. The seeds
themselves are not drawn again: two or three say too little about a spread, so theirs is given apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dermeval.statistics.bootstrap import (
    MIN_PATIENTS,
    Interval,
    Resampler,
    Scores,
    cluster_codes,
    debiased,
    percentiles,
    resample,
    too_narrow,
)
from dermeval.statistics.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """``value`` is this minus the first, with its 95% interval and two-sided p; per-class ones are ``(C,)``."""

    p: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Scores of each set of predictions, and differences of all but the first against the first.

    ``deviations`` are standard deviations over the seeds, NaN where there is one. ``drawn`` are the scores of each set
    under every draw.
    """

    scores: list[dict[str, Interval]]
    deviations: list[Scores]
    differences: list[dict[str, Difference]]
    drawn: list[Scores]
    redrawn: int


def two_sided_p(differences: np.ndarray) -> np.ndarray:
    """Bootstrap p of no difference over the first axis: twice the smaller tail, each with one added draw.

    The added draw keeps p above 0: with B draws it is at least 2 / (B + 1) (Davison & Hinkley 1997, section 4.2).
    """
    below = 1 + (differences <= 0).sum(0)
    above = 1 + (differences >= 0).sum(0)
    return np.minimum(1, 2 * np.minimum(below, above) / (len(differences) + 1))


def paired_bootstrap(
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
    points = [scorer.point() for scorer in scorers]
    means, drawn, deviations, start = [], [], [], 0
    for entry in seeds:
        rows = slice(start, start := start + len(entry))
        mean, sample, spread = {}, {}, {}
        for name in points[0]:
            values = np.stack([point[name] for point in points[rows]])
            several = np.mean([part[name] for part in sampled[rows]], axis=0)
            mean[name], sample[name] = debiased(name, values.mean(0), several)
            spread[name] = values.std(0, ddof=1) if len(entry) > 1 else np.full(values.shape[1:], np.nan)
        means.append(mean)
        drawn.append(sample)
        deviations.append(spread)
    narrow = {name: too_narrow(name, value, scorers[0].support) for name, value in points[0].items()}
    scores = [
        {name: _score(mean[name], sample[name], narrow[name]) for name in mean}
        for mean, sample in zip(means, drawn, strict=True)
    ]
    differences = [
        {name: _difference(mean[name] - means[0][name], sample[name] - drawn[0][name], narrow[name]) for name in mean}
        for mean, sample in zip(means[1:], drawn[1:], strict=True)
    ]
    return Comparison(scores, deviations, differences, drawn, redrawn)


def paired_means(
    values: Sequence[np.ndarray], groups: np.ndarray, draws: int = 2000, seed: int = 0
) -> tuple[list[Interval], list[Difference | None], np.ndarray]:
    """Means of several ``(N,)`` values of the same rows, their differences from the first, and the means drawn."""
    codes = cluster_codes(groups)
    sums = np.stack([np.bincount(codes, own) for own in (np.ones(len(codes)), *values)], axis=1)
    parts = [weights.T @ sums for weights in Resampler(sums[:, :1], draws, seed).blocks()]
    drawn = np.concatenate(parts).T
    drawn = drawn[1:] / drawn[0]
    means, narrow = [np.mean(own) for own in values], len(sums) < MIN_PATIENTS
    differences = [
        _difference(mean - means[0], own - drawn[0], narrow) for mean, own in zip(means[1:], drawn[1:], strict=True)
    ]
    scores = [_score(mean, own, narrow) for mean, own in zip(means, drawn, strict=True)]
    return scores, [None, *differences], drawn


def _score(value: np.ndarray, drawn: np.ndarray, narrow: np.ndarray | np.bool_ | bool) -> Interval:
    low, high = percentiles(drawn)
    return Interval(value, low, high, narrow | (low == high))


def _difference(value: np.ndarray, drawn: np.ndarray, narrow: np.ndarray | np.bool_ | bool) -> Difference:
    """A difference of the sample with the interval and the p of its draws."""
    return Difference(value, *percentiles(drawn), narrow, p=two_sided_p(drawn))
