"""Search of one million vectors: latency, recall and memory of every type of index, with and without filters.

    python scripts/bench/search_scale.py --rows 1000000 --work /tmp/search_scale

Two kinds of vectors, both 384-dimensional by default: drawn ones (2,000 clusters of uneven size with 40 strong
directions each and noise), and, with --features, real features repeated with noise. usearch runs in the same process.
Times are those of one query at a time, by the wall clock and of the processor; the load of the machine is printed.
"""

import argparse
import os
import time
from pathlib import Path

import faiss
import numpy as np

from dermssl import neighbours

SHARES = (1.0, 0.5, 0.1, 0.03, 0.01, 0.001)


def drawn(path: Path, rows: int, dim: int) -> np.ndarray:
    """Unit vectors in clusters of uneven size."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(2000, dim)).astype(np.float32)
    basis = random.normal(size=(40, dim)).astype(np.float32)
    sizes = random.pareto(1.5, 2000) + 0.1
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))
    for start in range(0, rows, 65_536):
        count = min(65_536, rows - start)
        which = random.choice(2000, count, p=sizes / sizes.sum())
        inner = random.normal(size=(count, 40)).astype(np.float32) @ basis
        noise = random.normal(size=(count, dim)).astype(np.float32)
        vectors[start : start + count] = neighbours.normalise(centres[which] + 0.15 * inner + 0.5 * noise)
    return vectors


def repeated(path: Path, rows: int, source: Path) -> np.ndarray:
    """Real features, repeated with noise of about 0.3 of their length."""
    features = neighbours.normalise(np.load(source))
    random = np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, features.shape[1]))
    scale = 0.3 / np.sqrt(features.shape[1])
    for start in range(0, rows, 65_536):
        count = min(65_536, rows - start)
        picked = features[(np.arange(start, start + count)) % len(features)]
        noise = random.normal(size=picked.shape).astype(np.float32)
        vectors[start : start + count] = neighbours.normalise(picked + scale * noise)
    return vectors


def timed(function, queries) -> tuple[np.ndarray, list]:
    """Wall and processor time of each query in ms, ``(Q, 2)``, and what the function gave."""
    times, results = [], []
    for query in queries:
        start, used = time.perf_counter(), time.process_time()
        results.append(function(query[None]))
        times.append((1000 * (time.perf_counter() - start), 1000 * (time.process_time() - used)))
    return np.array(times), results


def row(name: str, share: float, times: np.ndarray, recall: float, size: float) -> None:
    """One line of the table."""
    wall, used = times[:, 0], times[:, 1]
    print(
        f"| {name} | {100 * share:g}% | {np.median(wall):.1f} | {np.quantile(wall, 0.95):.1f} "
        f"| {np.median(used):.1f} | {np.quantile(used, 0.95):.1f} | {recall:.4f} | {size:.0f} |",
        flush=True,
    )


def plot(results: Path, picture: Path) -> None:
    """Draw the first table of a results file: the 95th percentile of the processor time by the share that passes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from dermssl.plotting import PLOT_STYLE

    lines: dict[str, list[tuple[float, float]]] = {}
    started = False
    for line in results.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[1].endswith("%"):
            started = True
            name = cells[0].partition(" (built")[0]
            lines.setdefault(name, []).append((float(cells[1].rstrip("%")), float(cells[5])))
        elif started:
            break
    with rc_context(PLOT_STYLE):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.axhline(50, color="0.6", linestyle="--", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="rows that pass the filter, %", ylabel="processor ms a query, p95")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.legend(fontsize=8)
        figure.savefig(picture, metadata={"Date": None})


