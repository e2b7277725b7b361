"""Images per second of facebookresearch/dino's own script, by its log, and the ratio of ours to it.

    python scripts/bench/dino_ratio.py LOG PAGE --batch 128 [--out page.md]

LOG is what `main_dino.py` printed: every tenth step a line with ``time:`` and the mean seconds of the last 20 steps.
PAGE is the table of `pretrain_speed.py` for the same backbone, crops and batch on the same machine.
"""

import argparse
import re
from pathlib import Path

from machine import publish


def dino_speed(log: str, batch: int) -> float:
    """Images per second of the last steps; SystemExit if there are only the first ones, which hold CUDA's start."""
    times = [float(value) for value in re.findall(r"\btime: (\d+\.\d+)", log)]
    if len(times) < 4:
        raise SystemExit(f"dino's script printed {len(times)} lines with a time: give it longer")
    return batch / times[-1]


def our_speed(page: str) -> float:
    """Images per second of dermssl in the table's line of dino."""
    line = next(line for line in page.splitlines() if line.startswith("| dino |"))
    return float(line.split("|")[3])


def main() -> None:
    """Print (or write) both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    theirs = dino_speed(options.log.read_text(encoding="utf-8"), options.batch)
    ours = our_speed(options.page.read_text(encoding="utf-8"))
    text = f"dermssl {ours:.1f} images/s, dino's script {theirs:.1f} images/s: **{ours / theirs:.2f}x**\n"
    publish(text, options.out)


if __name__ == "__main__":
    main()
