"""Off-topic images: rulers, text, blank cards and other images that lie far from all others."""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from dermeval.leaks.local_features import colour_histogram, layout_vectors
from dermeval.leaks.pictures import Picture, pixels
from dermssl import neighbours
from dermssl.parallel import process_map

NEAREST = 10
"""Nearest neighbours of each image in the graph."""


def picture_features(pictures: Sequence[Picture], workers: int) -> list[np.ndarray]:
    """Features without an encoder, as unit vectors: colours ``(N, 1152)``, and layout with fine detail ``(N, 780)``."""
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


def off_topic_scores(features: Sequence[np.ndarray]) -> np.ndarray:
    """The distance (1 - mean cosine over all ``features``) at which each image joins the main cluster, ``(N,)``.

    Single linkage joins the nearest clusters first. The score of an image is the distance of the last step in which its
    cluster was the smaller one, so a small cluster of similar off-topic images scores as one image would. SelfClean
    ranks off-topic images in this order (Gröger et al. 2024); here the graph is that of the nearest neighbours.
    ``features`` are several arrays of unit vectors ``(N, D)``.
    """
    vectors = np.hstack(features) / np.sqrt(len(features))
    tree = minimum_spanning_tree(_joined_graph(vectors)).tocoo()
    scores, cluster = np.zeros(len(vectors)), np.arange(len(vectors))
    members = {row: [row] for row in range(len(vectors))}
    for step in np.argsort(tree.data, kind="stable"):
        ends = cluster[[tree.row[step], tree.col[step]]]
        small, large = sorted(ends.tolist(), key=lambda number: len(members[number]))
        scores[members[small]], cluster[members[small]] = tree.data[step], large
        members[large] += members.pop(small)
    return scores


def _joined_graph(vectors: np.ndarray) -> csr_array:
    """Distances to the nearest neighbours; components without a link to the rest are linked to their nearest image."""
    similarity, rows = neighbours.search_exact(vectors, vectors, NEAREST + 1)
    graph = _edges(np.repeat(np.arange(len(rows)), rows.shape[1]), rows.ravel(), similarity.ravel(), len(rows))
    while (found := connected_components(graph, directed=False))[0] > 1:
        apart = []
        for number in np.argsort(np.bincount(found[1]))[:-1]:
            inside, outside = np.flatnonzero(found[1] == number), np.flatnonzero(found[1] != number)
            similarity, rows = neighbours.search_exact(vectors[inside], vectors[outside], 1)
            best = int(similarity[:, 0].argmax())
            apart.append((inside[best], outside[rows[best, 0]], similarity[best, 0]))
        a, b, near = map(np.array, zip(*apart, strict=True))
        graph = graph + _edges(a, b, near, len(vectors))
    return graph


def _edges(a: np.ndarray, b: np.ndarray, similarity: np.ndarray, count: int) -> csr_array:
    # A sparse graph has no edge of length 0, so equal images get a tiny distance.
    return csr_array((np.maximum(1 - similarity, 1e-6), (a, b)), shape=(count, count))
