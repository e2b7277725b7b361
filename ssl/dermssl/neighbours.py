"""Nearest neighbours: exact search, the kNN vote, and approximate indexes. Only this module imports faiss."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import faiss as _faiss
import numpy as np
import pandas as pd

from dermssl.atomic import atomic_file
from dermssl.errors import InputError
from dermssl.files import reading

IndexType = Literal["flat", "scan", "ivfpq", "hnsw"]
faiss: Any = _faiss  # its type information lacks the many names that are made at import
Codes = Any
"""A faiss index of compressed vectors."""
TEMPERATURE = 0.07
"""The temperature of the weighted vote that DINO's authors use."""
BLOCK_ROWS = 65_536
QUERIES_AT_ONCE = 1024
LEAST_BITS_SET = 16
"""About 32 of a hash's 64 bits are set. With far fewer, the image has no structure and matches all such images."""
HNSW_LINKS, HNSW_BUILD_BREADTH = 32, 100
IVF_ROWS_PER_LIST = 64
IVF_PROBED_SHARE = 1 / 8
TRAINING_ROWS = 65_536
LEAST_CODED_ROWS = 1000
"""With fewer rows an approximate index is no faster, so none is made."""
CANDIDATES, CANDIDATES_PER_HIT = 256, 4
"""The number of rows that the codes propose for the exact ranking: in all at least, and per hit."""
ROWS_PER_CELL, MOST_CELLS = 256, 32_768
CELLS_VISITED, LEAST_CELLS_VISITED, TRAINED_PER_CELL, SHORTENED = 4, 2, 40, 64
ROWS_PER_SCANNED_CELL, MOST_SCANNED_CELLS = 1024, 4096
"""More cells would cost more time than scanning larger ones. Of cells with over 2,048 rows fewer are visited."""
CENTRES_PER_CELL = 4
"""With 1,000 cells or more, codes of the centres propose so many cells for each visited one; exact distances decide."""
RECALL_DEPTHS = (1, 10, 100)
EXACT_BYTES = 16 * 2**20
"""If the vectors of all rows that pass a filter take no more bytes, they are compared one by one. The codes are no
faster then: the rows are scattered over a file, and the time goes into reading it."""


