"""Plants copies of real images and measures what the leak audit finds of each kind, beside pHash and SelfClean.

    python -m pip install imagehash selfclean     # optional; what is missing is left out
    python scripts/bench/leaks_planted.py DATA --work DIR [--images 300] [--each 8] [--encoder ENCODER]

Images of different groups are drawn from a dataset folder, so every pair that was not planted counts as false. Each
kind of copy (`dermeval.leaks.planted.KINDS`) is made of other images, at severities from 0 to 1. The whole
audit runs: candidates, comparison, threshold. SelfClean ranks by the features of ``--encoder``; the audit does not see
these. Results are in results/leaks_planted.md.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import average_precision_score

from dermeval.cli import main as dermeval
from dermeval.features.embeddings import open_embeddings
from dermeval.leaks.find import find_pairs
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.planted import KINDS, copy_of
from dermeval.leaks.records import open_audited
from dermeval.leaks.work import Work
from dermssl.cli import main as dermssl
from dermssl.dataset.dataset import open_dataset


def plant(data: str, out: Path, images: int, each: int, seed: int) -> pd.DataFrame:
    """Write originals and copies as PNG; one row per copy: ``original``, ``copy`` (stems), ``kind``, ``severity``."""
    dataset = open_dataset(data)
    frame = dataset.frame().drop_duplicates("group_id").sample(images, random_state=seed)
    (out / "raw" / "skin").mkdir(parents=True)
    pictures = [np.asarray(dataset.images.image(int(row))) for row in frame.index]
    rows = []
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(out / "raw" / "skin" / f"o{number:04d}.png")
    for number in range(each * len(KINDS)):
        kind, severity = list(KINDS)[number % len(KINDS)], (number // len(KINDS) + 0.5) / each
        copy = copy_of(pictures[number], kind, severity, number)
        Image.fromarray(copy).save(out / "raw" / "skin" / f"c{number:04d}.png")
        rows.append({"original": f"o{number:04d}", "copy": f"c{number:04d}", "kind": kind, "severity": severity})
    return pd.DataFrame(rows)


def hash_scores(folder: Path, names: list[str]) -> np.ndarray | None:
    """64 minus the distance of imagehash's pHash for all pairs ``(N, N)``; None where it is not installed."""
    try:
        import imagehash
    except ImportError as error:
        print(f"imagehash is left out: {error}")
        return None
    bits = np.stack([imagehash.phash(Image.open(folder / f"{name}.png")).hash.ravel() for name in names])
    return 64 - (bits[:, None] != bits[None]).sum(axis=2)


def selfclean_scores(data: str, encoder: str, work: Path) -> np.ndarray | None:
    """SelfClean's score of all pairs ``(N, N)``, the nearest ones highest; None where it is not installed."""
    try:
        from selfclean.cleaner.selfclean_cleaner import SelfCleanCleaner
    except ImportError as error:
        print(f"SelfClean is left out: {error}")
        return None
    if dermeval(["embed", "--encoder", encoder, "--data", data, "--out", str(work / "embeddings")]):
        raise SystemExit(2)
    cleaner = SelfCleanCleaner(memmap=False, log_level="ERROR")
    cleaner.fit(np.asarray(open_embeddings(work / "embeddings").features, np.float32))
    distances, pairs = cleaner.get_near_duplicate_ranking()
    scores = np.zeros(2 * (len(cleaner.emb_space),))
    scores[pairs.min(axis=1), pairs.max(axis=1)] = 1 - distances
    return scores


def main() -> None:
    """Plant, prepare, audit, and print a table per kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="dataset folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made on the way; must not exist")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--each", type=int, default=8, help="copies per kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoder", help="run folder or other encoder whose features SelfClean ranks by")
    options = parser.parse_args()
    truth = plant(options.data, options.work, options.images, options.each, options.seed)
    data, audit = str(options.work / "data"), options.work / "audit"
    if dermssl(["prepare", "--source", "folder", "--root", str(options.work / "raw"), "--out", data]):
        raise SystemExit(2)
    audit.mkdir()
    images, start = open_audited([data], every_image=True), time.process_time()
    found = find_pairs(images, LeaksOptions(out="", folders=[data], workers=1), Work(audit, 1))
    print(f"{len(images.frame)} images, {len(found.candidates)} pairs compared, {time.process_time() - start:.0f} s")
    names = [image_id.rsplit("/", 1)[1] for image_id in images.frame["image_id"]]
    rows, count = {name: row for row, name in enumerate(names)}, len(names)
    scores, confirmed = np.zeros((count, count)), np.zeros((count, count), bool)
    a, b = found.candidates[["a", "b"]].to_numpy(np.int64).T
    scores[a, b], confirmed[a, b] = found.candidates["score"], found.candidates["false_discovery_rate"] <= 0.05
    same = found.identical[["a", "b"]].to_numpy(np.int64).T
    scores[same[0], same[1]], confirmed[same[0], same[1]] = np.inf, True
    planted = np.sort([[rows[one.original], rows[one.copy]] for one in truth.itertuples()], axis=1)
    true = np.zeros((count, count), bool)
    true[planted[:, 0], planted[:, 1]] = True
    above = np.triu(np.ones((count, count), bool), 1)
    false = above & ~true
    print(f"confirmed {confirmed.sum()} pairs, {(confirmed & false).sum()} of them not planted")
    for i, j in np.argwhere(confirmed & false):
        print(f"  not planted: {names[i]} {names[j]} score {scores[i, j]:.2f}")
    hashed = hash_scores(options.work / "raw" / "skin", names)
    cleaned = None if options.encoder is None else selfclean_scores(data, options.encoder, options.work)
    for kind in [*KINDS, "all"]:
        chosen = planted[(truth["kind"] == kind).to_numpy() | (kind == "all")]
        line = f"{kind:18s} recall {confirmed[chosen[:, 0], chosen[:, 1]].mean():.2f}"
        for name, table in (("audit", scores), ("pHash", hashed), ("SelfClean", cleaned)):
            if table is not None:
                ours, others = table[chosen[:, 0], chosen[:, 1]], table[false]
                values = np.nan_to_num(np.concatenate([ours, others]), posinf=99)
                ap = average_precision_score(np.arange(len(values)) < len(ours), values)
                line += f"  {name}: AP {ap:.3f}, above all false {(ours > others.max()).mean():.2f}"
        print(line)


if __name__ == "__main__":
    main()
