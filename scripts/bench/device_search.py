"""Exact search of a million vectors on a device by PyTorch: the bare product and its top k.

    python scripts/bench/device_search.py [--rows 1000000] [--dim 384] [--device cuda] [--k 20] [--out page.md]

Vectors are random and of unit length. One query and batches of 1,000 are timed, the median of five, after one warm-up.
The found rows are compared with those of `dermssl.neighbours` (FAISS on the CPU) for ten queries.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from machine import publish, seconds_on
from torch import Tensor

from dermssl import neighbours

BATCHES, ROUNDS = (1, 1000), 5


def search_on_device(queries: Tensor, rows: Tensor, k: int) -> Tensor:
    """Row numbers ``(Q, k)`` of the largest cosines, best first; ``rows`` (N, D) and ``queries`` have unit length."""
    return (queries @ rows.T).topk(k, dim=1).indices


def main() -> None:
    """Measure and print (or write) the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(options.rows + max(BATCHES), options.dim, generator=generator)
    vectors = torch.nn.functional.normalize(vectors)
    rows, queries = vectors[: options.rows].to(options.device), vectors[options.rows :].to(options.device)
    few = min(options.rows, 100_000)
    _, expected = neighbours.search_exact(queries[:10].cpu().numpy(), rows[:few].cpu().numpy(), options.k)
    found = search_on_device(queries[:10], rows[:few], options.k).cpu().numpy()
    lines = [f"# Exact search of {options.rows:,} x {options.dim} on {options.device}", ""]
    lines += ["| precision | queries at once | ms | ms a query |", "|---|---|---|---|"]
    for kind in (torch.float32, torch.bfloat16):
        typed = rows.to(kind)
        for batch in BATCHES:
            asked = queries[:batch].to(kind)
            work = partial(search_on_device, asked, typed, options.k)
            taken = 1000 * seconds_on(options.device, work, ROUNDS)
            lines.append(f"| {str(kind).removeprefix('torch.')} | {batch:,} | {taken:.2f} | {taken / batch:.4f} |")
    lines.append(f"\nThe same rows as FAISS on the CPU, of {few:,}: {(found == expected).mean():.1%}.")
    publish("\n".join(lines) + "\n", options.out)


if __name__ == "__main__":
    main()
