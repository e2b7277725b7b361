"""Exact nearest neighbours, the weighted vote and stored indexes; the only module that imports faiss.

Used by the online evaluation during training and by every probe, index and audit afterwards.
"""

import math
from pathlib import Path
from typing import Any, Literal

import faiss as _faiss
import numpy as np

from dermssl.errors import InputError
from dermssl.files import atomic_file

IndexType = Literal["flat", "hnsw", "ivf"]
faiss: Any = _faiss  # half of its names are made at import, which its partial type information does not know
Index = Any
"""A faiss index."""
Engine = Literal["auto", "float32", "bf16"]
BF16_QUERIES, BF16_GALLERY, BF16_NEIGHBOURS = 512, 32_768, 64
"""A search at least this large, for at most so many neighbours, is faster in bf16."""
BLOCK_ROWS = 65_536
LEAST_BITS_SET = 16
"""A hash has 32 of its 64 bits set; far fewer mean a picture without structure, which would match all its like."""
HNSW_LINKS, HNSW_BUILD_BREADTH, HNSW_SEARCH_BREADTH = 32, 200, 128
IVF_ROWS_PER_LIST = 64
IVF_PROBED_SHARE = 1 / 8


def normalise(features: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length as contiguous float32; a zero row stays zero."""
    features = np.ascontiguousarray(features, dtype=np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def search(queries: np.ndarray, gallery: np.ndarray, k: int, engine: Engine = "auto") -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most similar gallery rows of each query by inner product, best first.

    Args:
        queries: ``(Q, D)``; pass `normalise`d rows for cosine similarity.
        gallery: ``(N, D)``.
        k: clipped to N.
        engine: ``float32`` is one matrix product inside faiss. ``bf16`` scans in bfloat16, scores the best candidates
            in float32, certifies each query and asks faiss for those that fail (`dermssl.bf16_scan`): the same rows,
            but for such whose similarities differ by less than float32 rounding. ``auto`` takes bf16 where the
            processor multiplies it in hardware and the search is large enough to gain.

    Returns:
        Scores ``(Q, k)`` float32 and gallery rows ``(Q, k)`` int64. Blocked: memory is O(Q k), with bf16 also half of
        the gallery.
    """
    queries, gallery = (np.ascontiguousarray(rows, dtype=np.float32) for rows in (queries, gallery))
    k = min(k, len(gallery))
    if engine == "float32" or (engine == "auto" and not _bf16_pays(len(queries), len(gallery), k)):
        return _search_float32(queries, gallery, k)
    from dermssl import bf16_scan

    if not len(queries) or k + bf16_scan.SPARE > len(gallery):
        return _search_float32(queries, gallery, k)
    scores, rows, certain = bf16_scan.scan(queries, gallery, k)
    if not certain.all():
        scores[~certain], rows[~certain] = _search_float32(queries[~certain], gallery, k)
    return scores, rows


def _search_float32(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return faiss.knn(queries, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)


def _bf16_pays(queries: int, gallery: int, k: int) -> bool:
    if queries < BF16_QUERIES or gallery < BF16_GALLERY or k > BF16_NEIGHBOURS:
        return False
    from dermssl.bf16_scan import multiplies_bf16

    return multiplies_bf16()


def weighted_vote(scores: np.ndarray, labels: np.ndarray, classes: int, temperature: float = 0.07) -> np.ndarray:
    """Class probabilities of DINO's weighted kNN: each neighbour votes with exp(s / T) (Caron et al. 2021).

    Args:
        scores: ``(Q, k)`` cosine similarities.
        labels: ``(Q, k)`` class indices of the neighbours.
        classes: number of classes C.
        temperature: T; infinite for the majority vote, in which all weigh the same.

    Returns:
        ``(Q, C)`` float64, rows summing to 1.
    """
    weights = np.exp((scores - scores[:, :1]).astype(np.float64) / temperature)
    votes = np.stack([(weights * (labels == c)).sum(axis=1) for c in range(classes)], axis=1)
    return votes / votes.sum(axis=1, keepdims=True)


def near_hashes(queries: np.ndarray, gallery: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of 64-bit hashes that differ in at most ``bits`` bits.

    Args:
        queries: ``(Q,)`` uint64.
        gallery: ``(N,)`` uint64.
        bits: largest Hamming distance.

    Returns:
        Query rows, gallery rows and distances, each ``(P,)``. Memory grows with the pairs found, not with Q x N.
    """
    index = faiss.IndexBinaryFlat(64)
    index.add(np.ascontiguousarray(gallery, dtype=np.uint64).view(np.uint8).reshape(-1, 8))
    codes = np.ascontiguousarray(queries, dtype=np.uint64).view(np.uint8).reshape(-1, 8)
    limits, distances, rows = index.range_search(codes, bits + 1)
    return np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64))), rows, distances.astype(np.int64)


def near_images(
    queries: np.ndarray, gallery: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of images whose perceptual hashes are near, for any flip or quarter turn of the gallery image.

    Args:
        queries: ``(Q, 8)`` uint64 of `dermssl.dataset.hashes.perceptual_hashes`.
        gallery: ``(N, 8)`` likewise.
        bits: largest Hamming distance.

    Returns:
        Query rows, gallery rows, which of the gallery image's 8 views it is, and distances, each ``(P,)``. A pair
        comes once for each of its views that is near. Pictures without structure, like all their like, are left out.
    """
    ours, theirs = (np.flatnonzero(np.bitwise_count(part[:, 0]) >= LEAST_BITS_SET) for part in (queries, gallery))
    query, found, distance = near_hashes(queries[ours, 0], gallery[theirs].ravel(), bits)
    return ours[query], theirs[found // 8], found % 8, distance


def build_index(features: np.ndarray, kind: IndexType) -> Index:
    """A cosine index of ``features`` ``(N, D)``, which need not be normalised; row ``i`` becomes entry ``i``.

    ``flat`` is exact; ``hnsw`` is a graph (fast, N x 256 bytes more), ``ivf`` searches an eighth of its cells.
    """
    dim = features.shape[1]
    if kind == "flat":
        index: Index = faiss.IndexFlatIP(dim)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD_BREADTH
    else:
        cells = max(1, min(round(4 * math.sqrt(len(features))), len(features) // IVF_ROWS_PER_LIST))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).permutation(len(features))[: cells * 256]
        index.train(normalise(features[np.sort(sample)]))
        index.make_direct_map()
    add_to_index(index, features)
    return index


def add_to_index(index: Index, features: np.ndarray) -> None:
    """Append the rows of ``features`` to the index, a block at a time."""
    for start in range(0, len(features), BLOCK_ROWS):
        index.add(normalise(features[start : start + BLOCK_ROWS]))


def search_index(index: Index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` (clipped to the index's size) most similar entries of each query, as `search` returns them.

    Where an approximate index finds fewer than k, that query is searched exhaustively instead, so rows are never -1.
    """
    queries, k = normalise(queries), min(k, index.ntotal)
    scores, rows = index.search(queries, k, params=_search_effort(index, k))
    short = (rows < 0).any(axis=1)
    if short.any():
        scores[short], rows[short] = _search_exhaustively(index, queries[short], k)
    return scores, rows


def _search_effort(index: Index, k: int) -> Any:
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(HNSW_SEARCH_BREADTH, 2 * k))
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=math.ceil(index.nlist * IVF_PROBED_SHARE))
    return None


def _search_exhaustively(index: Index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(index, faiss.IndexIVF):
        return index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=index.nlist))
    return faiss.downcast_index(index.storage).search(queries, k)


def index_features(index: Index, rows: np.ndarray) -> np.ndarray:
    """The normalised features of some entries, ``(len(rows), D)`` float32."""
    return index.reconstruct_batch(np.ascontiguousarray(rows, dtype=np.int64))


def measured_recall(index: Index, k: int = 10, queries: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Share of the exact ``k`` nearest entries that the index finds, over a random sample of its own entries.

    The entry itself, which is easily found, does not count. Ties do: what is compared is the similarity of the
    last true neighbour, to 1e-5.
    """
    sample = np.random.default_rng(seed).permutation(index.ntotal)[:queries]
    k = max(1, min(k, index.ntotal - 1))
    if isinstance(index, faiss.IndexFlat):
        return {"k": k, "queries": len(sample), "value": 1.0}
    probes = index_features(index, sample)
    exact, _ = _search_exhaustively(index, probes, k + 1)
    found, _ = search_index(index, probes, k + 1)
    hits = (found >= exact[:, -1:] - 1e-5).sum(axis=1) - 1
    return {"k": k, "queries": len(sample), "value": float(hits.mean() / k)}


def write_index(path: Path, index: Index) -> None:
    """Write an index to one file, atomically."""
    with atomic_file(path) as temporary:
        faiss.write_index(index, str(temporary))


def read_index(path: Path, maker: str) -> Index:
    """Read an index that the command ``maker`` wrote; raises InputError naming file and remedy."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: make it with `{maker}`")
    try:
        return faiss.read_index(str(path))
    except RuntimeError:
        raise InputError(f"{path} is damaged: make it again with `{maker}`") from None
