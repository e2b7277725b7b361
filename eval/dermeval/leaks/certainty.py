"""One score per pair from all evidence of its pixels, and how many false pairs to expect above each score.

What chance gives is measured on the audited images themselves. The picture of a mirrored skin lesion is a picture that
could exist but, save for mirrored copies, does not. So whatever an image shares with another one once that is mirrored
is chance, and pairs that are no near-duplicates reach as much without mirroring. The candidates are looked for in both
worlds alike, so the scores of the mirrored world are the background of the other one (a target-decoy estimate, after
Elias & Gygi 2007).
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import chi2, poisson

CORRELATION_WEIGHT, LAYOUT_WEIGHT = 4.0, 2.0
LAYOUT_RANK = 20
COLOUR_SHARE = 0.5
LEAST_INLIERS = 2
"""Two matches agree with some similarity always."""
EVIDENT_INLIERS, EVIDENT_CORRELATION = 10, 0.5
"""A mirrored pair above both is a mirrored copy, not background."""
TAIL_RANKS = (5, 10, 20, 50, 100)
CONFIDENCE, LEAST_BOUND_RANK = 0.95, 10
"""Of the upper bound on the number of false pairs, and the shortest tail that it is taken from."""
USUAL_MEAN = 0.3
"""The mean of the tail in a set too small to show its own: PAD-UFES-20 has 0.2 to 0.35."""
SCENE_CORRELATION = 0.4
"""Aligned structure that correlates so well is of one scene; below it is another photograph of the same lesion."""


class Background(NamedTuple):
    """Scores of background pairs, sorted from the highest on, and the tails that continue them.

    ``tails`` ``(T, 3)``: expected number r at score u, and the mean m by which the r highest exceed u.
    """

    scores: np.ndarray
    tails: np.ndarray

    def counted(self, score: np.ndarray) -> np.ndarray:
        """How many background pairs reach each score."""
        return np.searchsorted(-self.scores, -score, side="right")

    def expected_above(self, score: np.ndarray) -> np.ndarray:
        """How many pairs of one world reach each score by chance: those counted, or by the tails if that is more."""
        tails = [np.where(score >= start, rank * np.exp((start - score) / mean), 0) for rank, start, mean in self.tails]
        return np.max([self.counted(score).astype(float), *tails], axis=0)

    def most_above(self, score: np.ndarray) -> np.ndarray:
        """The upper bound, with `CONFIDENCE`, of the number of pairs of the other world that reach each score.

        It is the exact bound of a Poisson count. Where none is counted it is the largest bound of the tails, whose
        means are uncertain too; and at least the number that a Poisson count of the expected mean reaches so often,
        since one false pair among 60 is more than 1%.
        """
        counted, beyond = self.counted(score), np.full(len(score), np.nan)
        bound = chi2.ppf(CONFIDENCE, 2 * counted + 2) / 2
        for rank, start, mean in self.tails[self.tails[:, 0] >= LEAST_BOUND_RANK]:
            most, longest = chi2.ppf(CONFIDENCE, 2 * rank + 2) / 2, mean * 2 * rank / chi2.ppf(1 - CONFIDENCE, 2 * rank)
            beyond = np.fmax(beyond, most * np.exp((start - score) / longest))
        drawn = poisson.ppf(CONFIDENCE, self.expected_above(score))
        return np.where(counted == 0, np.maximum(np.fmin(beyond, bound), drawn), bound)


def world_scores(evidence: np.ndarray, layout_start: float = np.inf) -> np.ndarray:
    """Scores ``(P, 2)`` of pairs (`verify.EVIDENCE`), as they stand and mirrored.

    The logarithm of the local features that agree, beyond those that always do, plus the correlation of the aligned
    structure. Where the colours differ, down to half of that counts: one scene is mostly seen in one light. What the
    layout exceeds ``layout_start`` (`layout_start_of`) by is added, which finds smooth pictures without structure.
    """
    inliers = np.maximum(evidence["inliers"].astype(np.float64) - LEAST_INLIERS, 0)
    geometry = np.log1p(inliers) + CORRELATION_WEIGHT * np.maximum(evidence["correlation"], 0)
    light = 1 - COLOUR_SHARE * (1 - evidence["colour"].astype(np.float64)[:, None])
    return geometry * light + LAYOUT_WEIGHT * np.maximum(_layout(evidence) - layout_start, 0)


def _layout(evidence: np.ndarray) -> np.ndarray:
    """-log(1 - correlation) of the layouts, at most 4.6: 0.99 is as far from 0.9 as 0.9 is from 0."""
    return -np.log(np.maximum(1 - evidence["layout"].astype(np.float64), 0.01))


def layout_start_of(evidence: np.ndarray) -> float:
    """The layout that only a few of the mirrored pairs exceed: below it, layouts prove nothing in this data set."""
    mirrored = np.sort(_layout(evidence)[~mirrored_copies(evidence), 1])
    return float(mirrored[-1 - min(LAYOUT_RANK, len(mirrored) // 1000)]) if len(mirrored) else float("inf")


def mirrored_copies(evidence: np.ndarray) -> np.ndarray:
    """Pairs ``(P,)`` that are evidently mirrored copies, and so no background."""
    return (evidence["inliers"][:, 1] >= EVIDENT_INLIERS) & (evidence["correlation"][:, 1] >= EVIDENT_CORRELATION)


def background_of(mirrored: np.ndarray) -> Background:
    """The background that the scores of the mirrored world ``(P,)`` give."""
    scores = np.sort(mirrored)[::-1]
    tails = []
    for rank in TAIL_RANKS:
        if len(scores) > rank and scores[rank] > 0:
            # Ties make short tails; a mean below a twentieth is not believed.
            mean = max(float((scores[:rank] - scores[rank]).mean()), 0.05)
            tails.append((rank, float(scores[rank]), mean))
    if len(scores) and not any(rank >= LEAST_BOUND_RANK for rank, _, _ in tails):
        # Hardly any pair of this small set reaches anything by chance: the tail starts at 0.
        mean = float(scores[:LEAST_BOUND_RANK].mean())
        tails.append((LEAST_BOUND_RANK, 0.0, max(mean, USUAL_MEAN)))
    return Background(scores, np.array(tails).reshape(-1, 3))


def expected_false(scores: np.ndarray, background: Background) -> np.ndarray:
    """Pairs that reach each score ``(P,)`` by chance, in both worlds together."""
    return 2 * background.expected_above(scores)


def most_false(scores: np.ndarray, background: Background) -> np.ndarray:
    """The upper bound of `expected_false`: the mirrored pairs that reach each score, and the bound of the others."""
    bound = background.counted(scores) + background.most_above(scores)
    return np.maximum(bound, expected_false(scores, background))


def false_discovery_rate(scores: np.ndarray, false: np.ndarray) -> np.ndarray:
    """The least share of false pairs among those that score as high, over all thresholds that keep a pair, ``(P,)``."""
    order = np.argsort(-scores, kind="stable")
    found = np.searchsorted(-scores[order], -scores[order], side="right")
    share = false[order] / np.maximum(found, 1)
    rates = np.empty(len(scores))
    rates[order] = np.minimum(np.minimum.accumulate(share[::-1])[::-1], 1.0)
    return rates


def confirmed(
    scores: np.ndarray, expected: np.ndarray, most: np.ndarray, precision: float, allowed: float | None
) -> tuple[np.ndarray, float]:
    """Which pairs ``(P,)`` are confirmed, and the threshold: the lowest score that keeps the wanted precision.

    ``expected`` and ``most`` are of `expected_false` and `most_false`. ``allowed``: the expected number of false pairs,
    which takes the place of the precision.
    """
    kept = (false_discovery_rate(scores, most) <= 1 - precision) if allowed is None else (expected <= allowed)
    kept &= scores > 0
    return kept, float(scores[kept].min()) if kept.any() else float("inf")


def would_be_confirmed(
    scores: np.ndarray,
    ranked: np.ndarray,
    kept: np.ndarray,
    background: Background,
    precision: float,
    allowed: float | None,
) -> np.ndarray:
    """Whether one more pair of each of ``scores`` (N,), such as a planted copy, would be confirmed.

    ``ranked`` ``(P,)`` are the scores of the ranked pairs, ``kept`` says which of them are confirmed.
    """
    if allowed is None:
        sure = most_false(scores, background) <= (1 - precision) * (kept.sum() + 1)
    else:
        sure = expected_false(scores, background) <= allowed
    clear = scores > ranked[~kept].max(initial=0)
    return (scores >= ranked[kept].min(initial=np.inf)) | (clear & sure)


def false_match_ratios(scores: np.ndarray, groups: dict[str, np.ndarray], least: int = 50) -> dict[str, dict]:
    """How much more often the background pairs of a group score high than all do: the ratio of two shares.

    They are the shares that reach the score which one of 200 of all background pairs reaches. ``scores`` (P,) are of
    the mirrored world, ``groups`` name the pairs within each group (bool), ``least`` is the fewest pairs of a group.
    """
    if not len(scores):
        return {}
    high = scores >= max(np.quantile(scores, 0.995), 1e-9)
    return {
        name: {"background_pairs": int(rows.sum()), "ratio": round(float(high[rows].mean() / high.mean()), 2)}
        for name, rows in groups.items()
        if rows.sum() >= least and high.any()
    }
