"""The leak audit on a data set whose records hold several images, each image its own record: are they found again?

    python -m pip install imagehash               # optional
    python scripts/bench/leaks_natural.py DATA --key lesion_id --work DIR [--images 1500] [--neighbours 20]

Whole records are drawn at random, those with one image too. A pair is true if both images have one ``--key``, which the
audit does not see. Many true pairs are different photographs, so recall has no natural upper bound of 1. Pairs of
images that the audit did not compare score 0. Results are in results/leaks_pad.md and leaks_ham.md.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from dermeval.leaks.find import find_pairs
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.pictures import pixels
from dermeval.leaks.records import AuditedImages, open_audited
from dermeval.leaks.work import Work


def drawn(data: str, key: str, count: int, seed: int) -> AuditedImages:
    """About ``count`` images of whole records drawn at random, each its own record for the audit."""
    images = open_audited([data], every_image=True)
    records = images.frame[key].dropna().drop_duplicates().sample(frac=1, random_state=seed)
    sizes = images.frame[key].value_counts()[records].cumsum()
    rows = np.flatnonzero(images.frame[key].isin(sizes.index[sizes <= count]))
    frame = images.frame.iloc[rows].reset_index(drop=True)
    return images._replace(frame=frame, pictures=[images.pictures[row] for row in rows], groups=np.arange(len(rows)))


def hash_scores(images: AuditedImages) -> np.ndarray | None:
    """64 minus the distance of imagehash's pHash for all pairs ``(N, N)``; None where it is not installed."""
    try:
        import imagehash
        from PIL import Image
    except ImportError as error:
        print(f"imagehash is left out: {error}")
        return None
    bits = np.stack([imagehash.phash(Image.fromarray(pixels(one))).hash.ravel() for one in images.pictures])
    return 64 - (bits[:, None] != bits[None]).sum(axis=2, dtype=np.int16)


def report(name: str, scores: np.ndarray, true: np.ndarray) -> None:
    """Print AP, and how many true pairs are among the first ones."""
    order = np.argsort(-scores, kind="stable")
    first = "; ".join(f"first {count}: {true[order[:count]].sum()} true" for count in (100, 200, 300, 500))
    hits = np.cumsum(true[order]) / np.arange(1, len(order) + 1)
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # ties count together
    sure = ends[hits[ends] >= 0.95]
    recall = true[order[: sure.max() + 1]].sum() / true.sum() if len(sure) else 0.0
    print(f"{name}: AP {average_precision_score(true, scores):.3f}, recall at precision 0.95 {recall:.3f}; {first}")


def main() -> None:
    """Draw, audit, and print what is found beside pHash."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="dataset folder")
    parser.add_argument("--key", default="lesion_id")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made on the way; must not exist")
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir()
    images, start = drawn(options.data, options.key, options.images, options.seed), time.process_time()
    settings = LeaksOptions(out="", folders=[options.data], workers=1, neighbours=options.neighbours)
    found = find_pairs(images, settings, Work(options.work, 1))
    seconds = time.process_time() - start
    key, upper = images.frame[options.key].to_numpy(), np.triu_indices(len(images.frame), 1)
    true = key[upper[0]] == key[upper[1]]
    print(
        f"{len(key)} images of {len(set(key))} records, {true.sum()} true pairs; {len(found.candidates)} pairs compared"
    )
    print(f"{seconds:.0f} s of processor time")
    scores, rate = np.zeros((len(key), len(key)), np.float32), np.ones((len(key), len(key)), np.float32)
    for table, values, rates in (
        (found.candidates, found.candidates["score"], found.candidates["false_discovery_rate"]),
        (found.identical, 99.0, 0.0),
    ):
        a, b = table[["a", "b"]].to_numpy(np.int64).T
        scores[a, b], rate[a, b] = values, rates
    for nominal in (0.01, 0.05, 0.1):
        kept = rate[upper] <= nominal
        print(f"confirmed at most {nominal:.0%} false: {kept.sum()} pairs, {(kept & true).sum()} true")
    report("audit", scores[upper], true)
    hashed = hash_scores(images)
    if hashed is not None:
        report("pHash", hashed[upper], true)


if __name__ == "__main__":
    main()
