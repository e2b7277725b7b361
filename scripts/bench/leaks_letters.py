"""Do two different photographs with one watermark resemble each other for the leak audit, and does each its original?

    python scripts/bench/leaks_letters.py DATA [DATA ...] [--images 40]

White letters of an opacity of 50% to 78% are laid over photographs of the dataset folders. Printed are scores of pairs
of different photographs, which should be those of chance, and of each with its original; how many photographs without
letters the audit would change; and the time that this takes. Results are in results/leaks_scale.md.
"""

import argparse
import itertools
import time

import cv2
import numpy as np

from dermeval.features.alignment import structure
from dermeval.features.letters import without_letters
from dermeval.leaks.certainty import world_scores
from dermeval.leaks.local_features import COARSE, describe_picture
from dermeval.leaks.matching import local_of
from dermeval.leaks.planted import copy_of
from dermeval.leaks.verify import compare_pictures
from dermssl.dataset.dataset import open_dataset


def score(first: np.ndarray, second: np.ndarray) -> float:
    """The score of two pictures as they stand; their colours are not compared."""
    ours, theirs = (local_of(describe_picture(rgb, COARSE)) for rgb in (first, second))
    evidence = compare_pictures(ours, theirs, [lambda: structure(first), lambda: structure(second)])[None]
    evidence["colour"] = 1
    return float(world_scores(evidence)[0, 0])


def main() -> None:
    """Print one line for each question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="dataset folders of real images without watermarks")
    parser.add_argument("--images", type=int, default=40)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    stores, random = [open_dataset(folder).images for folder in options.data], np.random.default_rng(5)
    turns = itertools.islice(itertools.cycle(stores), options.images)
    chosen = [(store, int(random.integers(len(store)))) for store in turns]
    plain = [np.asarray(store.image(row).convert("RGB")) for store, row in chosen]
    marked = [copy_of(rgb, "watermark", number // 2 % 8 / 10, number) for number, rgb in enumerate(plain)]
    different = [score(*pair) for pair in itertools.islice(itertools.combinations(marked, 2), 400)]
    print("different photographs: median, 90%, 99%, highest:", *np.quantile(different, [0.5, 0.9, 0.99, 1]).round(2))
    print("with their originals, lowest:", round(min(map(score, plain, marked)), 2))
    pictures = [np.asarray(store.image(row).convert("RGB")) for store in stores for row in range(0, len(store), 3)]
    start = time.process_time()
    changed = sum(without_letters(rgb) is not rgb for rgb in pictures)
    each = 1000 * (time.process_time() - start) / len(pictures)
    print(f"changed: {changed} of {len(pictures)} without letters, {each:.2f} ms of processor time an image")


if __name__ == "__main__":
    main()
