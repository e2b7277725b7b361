"""`dermeval index --type lance` at one million images: time to build, bytes, memory, and searches with filters.

    python scripts/bench/lance_scale.py --rows 1000000 --work /tmp/lance_scale

The data set and its features are those of `serve_load.py`. Every hit is an image (no patient is left out), and recall
counts hits at least as similar as the k-th of an exact search of the rows that pass.
"""

import argparse
import os
import resource
from pathlib import Path

import machine
import numpy as np
from search_scale import timed
from serve_load import make_embeddings, make_index

from dermeval.features.embeddings import open_embeddings
from dermeval.retrieval.index_folder import open_index
from dermeval.retrieval.where import parse_where, passing_rows
from dermssl import neighbours

FILTERS = (
    "",
    "fitzpatrick >= 4",
    "country == 'Mali'",
    "age > 97",
    "age == 3 and fitzpatrick == 6 and country == 'Togo'",
)
DEPTHS = (1, 10, 100)


def size_of(folder: Path) -> float:
    """GB of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="features.npy of an embeddings folder, repeated with noise")
    options = parser.parse_args()
    data = options.work, options.rows, options.dim
    embeddings = open_embeddings(make_embeddings(*data, options.features))
    cost, folder = machine.timed(lambda: make_index(*data, "lance", options.features))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(embeddings)} images x {embeddings.encoder['dim']}; load {os.getloadavg()[0]:.1f}")
    print(
        f"built in {cost.wall:.0f} s, {cost.cpu:.0f} s of processor time, at most {most:.1f} GiB of memory; "
        f"{size_of(folder):.2f} GB on the disk"
    )
    index = open_index(folder)
    print(f"as measured when it was built: {index.info['recall']}\n")
    unit = neighbours.normalise(np.asarray(embeddings.features))
    random = np.random.default_rng(1)
    noise = 0.3 / np.sqrt(unit.shape[1]) * random.normal(size=(options.queries, unit.shape[1]))
    queries = neighbours.normalise(unit[random.permutation(len(unit))[: options.queries]] + noise)
    print("| filter | rows that pass | k | wall ms | p95 | processor ms | p95 | recall@k |\n" + "|---" * 8 + "|")
    for where in FILTERS:
        mask = passing_rows(parse_where(where), embeddings.table) if where else None
        exact, _ = neighbours.search_index(neighbours.Index(unit), queries, max(DEPTHS), mask)
        share, passing = 100 if mask is None else 100 * mask.mean(), index.passing(where)
        for depth in [depth for depth in DEPTHS if depth <= exact.shape[1]]:
            times, found = timed(lambda q, k=depth, rows=passing: index.nearest(q[0], k, rows, "image_id", []), queries)
            right = [
                sum(hit["similarity"] >= best[depth - 1] - 1e-5 for hit in hits) / depth
                for hits, best in zip(found, exact, strict=True)
            ]
            (wall, processor), (wall95, processor95) = np.quantile(times, [0.5, 0.95], axis=0)
            print(
                f"| {where or 'none'} | {share:.3g}% | {depth} | {wall:.0f} | {wall95:.0f} "
                f"| {processor:.0f} | {processor95:.0f} | {np.mean(right):.4f} |",
                flush=True,
            )
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
