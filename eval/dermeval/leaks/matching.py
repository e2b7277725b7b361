"""How many local features of two pictures agree on one similarity (turn, scale and shift).

A SIFT keypoint has a position, a size and an angle, so every single match proposes a similarity. All proposals are
tried, and the one with the most agreeing matches wins; nothing is drawn at random. OpenCV's MAGSAC (Barath et al. 2020)
then fits an affine map to these matches.
"""

from typing import NamedTuple

import cv2
import numpy as np

from dermeval.leaks.local_features import MIRRORED_BINS, mirrored_points

RATIO = 0.9
"""Largest ratio of the distances to the nearest and the second nearest descriptor (Lowe 2004) of a match."""
MOST_MATCHES = 150
TOLERANCE = 0.02
"""Largest error, as a share of the short side, of a match that agrees with a proposal."""
CELL = 32
"""The short side has so many squares. Each square counts as one inlier, so that one hair does not count ten times."""
MOST_TURN, MOST_STRETCH = 0.5, 0.5
"""Largest differences of turn (radians) and scale (log of the factor) between a match and the map it agrees with."""
AFFINE_FROM = 8
"""Inliers from which on an affine map is fitted."""


class Local(NamedTuple):
    """Keypoints ``(K, 4)`` and unit descriptors ``(K, 128)`` float32 of one picture of ``size`` (width, height)."""

    points: np.ndarray
    descriptors: np.ndarray
    size: tuple[float, float]

    def strongest(self, most: int) -> "Local":
        """The ``most`` strongest keypoints."""
        return Local(self.points[:most], self.descriptors[:most], self.size)

    def mirrored(self) -> "Local":
        """The local features of the picture mirrored left to right."""
        return Local(mirrored_points(self.points, self.size[0]), self.descriptors[:, MIRRORED_BINS], self.size)


class Consensus(NamedTuple):
    """Agreeing matches of two pictures (``inliers``, one per square), all ``matches``, and the map they agree on.

    ``matrix`` ``(2, 3)`` maps points of the first picture to the second; None: no map. ``agreeing`` ``(2, M)`` are the
    keypoints of both pictures in the matches that agree with the map.
    """

    inliers: int = 0
    matches: int = 0
    matrix: np.ndarray | None = None
    agreeing: np.ndarray = np.zeros((2, 0), np.int64)


def local_of(record: np.ndarray) -> Local:
    """The local features in a description (`local_features.record_type`)."""
    points, raw = (record[name][: int(record["count"])] for name in ("points", "descriptors"))
    descriptors = raw.astype(np.float32)
    descriptors /= np.sqrt(np.einsum("kd,kd->k", descriptors, descriptors) + 1e-9)[:, None]
    return Local(points, descriptors, tuple(record["size"].tolist()))


def consensus(first: Local, second: Local) -> Consensus:
    """The similarity of two pictures that most matches agree with, refined to an affine map if there are enough."""
    if min(len(first.points), len(second.points)) < 3:
        return Consensus()
    ours, theirs = tentative_matches(first.descriptors, second.descriptors)
    if len(ours) < 3:
        return Consensus(0, len(ours))
    p, q = first.points[ours], second.points[theirs]
    agreeing, linear, shift = best_similarity(p, q, min(first.size))
    p, q, rows = p[agreeing], q[agreeing], np.stack([ours, theirs])[:, agreeing]
    if len(p) < 3:
        return Consensus(len(p), len(ours))
    inliers = min(_squares(p, min(first.size)), _squares(q, min(second.size)))
    matrix = np.array([[linear.real, -linear.imag, shift.real], [linear.imag, linear.real, shift.imag]])
    if inliers >= AFFINE_FROM:
        ours_xy, theirs_xy = (np.ascontiguousarray(part[:, :2]) for part in (p, q))
        affine, _ = cv2.estimateAffine2D(ours_xy, theirs_xy, method=cv2.USAC_MAGSAC, ransacReprojThreshold=3.0)
        matrix = matrix if affine is None else affine
    return Consensus(inliers, len(ours), matrix, rows)


def tentative_matches(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both descriptor sets that match by the ratio test, best first; each row of ``second`` is used once."""
    similarity = first @ second.T
    rows = np.arange(len(first))
    nearest = similarity.argmax(axis=1)
    best = similarity[rows, nearest]
    similarity[rows, nearest] = -1
    distance, runner_up = (np.sqrt(np.maximum(2 - 2 * part, 0)) for part in (best, similarity.max(axis=1)))
    passed = np.flatnonzero(distance < RATIO * runner_up)
    passed = passed[np.argsort(distance[passed] / runner_up[passed], kind="stable")]
    _, once = np.unique(nearest[passed], return_index=True)
    kept = passed[np.sort(once)][:MOST_MATCHES]
    return kept, nearest[kept]


def best_similarity(p: np.ndarray, q: np.ndarray, side: float) -> tuple[np.ndarray, complex, complex]:
    """Which matches ``(M,)`` agree with the best proposal, and its map ``linear * z + shift`` of complex points.

    ``p`` and ``q`` (M, 4) are the matched keypoints; ``side`` is the short side of the first picture.
    """
    a, b = p[:, 0] + 1j * p[:, 1], q[:, 0] + 1j * q[:, 1]
    linear = (q[:, 2] / p[:, 2]) * np.exp(1j * (q[:, 3] - p[:, 3]))
    shift = b - linear * a
    size, turn = np.log(np.abs(linear) + 1e-9), linear / (np.abs(linear) + 1e-9)
    alike = (turn[:, None] * turn.conj()).real > np.cos(MOST_TURN)
    alike &= np.abs(size[:, None] - size) < MOST_STRETCH
    # The error is measured at the geometric mean of both scales, so that the order of the pictures does not matter.
    limit = (1.5 * TOLERANCE * side) ** 2 * np.abs(linear)
    error = linear[:, None] * a + (shift[:, None] - b)
    agree = (error.real**2 + error.imag**2 < limit[:, None]) & alike
    winner = int(agree.sum(axis=1).argmax())
    chosen, found = agree[winner], (complex(linear[winner]), complex(shift[winner]))
    for _ in range(3):
        if chosen.sum() < 3:
            break
        fitted = _least_squares(a[chosen], b[chosen])
        error = np.abs(fitted[0] * a + fitted[1] - b) / np.sqrt(max(abs(fitted[0]), 1e-3))
        ratio = fitted[0] / (linear + 1e-9)
        closer = (error < TOLERANCE * side) & (np.abs(np.angle(ratio)) < MOST_TURN)
        closer &= np.abs(np.log(np.abs(ratio) + 1e-9)) < MOST_STRETCH
        if closer.sum() < 3:
            break
        chosen, found = closer, fitted
    return chosen, *found


def _least_squares(a: np.ndarray, b: np.ndarray) -> tuple[complex, complex]:
    centre, target = a.mean(), b.mean()
    linear = (np.conj(a - centre) * (b - target)).sum() / ((np.abs(a - centre) ** 2).sum() + 1e-9)
    return complex(linear), complex(target - linear * centre)


def _squares(points: np.ndarray, side: float) -> int:
    x, y = np.floor(points[:, :2].T * (CELL / side)).astype(np.int64)
    return len(set((x * 100_000 + y).tolist()))
