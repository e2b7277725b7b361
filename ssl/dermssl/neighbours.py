"""Exact nearest neighbours, the weighted vote and stored indexes; the only module that imports faiss.

Used by the online evaluation during training and by every probe, index and audit afterwards.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import faiss as _faiss
import numpy as np

from dermssl.atomic import atomic_file
from dermssl.errors import InputError

IndexType = Literal["flat", "scan", "ivfpq", "hnsw"]
faiss: Any = _faiss  # half of its names are made at import, which its partial type information does not know
Codes = Any
"""A faiss index of compressed vectors."""
TEMPERATURE = 0.07
"""Of the weighted vote, as DINO's authors set it."""
BLOCK_ROWS = 65_536
LEAST_BITS_SET = 16
"""A hash has 32 of its 64 bits set; far fewer mean a picture without structure, which would match all its like."""
HNSW_LINKS, HNSW_BUILD_BREADTH = 32, 100
IVF_ROWS_PER_LIST = 64
IVF_PROBED_SHARE = 1 / 8
TRAINING_ROWS = 65_536
LEAST_CODED_ROWS = 1000
"""With fewer rows an approximate index gains nothing, so none is made."""
CANDIDATES, CANDIDATES_PER_HIT = 256, 4
"""Rows that the codes propose for the exact ranking: at least so many, and so many for each hit that is wanted."""
ROWS_PER_CELL, MOST_CELLS, LEAST_GRAPH_CELLS = 256, 32_768, 8192
CELLS_VISITED, TRAINED_PER_CELL, SHORTENED = 4, 40, 64
ROWS_PER_SCANNED_CELL, MOST_SCANNED_CELLS, SCANNED_CELLS_VISITED = 1024, 4096, 8
"""To make more cells takes longer than to scan larger ones. Of those with more than 2,048 rows fewer are visited."""
RECALL_DEPTHS = (1, 10, 100)
EXACT_BYTES = 16 * 2**20
"""If the vectors of all rows that pass a filter take no more, they are compared one by one: the codes are not faster.

The rows are scattered over a file, so what counts is how much is read from it.
"""


