"""Near-duplicate candidate pairs of many features: time against the bare matrix product, and peak memory.

    python scripts/bench/all_pairs.py [--images 100000] [--dim 384] [--threads 2]

Features are random with planted near-duplicates, so that recall can be checked. The product multiplies the same
blocks and keeps nothing: no all-pairs method can be faster in float32. Results are in results/all_pairs.md.
"""

import argparse
import os
import time

import numpy as np
import torch
from machine import peak_memory

from dermeval.leaks.nominate import nearest_pairs
from dermssl.neighbours import normalise

BLOCK = 4096


def planted(images: int, dim: int, copies: int) -> np.ndarray:
    """Unit-variance features in which the last ``copies`` rows are noisy copies of the first."""
    random = np.random.default_rng(0)
    features = random.standard_normal((images, dim), dtype=np.float32)
    features[-copies:] = features[:copies] + 0.3 * random.standard_normal((copies, dim), dtype=np.float32)
    return features


def bare_product(features: np.ndarray) -> float:
    """Seconds for all inner products, block by block, results thrown away."""
    matrix = torch.from_numpy(features)
    block = torch.empty(BLOCK, len(matrix))
    start = time.perf_counter()
    for first in range(0, len(matrix), BLOCK):
        rows = matrix[first : first + BLOCK]
        torch.mm(rows, matrix.T, out=block[: len(rows)])
    return time.perf_counter() - start


def main() -> None:
    """Measure once and print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--copies", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    features = planted(options.images, options.dim, options.copies)
    load = os.getloadavg()[0]
    with peak_memory() as peak:
        start = time.perf_counter()
        queries = normalise(features - features.mean(axis=0))
        found = nearest_pairs(queries, queries, np.arange(options.images), nearest=10)
        seconds = time.perf_counter() - start
    known = {(row, options.images - options.copies + row) for row in range(options.copies)}
    hit = len(known & set(zip(found["a"], found["b"], strict=True)))
    product = bare_product(features)
    print(f"{options.images} x {options.dim} float32, {options.threads} threads, load {load:.1f} before")
    print(f"candidates      {seconds:.1f} s, peak memory {peak.mib / 1024:.2f} GiB above the features")
    print(f"bare product    {product:.1f} s; ratio {seconds / product:.2f}")
    print(f"planted pairs   {hit} of {options.copies} among {len(found)} candidates")


if __name__ == "__main__":
    main()
