"""The patient bootstrap: whole clusters (``group_id``) are drawn with replacement, within strata of class.

A cluster's stratum is its most frequent class. A draw that loses a class is drawn again, and counted.
Intervals are percentile intervals (Efron & Tibshirani 1993, chapter 13). Where too few patients are behind a score they
are too narrow, and marked so; so are those of no width, as of a class that is never recognised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from dermeval.statistics.scorer import Scorer
from dermssl.errors import InputError

BLOCK = 64
"""Draws scored at once: the tables of a block stay in the processor's cache."""
MAX_REDRAWS = 1000
MIN_PATIENTS = 15
"""Groups with fewer patients are called insufficient and not scored."""
RARE = 5
"""A class with fewer patients hardly varies between draws. With 5 patients in a class, an interval of balanced accuracy
covers the truth in about 9 of 10 samples, with 2 patients in 6 to 8 (simulated; 250 samples each)."""
LEVEL = 0.95

BY_ROWS = ("accuracy", "weighted_f1", "brier", "ece")
"""Scores that count every row alike, so that a rare class hardly matters."""

Scores = dict[str, np.ndarray]
"""By name: ``()`` or ``(C,)`` each of a sample, with a leading axis of draws where it is resampled."""


@dataclass(frozen=True)
class Interval:
    """A score with its 95% interval; per-class scores hold ``(C,)`` arrays. ``narrow``: the interval is too narrow."""

    value: np.ndarray | np.floating
    low: np.ndarray
    high: np.ndarray
    narrow: np.ndarray | np.bool_ | bool = False


@dataclass(frozen=True)
class Bootstrap:
    """Scores with intervals, and what they rest on."""

    scores: dict[str, Interval]
    clusters: int
    draws: int
    redrawn: int


def cluster_codes(groups: Sequence[str] | np.ndarray) -> np.ndarray:
    """Group ids ``(N,)`` as integers 0..G-1 in order of first appearance."""
    return pd.factorize(np.asarray(groups, dtype=object))[0]


class Resampler:
    """Draws of clusters as weights: how often each cluster came, the same for the same seed."""

    def __init__(self, support: np.ndarray, draws: int, seed: int) -> None:
        """``support`` ``(G, C)``: rows of each class in each cluster."""
        self.support, self.draws = support, draws
        self.random = np.random.default_rng(seed)
        self.redrawn = 0
        strata = support.argmax(1)
        self.members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
        self.present = support.sum(0) > 0

    def blocks(self) -> Iterator[np.ndarray]:
        """Weights ``(G, b)`` until all draws are made; `redrawn` counts those thrown away.

        Raises:
            InputError: a class is so rare that nearly every draw loses it.
        """
        # Short loops show no bar.
        starts = tqdm(range(0, self.draws, BLOCK), "bootstrap", unit="block", disable=None, leave=False, delay=3)
        for start in starts:
            weights = self._draw(min(BLOCK, self.draws - start))
            for _ in range(MAX_REDRAWS):
                lost = ((self.support.T @ weights)[self.present] == 0).any(0)
                if not lost.any():
                    break
                self.redrawn += int(lost.sum())
                weights[:, lost] = self._draw(int(lost.sum()))
            else:
                raise InputError(
                    "the bootstrap cannot keep every class: a class occurs only as the rarer label of very few "
                    "patients; leave that class out"
                )
            yield weights

    def _draw(self, number: int) -> np.ndarray:
        weights = np.empty((len(self.support), number))
        for members in self.members:
            size = len(members)
            picks = self.random.integers(size, size=(number, size)) + size * np.arange(number)[:, None]
            weights[members] = np.bincount(picks.ravel(), minlength=number * size).reshape(number, size).T
        return weights


def resample(scorers: Sequence[Scorer], draws: int, seed: int) -> tuple[list[Scores], int]:
    """Scores of each of ``scorers`` under the same draws, ``(draws,)`` or ``(draws, C)`` each, and the redraws.

    All scorers must cut the same rows into the same clusters.
    """
    resampler = Resampler(scorers[0].support, draws, seed)
    parts = [[scorer.score(weights) for scorer in scorers] for weights in resampler.blocks()]
    joined = [
        {name: np.concatenate([block[name] for block in part]) for name in part[0]} for part in zip(*parts, strict=True)
    ]
    return joined, resampler.redrawn