def main() -> None:
    """Print the table, or draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--work", type=Path, default=Path("/tmp/search_scale"))
    parser.add_argument(
        "--plot", type=Path, nargs=2, metavar=("RESULTS", "PICTURE"), help="draw a table, measure nothing"
    )
    parser.add_argument("--features", type=Path, help="features.npy of an embeddings folder")
    parser.add_argument("--kinds", nargs="+", default=["scan", "ivfpq"])
    options = parser.parse_args()
    if options.plot:
        plot(*options.plot)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / "vectors.npy"
    make = repeated(path, options.rows, options.features) if options.features else None
    vectors = make if make is not None else drawn(path, options.rows, options.dim)
    rows, dim = vectors.shape
    random = np.random.default_rng(1)
    noise = 0.3 / np.sqrt(dim) * random.normal(size=(options.queries, dim)).astype(np.float32)
    queries = neighbours.normalise(vectors[np.sort(random.permutation(rows)[: options.queries])] + noise)
    masks = {share: np.asarray(random.random(rows) < share) if share < 1 else None for share in SHARES}
    kind = f"real features repeated with noise ({options.features})" if options.features else "drawn clusters"
    print(f"{rows} x {dim}, {kind}; {options.queries} queries; load {os.getloadavg()[0]:.1f}\n", flush=True)
    print("| index | rows that pass | wall ms | p95 | processor ms | p95 | recall@10 | bytes a vector |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    truth = {}
    flat = neighbours.Index(vectors)
    for share, mask in masks.items():
        times, found = timed(lambda query, mask=mask: neighbours.search_index(flat, query, 10, mask)[0], queries[:5])
        truth[share] = np.concatenate(
            [*found, neighbours.search_index(flat, queries[5:], 10, mask)[0]] if len(queries) > 5 else found
        )
        row("flat (bare scan)", share, times, 1.0, 4 * dim)
    for name in options.kinds:
        start = time.perf_counter()
        codes = neighbours.build_codes(vectors, name)
        built = time.perf_counter() - start
        assert codes is not None, f"{name} has codes"
        size = len(faiss.serialize_index(codes)) / rows
        index = neighbours.Index(vectors, codes)
        for share, mask in masks.items():
            times, found = timed(lambda query, i=index, m=mask: neighbours.search_index(i, query, 10, m)[0], queries)
            recall = (np.concatenate(found) >= truth[share][:, -1:] - 1e-5).mean()
            row(f"{name} (built in {built:.0f} s)", share, times, recall, size)
    others(vectors, queries, truth[1.0])
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


def others(vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> None:
    """usearch: its exact scan of the same vectors, and its graph of the first 100,000."""
    from usearch.index import Index, MetricKind, search

    everything = np.asarray(vectors)
    times, found = timed(lambda q: search(everything, q[0], 10, MetricKind.IP, exact=True), queries[:20])
    distances = np.stack([1 - result.distances for result in found])
    recall = (np.sort(distances, 1)[:, ::-1] >= truth[:20, -1:] - 1e-4).mean()
    row("usearch, exact scan", 1.0, times, recall, 4 * vectors.shape[1])
    part = np.ascontiguousarray(vectors[:100_000])
    start = time.perf_counter()
    graph = Index(ndim=part.shape[1], metric="ip", dtype="i8", connectivity=32, expansion_add=100, expansion_search=256)
    graph.add(np.arange(len(part)), part)
    built = time.perf_counter() - start
    exact, _ = neighbours.search_exact(queries, part, 10)
    times, found = timed(lambda q: graph.search(q[0], 10), queries)
    kept = np.stack(
        [np.sort(part[result.keys.astype(int)] @ q)[::-1] for result, q in zip(found, queries, strict=True)]
    )
    row(f"usearch HNSW i8, 100,000 rows (built in {built:.0f} s)", 1.0, times, (kept >= exact[:, -1:] - 1e-5).mean(), 0)
    small = neighbours.Index(part, neighbours.build_codes(part, "scan"))
    times, found = timed(lambda q: neighbours.search_index(small, q, 10)[0], queries)
    row("scan, 100,000 rows", 1.0, times, (np.concatenate(found) >= exact[:, -1:] - 1e-5).mean(), 0)


if __name__ == "__main__":
    main()