def normalise(features: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length as contiguous float32; a zero row stays zero."""
    features = np.ascontiguousarray(features, dtype=np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def search(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``(Q, k)`` float32 and rows ``(Q, k)`` int64 of the ``k`` most similar gallery rows, best first.

    By inner product of ``queries`` (Q, D) and ``gallery`` (N, D): pass `normalise`d rows for cosine similarity. At most
    N rows are given. The search goes in blocks: memory is O(Q k).
    """
    queries, gallery = (np.ascontiguousarray(rows, dtype=np.float32) for rows in (queries, gallery))
    return faiss.knn(queries, gallery, min(k, len(gallery)), metric=faiss.METRIC_INNER_PRODUCT)


def main_directions(vectors: np.ndarray, dim: int, most: int = 20_000) -> np.ndarray:
    """The ``dim`` directions ``(D, dim)`` that keep the inner products of vectors ``(N, D)`` best, by ``most`` of them.

    A search of ``vectors @ directions`` takes as much less time as they are shorter.
    """
    sample = vectors[:: -(-len(vectors) // most)]
    return np.linalg.eigh(sample.T @ sample)[1][:, -dim:]


class KnnVotes(NamedTuple):
    """What the kNN protocol gives: class probabilities ``(Q, C)`` for each k and temperature, and neighbours."""

    probabilities: dict[tuple[int, float], np.ndarray]
    rows: np.ndarray
    """Gallery rows ``(Q, k)`` of the largest k, most similar first."""


def knn_votes(
    queries: np.ndarray,
    gallery: np.ndarray,
    labels: np.ndarray,
    classes: int,
    ks: Sequence[int],
    temperatures: Sequence[float] = (TEMPERATURE,),
) -> KnnVotes:
    """The kNN protocol of `dermeval knn` and of the online evaluation: cosine similarity and a weighted vote.

    Features are ``queries`` (Q, D) of the images to classify and ``gallery`` (N, D) of images with ``labels`` (N,), the
    numbers of their classes. ``ks`` are numbers of neighbours that vote; the search is done once, for the largest.
    """
    scores, rows = search(normalise(queries), normalise(gallery), max(ks))
    near = labels[rows]
    return KnnVotes(
        {(k, t): weighted_vote(scores[:, :k], near[:, :k], classes, t) for k in ks for t in temperatures}, rows
    )


def weighted_vote(scores: np.ndarray, labels: np.ndarray, classes: int, temperature: float = TEMPERATURE) -> np.ndarray:
    """Class probabilities of DINO's weighted kNN: each neighbour votes with exp(s / T) (Caron et al. 2021).

    ``scores`` and ``labels`` (Q, k) are cosine similarities and class numbers of the neighbours. An infinite
    ``temperature`` T gives the majority vote. Returns ``(Q, C)`` float64 for C ``classes``, rows summing to 1.
    """
    weights = np.exp((scores - scores[:, :1]).astype(np.float64) / temperature)
    votes = np.stack([(weights * (labels == c)).sum(axis=1) for c in range(classes)], axis=1)
    return votes / votes.sum(axis=1, keepdims=True)


def recall_at_1(features: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are queries ``(Q,)`` and whether the most similar other image shares their id ``(Q,)``.

    Queries are all rows whose id another row has; the gallery is every other row, also those without an id (None).
    Cosine similarity on ``features`` (N, D).
    """
    names = np.array([None if value is None or value != value else str(value) for value in ids], dtype=object)
    known = np.flatnonzero([name is not None for name in names])
    codes = np.full(len(names), -1)
    codes[known] = np.unique(names[known].astype(str), return_inverse=True)[1]
    queries = np.flatnonzero((codes >= 0) & (np.bincount(codes + 1)[codes + 1] > 1))
    if not len(queries):
        return queries, np.zeros(0, dtype=bool)
    unit = normalise(features)
    _, rows = search(unit[queries], unit, 2)
    # The query itself is one of the two, except among exact copies, where any other row is as near.
    nearest = np.where(rows[:, 0] == queries, rows[:, 1], rows[:, 0])
    return queries, codes[nearest] == codes[queries]


def near_images(
    queries: np.ndarray, gallery: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of images whose perceptual hashes are near, for any flip or quarter turn of the gallery image.

    ``queries`` (Q, 8) and ``gallery`` (N, 8) are uint64 of `dermssl.dataset.hashes.perceptual_hashes`, ``bits`` the
    largest Hamming distance. Returns query rows, gallery rows, which of the gallery image's 8 views it is, and
    distances, each ``(P,)``. A pair comes once for each of its views that is near. Pictures without structure are left
    out: they are like all their like. Memory grows with the pairs found, not with Q x N.
    """
    ours, theirs = (np.flatnonzero(np.bitwise_count(part[:, 0]) >= LEAST_BITS_SET) for part in (queries, gallery))
    index = faiss.IndexBinaryFlat(64)
    index.add(np.ascontiguousarray(gallery[theirs]).view(np.uint8).reshape(-1, 8))
    limits, distances, found = index.range_search(np.ascontiguousarray(queries[ours, :1]).view(np.uint8), bits + 1)
    query = np.repeat(ours, np.diff(limits.astype(np.int64)))
    return query, theirs[found // 8], found % 8, distances.astype(np.int64)


@dataclass(frozen=True)
class Index:
    """Unit vectors ``(N, D)``, usually memory-mapped, and codes that find candidates among them (None: exact scan)."""

    vectors: np.ndarray
    codes: Codes | None = None

    def __len__(self) -> int:
        return len(self.vectors)


def build_codes(vectors: np.ndarray, kind: IndexType, held_out: np.ndarray | None = None) -> Codes | None:
    """Codes of unit ``vectors`` ``(N, D)`` float32; row ``i`` becomes entry ``i``. None where exact search needs none.

    ``kind``: ``flat`` is exact and has no codes. ``scan`` compares the query with all codes: 4 bits for every two
    dimensions (product quantisation with the fast scan of André et al. 2015), a sixteenth of float32. ``ivfpq`` has the
    same codes in cells and visits an eighth of them. ``hnsw`` is a graph over 8-bit vectors (D + 256 bytes each). The
    codes are not trained on the rows ``held_out``.
    """
    total, dim = vectors.shape
    if kind == "flat" or total < LEAST_CODED_ROWS:
        return None
    if kind == "hnsw":
        codes = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        codes.hnsw.efConstruction = HNSW_BUILD_BREADTH
    else:
        cells = 1 if kind == "scan" else min(round(4 * math.sqrt(total)), total // IVF_ROWS_PER_LIST)
        parts = dim // 2 if dim % 2 == 0 else dim
        codes = faiss.index_factory(dim, f"IVF{cells},PQ{parts}x4fs", faiss.METRIC_INNER_PRODUCT)
    rows = np.random.default_rng(0).permutation(total)
    rows = rows[~np.isin(rows, [] if held_out is None else held_out)][:TRAINING_ROWS]
    codes.train(np.ascontiguousarray(vectors[np.sort(rows)]))
    add_codes(codes, vectors)
    return codes


def add_codes(codes: Codes, vectors: np.ndarray) -> None:
    """Append unit vectors to the codes, a block at a time."""
    for start in range(0, len(vectors), BLOCK_ROWS):
        codes.add(np.ascontiguousarray(vectors[start : start + BLOCK_ROWS]))


def search_index(
    index: Index, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most similar rows of each query by cosine, best first, as `search` returns them.

    The codes propose candidates; all scores are exact. ``queries`` (Q, D) are of any length. ``allowed`` (N,) says
    which rows may be found (None: all). Few such rows are compared one by one; of many the codes see only those. So
    there are always ``k`` results, or as many as there are rows that may be found.
    """
    queries = normalise(queries)
    rows = None if allowed is None else np.flatnonzero(allowed)
    total = len(index) if rows is None else len(rows)
    k = min(k, total)
    wanted = max(CANDIDATES, CANDIDATES_PER_HIT * k)
    few = EXACT_BYTES // (4 * index.vectors.shape[1])
    if isinstance(index.codes, faiss.IndexHNSWSQ):  # a graph is cut apart where most of its nodes may not be visited
        few = max(few, len(index) // 4)
    if index.codes is None or wanted >= total or (rows is not None and total <= few):
        return _search_rows(index.vectors, queries, k, rows)
    effort = _search_effort(index.codes, wanted, allowed, total / len(index))
    _, proposed = index.codes.search(queries, wanted, params=effort)
    found = [_ranked(index.vectors, query, k, row[row >= 0]) for query, row in zip(queries, proposed, strict=True)]
    for number, (scores, _) in enumerate(found):
        if len(scores) < k:
            scores, exact = _search_rows(index.vectors, queries[number : number + 1], k, rows)
            found[number] = scores[0], exact[0]
    return np.stack([scores for scores, _ in found]), np.stack([ranked for _, ranked in found])


def _search_effort(codes: Codes, wanted: int, allowed: np.ndarray | None, share: float) -> Any:
    """How far the codes are searched: further where only a ``share`` of the rows may be found."""
    chosen = {}
    if allowed is not None:
        chosen["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    if isinstance(codes, faiss.IndexIVF):
        cells = min(codes.nlist, math.ceil(codes.nlist * IVF_PROBED_SHARE / share)) if codes.nlist > 1 else 1
        return faiss.SearchParametersIVF(nprobe=cells, **chosen)
    return faiss.SearchParametersHNSW(efSearch=math.ceil(wanted / share), **chosen)


def _ranked(vectors: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best ``k`` of some rows by exact similarity."""
    rows = np.sort(rows)
    scores = vectors[rows] @ query
    best = np.argsort(-scores, kind="stable")[:k]
    return scores[best], rows[best]


def _search_rows(
    vectors: np.ndarray, queries: np.ndarray, k: int, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Exact search of some rows (None: all), a block of copies at a time."""
    if rows is None:
        return search(queries, vectors, k)
    scores, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        more, local = search(queries, vectors[block], k)
        scores, found = np.hstack([scores, more]), np.hstack([found, block[local]])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, found = np.take_along_axis(scores, best, 1), np.take_along_axis(found, best, 1)
    return scores, found


def build_cells(total: int, blocks: Callable[[], Iterator[np.ndarray]], scanned: bool = False) -> Codes:
    """Many short vectors, ``total`` in blocks ``(b, D)``, in cells of some 256, for `search_cells`.

    The blocks are asked for twice, and never held together. Where there are many vectors, they are shortened to 64
    dimensions (PCA) of 8 bits each. ``scanned``: of 2 bits each, in larger cells (the fast scan of André et al. 2015),
    which takes half the time of a search, a third of the memory, and finds a few neighbours less.
    """
    dim, scanned = next(blocks()).shape[1], scanned and total >= LEAST_CODED_ROWS
    most, per_cell = (MOST_SCANNED_CELLS, ROWS_PER_SCANNED_CELL) if scanned else (MOST_CELLS, ROWS_PER_CELL)
    cells = max(1, min(most, total // per_cell))
    coarse = "_HNSW32" if cells > LEAST_GRAPH_CELLS else ""
    shortened = f"PCA{SHORTENED}," if dim > SHORTENED and cells > 16 else ""
    stored = f"PQ{(SHORTENED if shortened else dim) // 2}x4fs" if scanned else "SQ8"
    codes = faiss.index_factory(dim, f"{shortened}IVF{cells}{coarse},{stored}")
    inner = faiss.extract_index_ivf(codes)
    visited = min(SCANNED_CELLS_VISITED, 2 * ROWS_PER_SCANNED_CELL * SCANNED_CELLS_VISITED * cells // total)
    inner.cp.niter, inner.nprobe = 6, max(visited, CELLS_VISITED) if scanned else CELLS_VISITED
    step = max(1, total // (TRAINED_PER_CELL * cells))
    codes.train(np.concatenate([np.ascontiguousarray(block[::step], np.float32) for block in blocks()]))
    for block in blocks():
        codes.add(np.ascontiguousarray(block, np.float32))
    return codes


def search_cells(codes: Codes, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and rows ``(Q, k)`` of the nearest vectors in the cells visited; row -1 where none is."""
    return codes.search(np.ascontiguousarray(queries, np.float32), k)


def search_alone() -> None:
    """From now on the searches of this thread take one core: for a thread beside others that search too."""
    faiss.omp_set_num_threads(1)


def held_out_rows(total: int, seed: int = 0) -> np.ndarray:
    """The rows that measure an index of ``total``: at most 1,000, and fewer of very large ones."""
    queries = min(1000, total // 10, max(100, 200_000_000 // max(1, total)))
    return np.random.default_rng(seed).permutation(total)[:queries]


def measured_recall(index: Index, queries: np.ndarray, depths: Sequence[int] = RECALL_DEPTHS) -> dict[str, Any]:
    """Recall@k against exact search, with some rows of the index as queries: see `held_out_rows`."""
    depths = tuple(depth for depth in depths if depth < len(index))
    if index.codes is None or not len(queries) or not depths:
        return {"queries": len(queries), "at": {str(depth): 1.0 for depth in depths}}
    probes = np.ascontiguousarray(index.vectors[np.sort(queries)])
    exact, _ = search(probes, index.vectors, max(depths) + 1)
    return recall_against(exact, {depth: search_index(index, probes, depth + 1)[0] for depth in depths})


def recall_against(exact: np.ndarray, found: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """Recall@k of the similarities ``found`` ``(Q, k + 1)`` for each k; ``exact`` ``(Q, K)`` are the true ones.

    A query is a row of the index and finds itself without effort, so its own row does not count. Ties do: what is
    compared is the similarity of the last true neighbour, to 1e-5.
    """
    at = {
        str(k): float(((scores >= exact[:, k : k + 1] - 1e-5).sum(axis=1) - 1).mean() / k)
        for k, scores in found.items()
    }
    return {"queries": len(exact), "at": at}


def write_codes(path: Path, codes: Codes) -> None:
    """Write codes to one file, atomically."""
    with atomic_file(path) as temporary:
        faiss.write_index(codes, str(temporary))


def read_codes(path: Path, maker: str, vectors: np.ndarray) -> Codes:
    """Read the codes of ``vectors`` that the command ``maker`` wrote; raises InputError naming file and remedy."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: make it with `{maker}`")
    try:
        codes = faiss.read_index(str(path))
    except (RuntimeError, MemoryError):
        raise InputError(f"{path} is damaged: make it again with `{maker}`") from None
    if not isinstance(codes, (faiss.IndexIVF, faiss.IndexHNSWSQ)):
        raise InputError(f"{path} holds a {type(codes).__name__}, which `{maker}` does not make: make it again")
    if (codes.ntotal, codes.d) != vectors.shape or codes.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise InputError(
            f"{path} has {codes.ntotal} entries of {codes.d} dimensions, the vectors beside it are "
            f"{len(vectors)} x {vectors.shape[1]}: make it again with `{maker}`"
        )
    return codes
