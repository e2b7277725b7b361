"""Scores averaged over several runs (seeds, draws of training patients) on the same test images."""

from collections.abc import Sequence

import numpy as np

from dermeval.statistics.bootstrap import Interval, cluster_codes, interval_of, resample
from dermeval.statistics.scorer import Scorer


def bootstrap_runs(
    truth: np.ndarray,
    runs: Sequence[np.ndarray],
    groups: Sequence[str] | np.ndarray,
    positive: int | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Mean over ``runs``, each ``(N, C)`` probabilities of the same rows, of every score.

    Scores are averaged, not probabilities: the mean of what a run scores, not the score of an ensemble. Each bootstrap
    draw takes patients and, independently, runs with replacement (Owen 2007, the pigeonhole bootstrap), so that the
    interval carries both and errs on the wide side. With one run it is that of `dermeval.statistics.bootstrap`.
    """
    codes = cluster_codes(groups)
    scorers = [Scorer(truth, probabilities, codes, positive) for probabilities in runs]
    sampled, _ = resample(scorers, draws, seed)
    number = len(runs)
    shares = np.random.default_rng([seed, 1]).multinomial(number, np.full(number, 1 / number), size=draws) / number
    points = [scorer.point() for scorer in scorers]
    found = {}
    for name in points[0]:
        drawn = np.stack([run[name] for run in sampled], axis=1)
        mean = np.einsum("br,br...->b...", shares, drawn)
        found[name] = interval_of(name, np.mean([point[name] for point in points], axis=0), mean)
    return found
