"""Images that lie far from all others: rulers, text, blank cards, other motifs."""

from collections.abc import Sequence

import cv2
import numpy as np

from dermeval.leaks.local_features import colour_histogram, layout_vectors
from dermeval.leaks.pictures import Picture, pixels
from dermssl import neighbours
from dermssl.processes import process_map

NEAREST, SHARE = 10, 0.02
"""An image is compared with so many of its nearest ones, or this share of all where that is more. Images of one
off-topic kind resemble each other and must not hide each other."""
MOST_OF_OWN_GROUP = 50


def picture_features(pictures: Sequence[Picture], workers: int) -> list[np.ndarray]:
    """What needs no encoder: colours ``(N, 1152)`` and layout with fine detail ``(N, 780)``, of length 1."""
    with process_map(workers if len(pictures) > 500 else 1) as run:
        rows = list(run(_features, pictures))
    return [neighbours.normalise(np.stack(part)) for part in zip(*rows, strict=True)]


def _features(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    cv2.setNumThreads(1)
    small = cv2.resize(pixels(picture), (64, 64), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = np.abs(cv2.Laplacian(grey, cv2.CV_32F)).ravel()
    detail = np.log1p(np.quantile(edges, np.linspace(0.05, 1, 12))) / 10
    layout = layout_vectors(cv2.resize(small, (16, 16), interpolation=cv2.INTER_AREA)[None])[0]
    return colour_histogram(small).astype(np.float32), np.concatenate([0.3 * layout, detail]).astype(np.float32)


def off_topic_scores(features: Sequence[np.ndarray], groups: np.ndarray) -> np.ndarray:
    """How far each image lies from its nearest ones of other records, ``(N,)``: the mean over the kinds of features.

    The unit is the median distance from the median, so 0 is an ordinary image and 10 a distant one.

    Args:
        features: unit vectors ``(N, D)`` of several kinds.
        groups: integer record of each image.
    """
    nearest = max(NEAREST, round(SHARE * len(groups)))
    own = min(int(np.bincount(groups).max(initial=1)), MOST_OF_OWN_GROUP)
    scores = []
    for vectors in features:
        similarity, rows = neighbours.search(vectors, vectors, nearest + own)
        other = groups[rows] != groups[:, None]
        used = other & (np.cumsum(other, axis=1) <= nearest)
        distance = 1 - np.where(used, similarity, 0).sum(axis=1) / np.maximum(used.sum(axis=1), 1)
        centred = distance - np.median(distance)
        scores.append(centred / (np.median(np.abs(centred)) + 1e-6))
    return np.mean(scores, axis=0)
