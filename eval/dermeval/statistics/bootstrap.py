"""The patient bootstrap: it draws whole clusters (``group_id``) with replacement, within strata of class.

The stratum of a cluster is its most frequent class. A draw that loses a class is repeated, and counted. Intervals are
percentile intervals (Efron & Tibshirani 1993, chapter 13). An interval is marked as too narrow where its score rests on
too few patients, and where it has no width, like that of a class that is never recognised.

All encoders are scored under the same draws of patients. The score of an encoder with several seeds is the mean over
its seeds. Scores are averaged, not probabilities, because a mean of probabilities would judge an ensemble.
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
"""Draws scored at once, so that the tables of a block stay in the processor's cache."""
MAX_REDRAWS = 1000
MIN_PATIENTS = 15
"""A group with fewer patients is called insufficient and is not scored."""
RARE = 5
"""A class with fewer patients hardly varies between draws. With 5 patients in one of three classes, an interval of
balanced accuracy covers the truth in 8 to 9 of 10 samples; with 2 patients, in 5 to 9 of 10 (simulated with a recall of
0.3 to 0.9, 200 samples each)."""
LEVEL = 0.95
DIGITS = 12
"""Decimals by which scores are compared, since equal sums of shares can differ in the last of their 16 digits."""
MIN_DRAWS = 40
"""2.5% of the draws lie beyond each end of a 95% interval: one draw of 40."""

BY_ROWS = ("accuracy", "weighted_f1", "brier", "ece")
"""Scores that count every row alike, so that a rare class hardly matters."""
MEAN = "mean"
"""The one score of `paired_means`."""

Scores = dict[str, np.ndarray]
"""By name: ``()`` or ``(C,)`` each of a sample, with a leading axis of draws where it is resampled."""


@dataclass(frozen=True)
class Interval:
    """A score with its 95% interval; a difference has a two-sided ``p`` too. Per-class values are ``(C,)``."""

    value: Any
    low: Any
    high: Any
    narrow: Any = False
    """See `too_narrow`."""
    p: Any = None

    def entry(self, classes: Sequence[str] = ()) -> dict[str, Any]:
        """As in JSON: ``value``, ``low``, ``high`` (null where undefined); ``narrow`` if true; ``p`` if there is one.

        Per-class scores give one entry for each name in ``classes``.
        """
        if np.ndim(self.value):
            columns = map(np.asarray, (self.value, self.low, self.high, self.narrow))
            return {name: Interval(*part).entry() for name, *part in zip(classes, *columns, strict=True)}
        found: dict[str, Any] = {name: defined(getattr(self, name)) for name in ("value", "low", "high")}
        found |= {"narrow": True} if self.narrow else {}
        return found | ({} if self.p is None else {"p": defined(self.p)})


def defined(value: Any) -> float | None:
    """A score as in JSON: null for NaN."""
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True)
class Bootstrap:
    """Scores of one encoder with intervals, and in ``drawn`` the scores under every draw.

    ``differences`` are from the first encoder, which has none itself. ``deviations`` are standard deviations over the
    seeds, NaN for a single seed. ``redrawn`` counts the draws that lost a class.
    """

    scores: dict[str, Interval]
    drawn: Scores
    differences: dict[str, Interval]
    deviations: Scores
    redrawn: int


def cluster_codes(groups: Sequence[str] | np.ndarray) -> np.ndarray:
    """Group ids ``(N,)`` as integers 0..G-1 in order of first appearance."""
    return pd.factorize(np.asarray(groups, dtype=object))[0]


def require_draws(draws: int) -> None:
    """Raise InputError for too few ``--draws`` to measure a 95% interval."""
    if draws < MIN_DRAWS:
        raise InputError(f"--draws {draws} is too few for {LEVEL:.0%} intervals: give {MIN_DRAWS} or more")


def drawn_weights(support: np.ndarray, draws: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """For each block of draws, how often a draw holds each cluster ``(G, b)``, and how many draws lost a class.

    ``support`` ``(G, C)`` is the number of rows of each class in each cluster. One seed always gives the same draws.
    InputError where a class is so rare that nearly every draw loses it.
    """
    random, strata, present = np.random.default_rng(seed), support.argmax(1), support.sum(0) > 0
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]

    def draw(number: int) -> np.ndarray:
        weights = np.empty((len(support), number))
        for own in members:
            size = len(own)
            picks = random.integers(size, size=(number, size)) + size * np.arange(number)[:, None]
            weights[own] = np.bincount(picks.ravel(), minlength=number * size).reshape(number, size).T
        return weights

    for start in tqdm(range(0, draws, BLOCK), "bootstrap", unit="block", disable=None, leave=False, delay=3):
        weights, redrawn = draw(min(BLOCK, draws - start)), 0
        for _ in range(MAX_REDRAWS):
            lost = ((support.T @ weights)[present] == 0).any(0)
            if not lost.any():
                break
            redrawn += int(lost.sum())
            weights[:, lost] = draw(int(lost.sum()))
        else:
            raise InputError(
                "the bootstrap cannot keep every class: one class occurs only in a few patients, who have more images "
                "of another class; leave that class out"
            )
        yield weights, redrawn


