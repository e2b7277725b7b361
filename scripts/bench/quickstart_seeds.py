"""Does the quickstart's pretraining help, beyond the luck of one seed?

    python scripts/bench/quickstart_seeds.py quickstart/data --seeds 0 1 2

Trains configs/quickstart.yaml with each seed, and compares each encoder with an untrained one of the same seed: 5 folds
by patient over all patients, paired bootstrap of patients. The last rows are the mean difference over the seeds, all of
them scored under the same draws of patients. Prints a Markdown table for scripts/bench/results/.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dermeval.reports.results_folder import open_results
from dermeval.statistics.bootstrap import cluster_codes, percentiles, resample
from dermeval.statistics.comparison import two_sided_p
from dermeval.statistics.scorer import Scorer

DRAWS = 2000
ROOT = Path(__file__).parents[2]


def command(package: str, *arguments: str | Path) -> None:
    """Run one command of ours and stop the bench if it fails."""
    subprocess.run([sys.executable, "-m", package, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def compare_seed(data: Path, seed: int, work: Path) -> dict[str, Any]:
    """Train and judge one seed; returns the reports of pretraining and of both comparisons."""
    work.mkdir()
    run, config = work / "run", ROOT / "configs" / "quickstart.yaml"
    arguments = ["--config", config, "--data", data, "--out", run, "--training.seed", str(seed)]
    command("dermssl", "pretrain", *arguments, "--json", work / "pretrain.json")
    report = {"pretrain": json.loads((work / "pretrain.json").read_text())}
    for name, encoder in (("untrained", f"random:resnet18@{seed}"), ("trained", run)):
        command("dermeval", "embed", "--encoder", encoder, "--image-size", "64", "--data", data, "--out", work / name)
    for probe in ("knn", "linear"):
        results = [work / f"{probe}_{name}" for name in ("untrained", "trained")]
        for name, result in zip(("untrained", "trained"), results, strict=True):
            command("dermeval", probe, work / name, "--target", "condition", "--split", "folds", "--out", result)
        command("dermeval", "compare", *results, "--json", work / f"{probe}.json")
        report[probe] = json.loads((work / f"{probe}.json").read_text())
    return report


def line(seed: int, probe: str, report: dict[str, Any]) -> str:
    """One row of the table: balanced accuracy per image of both encoders and their paired difference."""
    rows = [r for r in report[probe]["rows"] if r["level"] == "image" and r["score"] == "balanced_accuracy"]
    before, after = (next(r for r in rows if r["result"].endswith(f"_{name}")) for name in ("untrained", "trained"))
    return (
        f"| {seed} | {probe} | {before['value']:.3f} | {after['value']:.3f} | {after['difference']:+.3f} "
        f"[{after['difference_low']:+.3f}, {after['difference_high']:+.3f}] | {after['p']:.4f} "
        f"| {report['pretrain']['seconds'] / 60:.1f} |"
    )


def mean_over_seeds(probe: str, works: list[Path]) -> str:
    """One row of the table: means over the seeds, and the paired difference of the means."""
    folders = [str(work / f"{probe}_{name}") for name in ("untrained", "trained") for work in works]
    results = open_results(folders)
    first, codes = results[0].predictions, cluster_codes(results[0].predictions.frame["group_id"])
    scorers = [Scorer(first.truth, result.predictions.probabilities, codes) for result in results]
    sampled, _ = resample(scorers, DRAWS, 0)
    drawn = np.stack([draw["balanced_accuracy"] for draw in sampled]).reshape(2, len(works), DRAWS).mean(1)
    before, after = np.array([float(scorer.point()["balanced_accuracy"]) for scorer in scorers]).reshape(2, -1).mean(1)
    differences = drawn[1] - drawn[0]
    low, high = percentiles(differences)
    return (
        f"| mean | {probe} | {before:.3f} | {after:.3f} | {after - before:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"| {two_sided_p(differences):.4f} | |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", type=Path, help="dataset folder that scripts/quickstart.sh prepared")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print("| seed | probe | untrained | trained | difference [95%], paired by patient | p | pretraining, min |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        works = [Path(scratch) / str(seed) for seed in options.seeds]
        for seed, work in zip(options.seeds, works, strict=True):
            report = compare_seed(options.data, seed, work)
            for probe in ("knn", "linear"):
                print(line(seed, probe, report), flush=True)
        for probe in ("knn", "linear"):
            print(mean_over_seeds(probe, works), flush=True)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"\n{machine}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
