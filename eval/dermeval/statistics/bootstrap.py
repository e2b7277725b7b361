"""The patient bootstrap: whole clusters (``group_id``) are drawn with replacement, within strata of class.

A cluster's stratum is its most frequent class. A draw that loses a class is drawn again, and counted.
Intervals are percentile intervals (Efron & Tibshirani 1993, chapter 13). Where too few patients are behind a score they
are too narrow, and marked so; so are those of no width, as of a class that is never recognised.

Encoders are compared under the same draws of patients. An encoder with several seeds counts as the mean of what each
scores. Scores are averaged, not probabilities, since the mean probability is an ensemble that nobody will run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from dermeval.statistics.metrics import Scorer
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
MEAN = "mean"
"""The one score of `paired_means`."""

Scores = dict[str, np.ndarray]
"""By name: ``()`` or ``(C,)`` each of a sample, with a leading axis of draws where it is resampled."""


@dataclass(frozen=True)
class Interval:
    """A score with its 95% interval, or a difference of two, with its two-sided ``p``; per-class ones are ``(C,)``.

    ``narrow``: the interval is too narrow.
    """

    value: Any
    low: Any
    high: Any
    narrow: Any = False
    p: Any = None

    def entry(self, classes: Sequence[str] = ()) -> dict[str, Any]:
        """As JSON has it: ``value``, ``low``, ``high``, and ``narrow`` and ``p`` where they are; null where undefined.

        For per-class scores one such entry per name in ``classes``.
        """
        if np.ndim(self.value):
            columns = map(np.asarray, (self.value, self.low, self.high, self.narrow))
            return {name: Interval(*part).entry() for name, *part in zip(classes, *columns, strict=True)}
        found: dict[str, Any] = {name: defined(getattr(self, name)) for name in ("value", "low", "high")}
        found |= {"narrow": True} if self.narrow else {}
        return found | ({} if self.p is None else {"p": defined(self.p)})


def defined(value: Any) -> float | None:
    """A score as JSON has it: null where it is undefined."""
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True)
class Bootstrap:
    """Scores of one encoder with intervals, and the scores themselves under every draw.

    ``differences`` are those from the first encoder; the first has none. ``deviations`` are standard deviations over
    the seeds, NaN where there is one. ``redrawn`` counts the draws that lost a class.
    """

    scores: dict[str, Interval]
    drawn: Scores
    differences: dict[str, Interval]
    deviations: Scores
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

        InputError where a class is so rare that nearly every draw loses it.
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
    draw_seeds: bool = False,
) -> list[Bootstrap]:
    """Scores of several encoders' ``(N, C)`` probabilities of the same rows; see `Scorer` for the other arguments.

    Those of an encoder with S seeds (or draws of training patients) are ``(S, N, C)``. The intervals do not carry the
    luck of the seeds: two or three say too little about a spread. With ``draw_seeds``, for many of them, each draw also
    takes seeds with replacement, independently (Owen 2007, the pigeonhole bootstrap), and the interval errs on the wide
    side.
    """
    codes = cluster_codes(groups)
    seeds = [entry.reshape(-1, *entry.shape[-2:]) for entry in predictions]
    scorers = [[Scorer(truth, probabilities, codes, positive) for probabilities in entry] for entry in seeds]
    sampled, redrawn = resample([scorer for own in scorers for scorer in own], draws, seed)
    encoders, rest = [], iter(sampled)
    for own in scorers:
        number, points, drawn = len(own), [scorer.point() for scorer in own], [next(rest) for _ in own]
        shares = np.random.default_rng([seed, 1]).multinomial(number, [1 / number] * number, size=draws) / number
        mean, sample, spread = {}, {}, {}
        for name in points[0]:
            values = np.stack([point[name] for point in points])
            several = np.stack([part[name] for part in drawn], axis=1)
            several = np.einsum("br,br...->b...", shares, several) if draw_seeds else several.mean(1)
            mean[name], sample[name] = _debiased(name, values.mean(0), several)
            spread[name] = values.std(0, ddof=1) if number > 1 else np.full(values.shape[1:], np.nan)
        encoders.append((mean, sample, spread))
    first = scorers[0][0]
    narrow = {name: too_narrow(name, value, first.support) for name, value in first.point().items()}
    return _against_first(encoders, narrow, redrawn)


def paired_means(
    values: Sequence[np.ndarray], groups: Sequence[str] | np.ndarray, draws: int = 2000, seed: int = 0
) -> list[Bootstrap]:
    """Means of several ``(N,)`` values of the same rows, as the score `MEAN` (one stratum: there is no class)."""
    codes = cluster_codes(groups)
    sums = np.stack([np.bincount(codes, own) for own in (np.ones(len(codes)), *values)], axis=1)
    drawn = np.concatenate([weights.T @ sums for weights in Resampler(sums[:, :1], draws, seed).blocks()]).T
    means = [({MEAN: np.mean(own)}, {MEAN: total / drawn[0]}) for own, total in zip(values, drawn[1:], strict=True)]
    encoders = [(mean, sample, {MEAN: np.array(np.nan)}) for mean, sample in means]
    return _against_first(encoders, {MEAN: len(sums) < MIN_PATIENTS}, 0)


def bootstrap_mean(
    values: np.ndarray, groups: Sequence[str] | np.ndarray, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean of ``values`` ``(N,)`` over rows with its interval by cluster."""
    return paired_means([values], groups, draws, seed)[0].scores[MEAN]


def _debiased(name: str, point: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The score ``name`` of the sample and of its draws, corrected where noise biases it.

    The calibration error (``ece``) is a sum of absolute values, which noise makes larger: that of a sample is too
    large, and that of its resamples more so. The draws are mirrored in the sample's value (the basic bootstrap,
    Davison & Hinkley 1997, sections 2.1 and 5.2) and their mean is the estimate. Neither falls below 0.
    """
    if name != "ece":
        return point, drawn
    return np.maximum(0.0, 2 * point - drawn.mean(0)), np.maximum(0.0, 2 * point - drawn)


def _against_first(
    encoders: Sequence[tuple[Scores, Scores, Scores]], narrow: Mapping[str, Any], redrawn: int
) -> list[Bootstrap]:
    """Intervals from the scores, draws and deviations of each encoder, and of its differences from the first."""
    reference, reference_drawn, _ = encoders[0]
    found: list[Bootstrap] = []
    for mean, drawn, spread in encoders:
        scores, differences = {}, {}
        for name, value in mean.items():
            low, high = percentiles(drawn[name])
            scores[name] = Interval(value, low, high, narrow[name] | (low == high))
            if found:
                change = drawn[name] - reference_drawn[name]
                ends = percentiles(change)
                differences[name] = Interval(value - reference[name], *ends, narrow[name], two_sided_p(change))
        found.append(Bootstrap(scores, drawn, differences, spread, redrawn))
    return found