def percentiles(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the 95% percentile interval over the first axis."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def debiased(name: str, point: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The score ``name`` of the sample and of its draws, corrected where noise biases it.

    The calibration error (``ece``) is a sum of absolute values, which noise makes larger: that of a sample is too
    large, and that of its resamples more so. The draws are mirrored in the sample's value (the basic bootstrap,
    Davison & Hinkley 1997, sections 2.1 and 5.2) and their mean is the estimate. Neither falls below 0.
    """
    if name != "ece":
        return point, drawn
    return np.maximum(0.0, 2 * point - drawn.mean(0)), np.maximum(0.0, 2 * point - drawn)


def interval_of(name: str, point: np.ndarray, drawn: np.ndarray, support: np.ndarray) -> Interval:
    """The `debiased` score ``name`` with the percentile interval of its draws; ``support`` is a Scorer's."""
    value, drawn = debiased(name, point, drawn)
    low, high = percentiles(drawn)
    return Interval(value, low, high, too_narrow(name, point, support) | (low == high))


def too_narrow(name: str, point: np.ndarray, support: np.ndarray) -> np.ndarray | np.bool_:
    """Whether the interval of the score ``name`` is too narrow, ``()``, or ``(C,)`` for a per-class ``point``.

    It is with fewer than `MIN_PATIENTS` patients, and with fewer than `RARE` of a class that the score depends on. A
    class's own score depends on that class, a macro average or a binary score on all of them.
    """
    patients = (support > 0).sum(0)
    rare = ((patients > 0) & (patients < RARE)) | (len(support) < MIN_PATIENTS)
    if np.ndim(point):
        return rare
    return rare[patients > 0].all() if name in BY_ROWS else rare.any()


def bootstrap(
    truth: np.ndarray,
    probabilities: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    positive: int | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Bootstrap:
    """All scores of ``probabilities`` ``(N, C)`` with intervals by patient; see `Scorer` for the arguments."""
    scorer = Scorer(truth, probabilities, cluster_codes(groups), positive)
    (sampled,), redrawn = resample([scorer], draws, seed)
    scores = {name: interval_of(name, value, sampled[name], scorer.support) for name, value in scorer.point().items()}
    return Bootstrap(scores, len(scorer.sums), draws, redrawn)


def bootstrap_runs(
    truth: np.ndarray,
    runs: Sequence[np.ndarray],
    groups: Sequence[str] | np.ndarray,
    positive: int | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Mean of every score over ``runs`` (draws of training patients), each ``(N, C)`` probabilities of the same rows.

    Scores are averaged, not probabilities: the mean of what a run scores, not the score of an ensemble. Each bootstrap
    draw takes patients and, independently, runs with replacement (Owen 2007, the pigeonhole bootstrap), so that the
    interval carries both and errs on the wide side. With one run it is that of `bootstrap`.
    """
    scorers = [Scorer(truth, probabilities, cluster_codes(groups), positive) for probabilities in runs]
    sampled, _ = resample(scorers, draws, seed)
    number = len(runs)
    shares = np.random.default_rng([seed, 1]).multinomial(number, np.full(number, 1 / number), size=draws) / number
    points = [scorer.point() for scorer in scorers]
    return {
        name: interval_of(
            name,
            np.mean([point[name] for point in points], axis=0),
            np.einsum("br,br...->b...", shares, np.stack([run[name] for run in sampled], axis=1)),
            scorers[0].support,
        )
        for name in points[0]
    }


def bootstrap_mean(
    values: np.ndarray, groups: Sequence[str] | np.ndarray, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean of ``values`` ``(N,)`` over rows with its interval by cluster (one stratum: there is no class)."""
    codes = cluster_codes(groups)
    sums = np.stack([np.bincount(codes, values), np.bincount(codes)], axis=1)
    drawn = np.concatenate([weights.T @ sums for weights in Resampler(sums[:, 1:], draws, seed).blocks()])
    return Interval(np.mean(values), *percentiles(drawn[:, 0] / drawn[:, 1]), len(sums) < MIN_PATIENTS)
