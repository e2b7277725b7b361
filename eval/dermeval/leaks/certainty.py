"""One score per pair from all evidence of its pixels, and the expected number of false pairs above each score.

The background is measured on the audited images themselves. A mirrored photograph of a lesion could exist but, except
for mirrored copies, does not. A pair that matches only when one image is mirrored matches by chance, and false pairs
reach the same scores without mirroring. Candidates are searched in the same way upright and mirrored, so the
mirrored scores are the background of the upright scores (a target-decoy estimate, after Elias & Gygi 2007).
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import chi2, poisson

CORRELATION_WEIGHT = 4.0
COLOUR_SHARE = 0.5
LEAST_INLIERS = 2
"""Inliers that do not count: any two matches agree with some similarity."""
EVIDENT_INLIERS, EVIDENT_CORRELATION = 10, 0.5
"""A mirrored pair that reaches both is a mirrored copy and no background pair. The inliers alone decide where the two
pictures have too little in common for a correlation, as copies under the round view of a dermatoscope can have."""
TAIL_RANKS = (5, 10, 20, 50, 100)
CONFIDENCE, LEAST_BOUND_RANK = 0.95, 10
"""Confidence of the upper bound on the expected number of false pairs, and the lowest tail rank that it uses."""
USUAL_MEAN = 0.3
"""The mean of the tail in a set too small to show its own: PAD-UFES-20 has 0.2 to 0.35."""


class Background(NamedTuple):
    """Scores of background pairs, highest first, and the exponential tails that extrapolate them.

    Each of ``tails`` ``(T, 3)`` is a rank r, the score u after it, and the mean by which the r highest exceed u.
    """

    scores: np.ndarray
    tails: np.ndarray

    def counted(self, score: np.ndarray) -> np.ndarray:
        """How many background pairs reach each score."""
        return np.searchsorted(-self.scores, -score, side="right")

    def expected_false(self, score: np.ndarray) -> np.ndarray:
        """Expected number of false pairs in both worlds that reach each score: twice the larger of count and tails."""
        tails = [np.where(score >= start, rank * np.exp((start - score) / mean), 0) for rank, start, mean in self.tails]
        return 2 * np.max([self.counted(score).astype(float), *tails], axis=0)

    def most_false(self, score: np.ndarray) -> np.ndarray:
        """Upper bound on the number of false pairs that reach each score.

        It is the number of mirrored pairs plus its `poisson_bound` for the upright pairs. The `CONFIDENCE` is that of
        the expected number of upright pairs. Their actual number is above the bound in 6% of audits where 2 are
        expected, 9% where 10 are and 11% where 100 are (exact, for Poisson counts). Above all background scores,
        the largest bound of the tails (with the uncertainty of their means) replaces the latter, but at least the
        `CONFIDENCE` quantile of a Poisson count with the expected mean: one false pair among 60 is more than 1%.
        """
        counted, beyond, expected = self.counted(score), np.full(len(score), np.nan), self.expected_false(score)
        bound = poisson_bound(counted)
        for rank, start, mean in self.tails[self.tails[:, 0] >= LEAST_BOUND_RANK]:
            longest = mean * 2 * rank / chi2.ppf(1 - CONFIDENCE, 2 * rank)
            beyond = np.fmax(beyond, poisson_bound(rank) * np.exp((start - score) / longest))
        drawn = poisson.ppf(CONFIDENCE, expected / 2)
        bound = np.where(counted == 0, np.maximum(np.fmin(beyond, bound), drawn), bound)
        return np.maximum(counted + bound, expected)


def poisson_bound(count: Any) -> Any:
    """Exact upper bound, with `CONFIDENCE`, on the mean of a Poisson variable of which ``count`` were observed."""
    return chi2.ppf(CONFIDENCE, 2 * count + 2) / 2


def world_scores(evidence: np.ndarray) -> np.ndarray:
    """Scores ``(P, 2)`` of pairs (`verify.EVIDENCE`), upright and mirrored.

    A score is the logarithm of the inliers beyond `LEAST_INLIERS` plus the weighted correlation of the aligned
    structure. Different colours reduce this sum to as little as half, since most copies keep their colours.
    """
    inliers = np.maximum(evidence["inliers"].astype(np.float64) - LEAST_INLIERS, 0)
    geometry = np.log1p(inliers) + CORRELATION_WEIGHT * np.maximum(evidence["correlation"], 0)
    light = 1 - COLOUR_SHARE * (1 - evidence["colour"].astype(np.float64)[:, None])
    return geometry * light


def mirrored_copies(evidence: np.ndarray) -> np.ndarray:
    """Which pairs ``(P,)`` are mirrored copies and therefore no background pairs."""
    coincides = (evidence["correlation"][:, 1] >= EVIDENT_CORRELATION) | (evidence["overlap"][:, 1] == 0)
    return (evidence["inliers"][:, 1] >= EVIDENT_INLIERS) & coincides


def background_of(mirrored: np.ndarray) -> Background:
    """The background from the scores of mirrored pairs ``(P,)``."""
    scores = np.sort(mirrored)[::-1]
    tails = []
    for rank in TAIL_RANKS:
        if len(scores) > rank and scores[rank] > 0:
            # Ties make the tail too short, so its mean is at least a twentieth.
            mean = max(float((scores[:rank] - scores[rank]).mean()), 0.05)
            tails.append((rank, float(scores[rank]), mean))
    if len(scores) and not any(rank >= LEAST_BOUND_RANK for rank, _, _ in tails):
        # So few pairs of this small set score above 0 that the tail starts at 0.
        mean = float(scores[:LEAST_BOUND_RANK].mean())
        tails.append((LEAST_BOUND_RANK, 0.0, max(mean, USUAL_MEAN)))
    return Background(scores, np.array(tails).reshape(-1, 3))


def false_discovery_rate(scores: np.ndarray, false: np.ndarray) -> np.ndarray:
    """The lowest share of ``false`` pairs over all thresholds that keep a pair, for each pair, ``(P,)`` (a q-value)."""
    order = np.argsort(-scores, kind="stable")
    found = np.searchsorted(-scores[order], -scores[order], side="right")
    share = false[order] / np.maximum(found, 1)
    rates = np.empty(len(scores))
    rates[order] = np.minimum(np.minimum.accumulate(share[::-1])[::-1], 1.0)
    return rates


def threshold_of(
    scores: np.ndarray, expected: np.ndarray, most: np.ndarray, precision: float, allowed: float | None
) -> float:
    """The lowest score that keeps the wanted precision, or the ``allowed`` expected number of false pairs if given.

    ``expected`` and ``most`` false pairs reach each of the ``scores`` ``(P,)``. The result is infinite if no pair does.
    """
    kept = (false_discovery_rate(scores, most) <= 1 - precision) if allowed is None else (expected <= allowed)
    return float(scores[kept & (scores > 0)].min(initial=np.inf))


def would_be_confirmed(
    scores: np.ndarray,
    ranked: np.ndarray,
    kept: np.ndarray,
    background: Background,
    precision: float,
    allowed: float | None,
) -> np.ndarray:
    """Whether one more pair with each of the ``scores`` (N,), such as a planted copy, would be confirmed.

    ``ranked`` ``(P,)`` are the scores of the ranked pairs; ``kept`` says which of them are confirmed.
    """
    if allowed is None:
        sure = background.most_false(scores) <= (1 - precision) * (kept.sum() + 1)
    else:
        sure = background.expected_false(scores) <= allowed
    clear = scores > ranked[~kept].max(initial=0)
    return (scores >= ranked[kept].min(initial=np.inf)) | (clear & sure)


def false_match_ratios(scores: np.ndarray, groups: dict[str, np.ndarray], least: int = 50) -> dict[str, dict]:
    """False-match ratio of each group: the share of its background pairs that score high, over the share of all pairs.

    High is the score that one of 200 background pairs reaches. ``scores`` (P,) are those of mirrored pairs. ``groups``
    gives the pairs within each group (bool); groups with fewer than ``least`` pairs are left out.
    """
    if not len(scores):
        return {}
    high = scores >= max(np.quantile(scores, 0.995), 1e-9)
    return {
        name: {"background_pairs": int(rows.sum()), "ratio": round(float(high[rows].mean() / high.mean()), 2)}
        for name, rows in groups.items()
        if rows.sum() >= least and high.any()
    }
