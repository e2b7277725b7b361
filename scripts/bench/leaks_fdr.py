"""Does the leak audit keep its promise? Realised share of false pairs at a nominal one, over resamples by patient.

    python scripts/bench/leaks_fdr.py DATA --work DIR [--same MANIFEST_COLUMN] [--real ID,ID ...] [--resamples 200]

Every image of the dataset folder is its own record, so that pairs of one patient (or lesion) are to be found and pairs
of two are false, save those that --real names. Each resample takes half of the patients and scores their pairs anew.
Results are in results/leaks_pad.md.
"""

import argparse
from pathlib import Path

import numpy as np

from dermeval.leaks.earlier import EarlierAudit
from dermeval.leaks.find import find_pairs, scored
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.records import open_audited
from dermeval.leaks.work import Work

NOMINAL = (0.01, 0.05, 0.10)


def truth_parser(about: str | None) -> argparse.ArgumentParser:
    """The options of a script that knows by a column which pairs are true."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="dataset folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for the comparisons; they are kept")
    parser.add_argument("--same", default="patient_id", help="column that is the same in a true pair")
    parser.add_argument("--real", nargs="*", default=[], help="pairs ID,ID that are real by eye though the ids differ")
    return parser


def main() -> None:
    """Compare all candidate pairs once, then resample, and print one line per nominal share."""
    parser = truth_parser(__doc__)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    images = open_audited([options.data], every_image=True)
    found = find_pairs(images, LeaksOptions(out="", folders=[options.data], workers=1), Work(options.work, 1))
    ids = images.frame[options.same].to_numpy()
    ends = found.candidates[["a", "b"]].to_numpy(np.int64)
    same = ids[ends[:, 0]] == ids[ends[:, 1]]
    for pair in options.real:
        same |= np.isin(images.frame["image_id"].to_numpy()[ends], pair.split(",")).all(axis=1)
    nominated = found.candidates.drop(columns=["score", "world", "false_discovery_rate"])
    random, people = np.random.default_rng(0), np.unique(ids)
    shares: dict[float, list[float]] = {nominal: [] for nominal in NOMINAL}
    counts: dict[float, list[int]] = {nominal: [] for nominal in NOMINAL}
    for _ in range(options.resamples):
        inside = np.isin(ids, random.choice(people, len(people) // 2, replace=False))[ends].all(axis=1)
        compared, alone = nominated[inside].reset_index(drop=True), EarlierAudit(np.zeros(0, bool))
        part = scored(compared, found.evidence[inside], found.identical.head(0), found.store, alone)
        rates = part.candidates["false_discovery_rate"].to_numpy()
        for nominal in NOMINAL:
            kept = rates <= nominal
            shares[nominal].append(float((~same[inside][kept]).mean()) if kept.any() else 0.0)
            counts[nominal].append(int(kept.sum()))
    print(f"{options.resamples} half-samples of {len(people)} by {options.same}, {len(ends)} compared pairs")
    for nominal in NOMINAL:
        share = np.array(shares[nominal])
        print(
            f"nominal {nominal:.2f}: {np.mean(counts[nominal]):.1f} pairs confirmed, realised {share.mean():.4f} "
            f"(95% of the resamples: at most {np.quantile(share, 0.95):.4f}), above nominal in "
            f"{(share > nominal).mean():.3f} of them"
        )


if __name__ == "__main__":
    main()