def normalise(features: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, as contiguous float32. A zero row stays zero."""
    features = np.ascontiguousarray(features, dtype=np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def search_exact(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The scores ``(Q, k)`` float32 and rows ``(Q, k)`` int64 of the ``k`` most similar gallery rows, best first.

    The score is the inner product of ``queries`` (Q, D) and ``gallery`` (N, D): pass `normalise`d rows for cosine
    similarity. If N < ``k``, there are N results. The search goes in blocks, with memory O(Q k).
    """
    queries, gallery = (np.ascontiguousarray(rows, dtype=np.float32) for rows in (queries, gallery))
    return faiss.knn(queries, gallery, min(k, len(gallery)), metric=faiss.METRIC_INNER_PRODUCT)


def nearest_of_other_groups(features: np.ndarray, queries: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` rows of other groups that are most similar to each of the rows ``queries``, ``(Q, k)``, best first.

    The similarity is the cosine of ``features`` (N, D). ``groups`` (N,) are integers, or (G, N) of several kinds; a row
    of the query's group of any kind is left out. A row that is missing is -1.
    """
    unit, groups = normalise(features), np.atleast_2d(groups)
    sizes = np.sum([np.bincount(kind)[kind] for kind in groups], axis=0)
    found = np.full((len(queries), k), -1)
    # A search makes room for the own group, so images of large groups are searched together.
    order = np.argsort(sizes[queries], kind="stable")
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = order[start : start + QUERIES_AT_ONCE]
        _, rows = search_exact(unit[queries[part]], unit, k + int(sizes[queries[part]].max()))
        own = (groups[:, rows] == groups[:, queries[part], None]).any(axis=0)
        others = np.argsort(own, axis=1, kind="stable")[:, :k]
        rows, own = (np.take_along_axis(one, others, 1) for one in (rows, own))
        found[part, : rows.shape[1]] = np.where(own, -1, rows)
    return found


def main_directions(vectors: np.ndarray, dim: int) -> np.ndarray:
    """The ``dim`` directions ``(D, dim)`` that keep inner products of ``vectors`` (N, D) best, by a sample of 20,000.

    A search among ``vectors @ directions`` takes less time in proportion to ``dim``.
    """
    sample = vectors[:: -(-len(vectors) // 20_000)]
    return np.linalg.eigh(sample.T @ sample)[1][:, -dim:]


class KnnVotes(NamedTuple):
    """The result of the kNN protocol: class probabilities ``(Q, C)`` for each k and temperature, and neighbours."""

    probabilities: dict[tuple[int, float], np.ndarray]
    rows: np.ndarray
    """Gallery rows ``(Q, k)`` for the largest k, most similar first."""


def knn_votes(
    queries: np.ndarray,
    gallery: np.ndarray,
    labels: np.ndarray,
    classes: int,
    ks: Sequence[int],
    temperatures: Sequence[float] = (TEMPERATURE,),
) -> KnnVotes:
    """The kNN protocol of `dermeval knn` and of the online evaluation: cosine similarity and a weighted vote.

    ``queries`` (Q, D) are features of the images to classify, ``gallery`` (N, D) those of images with class numbers
    ``labels`` (N,). ``ks`` are numbers of voting neighbours; one search for the largest serves all.
    """
    scores, rows = search_exact(normalise(queries), normalise(gallery), max(ks))
    near = labels[rows]
    return KnnVotes(
        {(k, t): weighted_vote(scores[:, :k], near[:, :k], classes, t) for k in ks for t in temperatures}, rows
    )


def weighted_vote(scores: np.ndarray, labels: np.ndarray, classes: int, temperature: float = TEMPERATURE) -> np.ndarray:
    """Class probabilities ``(Q, C)`` float64 of DINO's weighted kNN: a neighbour votes with exp(s / T).

    From Caron et al. (2021). ``scores`` and ``labels`` (Q, k) are the neighbours' cosine similarities s and class
    numbers, below C = ``classes``. An infinite ``temperature`` T gives the majority vote. Rows sum to 1.
    """
    weights = np.exp((scores - scores[:, :1]).astype(np.float64) / temperature)
    votes = np.stack([(weights * (labels == c)).sum(axis=1) for c in range(classes)], axis=1)
    return votes / votes.sum(axis=1, keepdims=True)


def recall_at_1(features: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are queries ``(Q,)``, and whether the most similar other row has the same id ``(Q,)``.

    Queries are all rows whose id another row has. The gallery of a query is every other row, also rows without an id
    (None). Similarity is the cosine of ``features`` (N, D).
    """
    codes = pd.factorize(pd.Series(ids, dtype=object))[0]
    queries = np.flatnonzero((codes >= 0) & (np.bincount(codes + 1)[codes + 1] > 1))
    if not len(queries):
        return queries, np.zeros(0, dtype=bool)
    unit = normalise(features)
    _, rows = search_exact(unit[queries], unit, 2)
    # The query is one of the two. Only among several exact copies it may be none, and then the first is as near.
    nearest = np.where(rows[:, 0] == queries, rows[:, 1], rows[:, 0])
    return queries, codes[nearest] == codes[queries]


def near_images(
    queries: np.ndarray, gallery: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of images whose perceptual hashes differ by at most ``bits``, in any flip or turn of the gallery.

    ``queries`` (Q, 8) and ``gallery`` (N, 8) are uint64 of `dermssl.dataset.hashes.perceptual_hashes`. Returns query
    rows, gallery rows, the view (0-7) of the gallery image, and Hamming distances, each ``(P,)``, one per near
    view. Images without structure are left out (`LEAST_BITS_SET`). Memory grows with P, not with Q x N.
    """
    ours, theirs = (np.flatnonzero(np.bitwise_count(part[:, 0]) >= LEAST_BITS_SET) for part in (queries, gallery))
    index = faiss.IndexBinaryFlat(64)
    index.add(np.ascontiguousarray(gallery[theirs]).view(np.uint8).reshape(-1, 8))
    limits, distances, found = index.range_search(np.ascontiguousarray(queries[ours, :1]).view(np.uint8), bits + 1)
    query = np.repeat(ours, np.diff(limits.astype(np.int64)))
    return query, theirs[found // 8], found % 8, distances.astype(np.int64)


@dataclass(frozen=True)
class Index:
    """Unit vectors ``(N, D)``, usually memory-mapped, and codes that propose candidates (None: exact search)."""

    vectors: np.ndarray
    codes: Codes | None = None

    def __len__(self) -> int:
        return len(self.vectors)


def build_codes(vectors: np.ndarray, kind: IndexType, held_out: np.ndarray | None = None) -> Codes | None:
    """Codes of unit ``vectors`` ``(N, D)`` float32, one entry per row; None for exact search.

    ``flat`` is exact and has no codes. ``scan`` compares the query with all codes of 4 bits for two dimensions (product
    quantisation with the fast scan of André et al. 2015), a sixteenth of float32. ``ivfpq`` has the same codes in cells
    and visits an eighth of the cells. ``hnsw`` is a graph over 8-bit vectors (D + 256 bytes each). The rows
    ``held_out`` are not used for training the codes.
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
    """Append unit vectors to the codes, block by block."""
    for start in range(0, len(vectors), BLOCK_ROWS):
        codes.add(np.ascontiguousarray(vectors[start : start + BLOCK_ROWS]))


def search_index(
    index: Index, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most similar rows of each query by cosine, best first, as `search_exact` returns them.

    The codes propose candidates, whose scores are then computed exactly. ``queries`` (Q, D) need not be normalised.
    ``allowed`` (N,) bool restricts the results (None: all rows): few allowed rows are compared one by one, among many
    the codes propose only allowed ones. There are ``k`` results, or as many as there are allowed rows.
    """
    queries = normalise(queries)
    rows = None if allowed is None else np.flatnonzero(allowed)
    total = len(index) if rows is None else len(rows)
    k = min(k, total)
    wanted = max(CANDIDATES, CANDIDATES_PER_HIT * k)
    few = EXACT_BYTES // (4 * index.vectors.shape[1])
    if isinstance(index.codes, faiss.IndexHNSWSQ):  # without most of its nodes, a graph falls apart
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
    """faiss's search parameters. The smaller the ``share`` of allowed rows, the further the codes are searched."""
    chosen = {}
    if allowed is not None:
        chosen["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    if isinstance(codes, faiss.IndexIVF):
        cells = min(codes.nlist, math.ceil(codes.nlist * IVF_PROBED_SHARE / share)) if codes.nlist > 1 else 1
        return faiss.SearchParametersIVF(nprobe=cells, **chosen)
    return faiss.SearchParametersHNSW(efSearch=math.ceil(wanted / share), **chosen)


def _ranked(vectors: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The exact scores and numbers of the best ``k`` of ``rows``."""
    rows = np.sort(rows)
    scores = vectors[rows] @ query
    best = np.argsort(-scores, kind="stable")[:k]
    return scores[best], rows[best]


def _search_rows(
    vectors: np.ndarray, queries: np.ndarray, k: int, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Exact search among ``rows`` (None: all), which are copied block by block."""
    if rows is None:
        return search_exact(queries, vectors, k)
    scores, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        more, local = search_exact(queries, vectors[block], k)
        scores, found = np.hstack([scores, more]), np.hstack([found, block[local]])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, found = np.take_along_axis(scores, best, 1), np.take_along_axis(found, best, 1)
    return scores, found


def build_cells(total: int, blocks: Callable[[], Iterator[np.ndarray]], scanned: bool = False) -> Codes:
    """An index of ``total`` short vectors in cells of about 256, for `search_cells`.

    ``blocks()`` gives the vectors in blocks ``(b, D)``; it is called twice, and one block is in memory at a time. Many
    vectors are reduced to 64 dimensions (PCA) of 8 bits each. With ``scanned`` they have 2 bits each, in larger cells
    (the fast scan of André et al. 2015): half the time, a third of the memory, and slightly fewer neighbours found.
    Both code the difference to the centre of the cell.
    """
    dim, scanned = next(blocks()).shape[1], scanned and total >= LEAST_CODED_ROWS
    most, per_cell = (MOST_SCANNED_CELLS, ROWS_PER_SCANNED_CELL) if scanned else (MOST_CELLS, ROWS_PER_CELL)
    cells = max(1, min(most, total // per_cell))
    shortened = f"PCA{SHORTENED}," if dim > SHORTENED and cells > 16 else ""
    fast = f"PQ{(SHORTENED if shortened else dim) // 2}x4fs"
    coarse = f"({fast},RFlat)" if cells >= LEAST_CODED_ROWS else ""
    codes = faiss.index_factory(dim, f"{shortened}IVF{cells}{coarse},{fast if scanned else 'SQ8'}")
    inner = faiss.downcast_index(faiss.extract_index_ivf(codes))
    inner.cp.niter, inner.by_residual = 6, True
    fewer = 2 * ROWS_PER_SCANNED_CELL * CELLS_VISITED * cells // total
    inner.nprobe = min(CELLS_VISITED, max(LEAST_CELLS_VISITED, fewer))
    centres = faiss.downcast_index(inner.quantizer)
    if isinstance(centres, faiss.IndexRefineFlat):
        centres.k_factor = CENTRES_PER_CELL
    step = max(1, total // (TRAINED_PER_CELL * cells))
    codes.train(np.concatenate([np.ascontiguousarray(block[::step], np.float32) for block in blocks()]))
    for block in blocks():
        codes.add(np.ascontiguousarray(block, np.float32))
    return codes


def search_cells(codes: Codes, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and rows ``(Q, k)`` of the nearest vectors in the visited cells; row -1 if there is none."""
    return codes.search(np.ascontiguousarray(queries, np.float32), k)


def search_alone() -> None:
    """Restrict faiss to one core in this thread, for threads that search side by side."""
    faiss.omp_set_num_threads(1)


def held_out_rows(total: int) -> np.ndarray:
    """The rows that serve as queries to measure an index of ``total`` rows: at most 1,000, fewer for large ones."""
    queries = min(1000, total // 10, max(100, 200_000_000 // max(1, total)))
    return np.random.default_rng(0).permutation(total)[:queries]


def measured_recall(index: Index, queries: np.ndarray) -> dict[str, Any]:
    """Recall@k of the index against exact search. ``queries`` are rows of it, see `held_out_rows`."""
    depths = [depth for depth in RECALL_DEPTHS if depth < len(index)]
    if index.codes is None or not len(queries) or not depths:
        return {"queries": len(queries), "at": {str(depth): 1.0 for depth in depths}}
    probes = np.ascontiguousarray(index.vectors[np.sort(queries)])
    exact, _ = search_exact(probes, index.vectors, max(depths) + 1)
    return recall_against(exact, {depth: search_index(index, probes, depth + 1)[0] for depth in depths})


def recall_against(exact: np.ndarray, found: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """Recall@k of the similarities ``found`` ``(Q, k + 1)`` for each k against the true ones ``exact`` ``(Q, K)``.

    A query is a row of the index. If it is found, this hit does not count. A hit is right if it is at least as similar
    as the last true neighbour, to 1e-5. So ties count.
    """
    at = {}
    for k, scores in found.items():
        right = (scores >= exact[:, k : k + 1] - 1e-5).sum(axis=1) - (scores[:, 0] >= exact[:, 0] - 1e-5)
        at[str(k)] = float(right.clip(max=k).mean() / k)
    return {"queries": len(exact), "at": at}


def write_codes(path: Path, codes: Codes) -> None:
    """Write codes to one file, atomically."""
    with atomic_file(path) as temporary:
        faiss.write_index(codes, str(temporary))


def read_codes(path: Path, maker: str, vectors: np.ndarray) -> Codes:
    """Read the codes of ``vectors`` that the command ``maker`` wrote. Raises InputError naming file and remedy."""
    with reading(path, maker):
        codes = faiss.read_index(str(path))
    if not isinstance(codes, (faiss.IndexIVF, faiss.IndexHNSWSQ)):
        raise InputError(f"{path} holds a {type(codes).__name__}, which `{maker}` does not make: make it again")
    if (codes.ntotal, codes.d) != vectors.shape or codes.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise InputError(
            f"{path} has {codes.ntotal} entries of {codes.d} dimensions, the vectors beside it are "
            f"{len(vectors)} x {vectors.shape[1]}: make it again with `{maker}`"
        )
    return codes