def resample(scorers: Sequence[Scorer], draws: int, seed: int) -> tuple[list[Scores], int]:
    """Scores of each scorer under the same draws, ``(draws,)`` or ``(draws, C)`` each, and the number of redraws.

    All scorers must hold the same rows in the same clusters.
    """
    blocks, redrawn = [], 0
    for weights, lost in drawn_weights(scorers[0].support, draws, seed):
        blocks.append([scorer.score(weights) for scorer in scorers])
        redrawn += lost
    parts = zip(*blocks, strict=True)
    return [{name: np.concatenate([block[name] for block in part]) for name in part[0]} for part in parts], redrawn


def percentiles(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the 95% percentile interval, over the first axis."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def too_narrow(name: str, point: np.ndarray, support: np.ndarray) -> np.ndarray | np.bool_:
    """Whether the interval of the score ``name`` is too narrow, ``()``, or ``(C,)`` for a per-class ``point``.

    It is too narrow with fewer than `MIN_PATIENTS` patients, or with fewer than `RARE` patients of a class that the
    score depends on: a per-class score on its class, a macro average or a binary score on every class, and one of
    `BY_ROWS` on no single class. ``support`` is as in `drawn_weights`.
    """
    patients = (support > 0).sum(0)
    rare = ((patients > 0) & (patients < RARE)) | (len(support) < MIN_PATIENTS)
    if np.ndim(point):
        return rare
    return rare[patients > 0].all() if name in BY_ROWS else rare.any()


def two_sided_p(differences: np.ndarray) -> np.ndarray:
    """Bootstrap p for no difference, over the first axis: twice the smaller tail, each with one added draw.

    The added draw keeps p above 0. With B draws, p is at least 2 / (B + 1) (Davison & Hinkley 1997, section 4.2).
    """
    differences = np.round(differences, DIGITS)
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
    """Scores of several encoders, whose ``predictions`` are probabilities ``(N, C)`` of the same rows; see `Scorer`.

    An encoder with S seeds (or S draws of training patients) has ``(S, N, C)``. By default the intervals hold for these
    seeds and leave out the spread between them, which two or three seeds cannot measure. With ``draw_seeds``, for many
    seeds, each draw also takes seeds with replacement, independently of the patients (the pigeonhole bootstrap, Owen
    2007). Such an interval errs on the wide side.
    """
    codes = cluster_codes(groups)
    seeds = [entry.reshape(-1, *entry.shape[-2:]) for entry in predictions]
    scorers = [[Scorer(truth, probabilities, codes, positive) for probabilities in entry] for entry in seeds]
    sampled, redrawn = resample([scorer for own in scorers for scorer in own], draws, seed)
    encoders, rest = [], iter(sampled)
    for own in scorers:
        number, points, drawn = len(own), [scorer.point() for scorer in own], [next(rest) for _ in own]
        shares = np.full((draws, number), 1 / number)
        if draw_seeds:
            shares = np.random.default_rng([seed, 1]).multinomial(number, shares[0], size=draws) / number
        mean, sample, spread = {}, {}, {}
        for name in points[0]:
            values = np.stack([point[name] for point in points])
            several = np.einsum("br,br...->b...", shares, np.stack([part[name] for part in drawn], axis=1))
            mean[name], sample[name] = _debiased(name, values.mean(0), several)
            spread[name] = values.std(0, ddof=1) if number > 1 else np.full(values.shape[1:], np.nan)
        encoders.append((mean, sample, spread))
    first = scorers[0][0]
    narrow = {name: too_narrow(name, value, first.support) for name, value in first.point().items()}
    return _against_first(encoders, narrow, redrawn)


def paired_means(
    values: Sequence[np.ndarray], groups: Sequence[str] | np.ndarray, draws: int = 2000, seed: int = 0
) -> list[Bootstrap]:
    """Means of several encoders' ``values`` ``(N,)`` of the same rows, as the score `MEAN`; all are in one stratum."""
    codes = cluster_codes(groups)
    sums = np.stack([np.bincount(codes, own) for own in (np.ones(len(codes)), *values)], axis=1)
    drawn = np.concatenate([weights.T @ sums for weights, _ in drawn_weights(sums[:, :1], draws, seed)]).T
    pairs, spread = zip(values, drawn[1:], strict=True), {MEAN: np.array(np.nan)}
    encoders = [({MEAN: np.mean(own)}, {MEAN: total / drawn[0]}, spread) for own, total in pairs]
    return _against_first(encoders, {MEAN: len(sums) < MIN_PATIENTS}, 0)


def _debiased(name: str, point: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The score ``name`` of the sample (``point``) and of its draws, corrected where noise biases it.

    Only the calibration error (``ece``) is corrected. It is a sum of absolute values, which noise makes larger: the
    value of a sample is too large, and the values of its resamples are larger still. The draws are mirrored at the
    sample's value (the basic bootstrap, Davison & Hinkley 1997, sections 2.1 and 5.2). The estimate is the sample's
    value minus the mean rise of the draws. No value falls below 0.
    """
    if name != "ece":
        return point, drawn
    return np.maximum(0.0, 2 * point - drawn.mean(0)), np.maximum(0.0, 2 * point - drawn)


def _against_first(
    encoders: Sequence[tuple[Scores, Scores, Scores]], narrow: Mapping[str, Any], redrawn: int
) -> list[Bootstrap]:
    """Each encoder with intervals of its scores and of its differences, from its scores, their draws and deviations."""
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
