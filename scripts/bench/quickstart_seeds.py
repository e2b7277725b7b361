"""Does the quickstart's pretraining help, beyond the luck of one seed?

    python scripts/bench/quickstart_seeds.py quickstart/data --seeds 0 1 2

Trains configs/quickstart.yaml with each seed, and compares each encoder with its start (ImageNet's EfficientNet-lite0,
frozen): 5 folds by patient over all patients, paired bootstrap of patients. The last rows are the means over the seeds,
as `dermeval compare` takes them. Prints a Markdown table for scripts/bench/results/.
"""

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import torch
from machine import command

NAMES, PROBES = ("start", "trained"), ("knn", "linear")
ROOT = Path(__file__).parents[2]


def judge_seed(data: Path, seed: int, work: Path) -> float:
    """Train one seed, judge it and its start; returns the minutes of pretraining."""
    run, config = work / f"run{seed}", ROOT / "configs" / "quickstart.yaml"
    arguments = ["--config", config, "--data", data, "--out", run, "--training.seed", str(seed)]
    command("dermssl", "pretrain", *arguments, "--json", work / "pretrain.json")
    for name, encoder in zip(NAMES, ("timm:tf_efficientnet_lite0", run), strict=True):
        features = work / f"{name}{seed}"
        command("dermeval", "embed", "--encoder", encoder, "--image-size", "96", "--data", data, "--out", features)
        for probe in PROBES:
            out = work / probe / name / str(seed)
            command("dermeval", probe, features, "--target", "condition", "--split", "folds", "--out", out)
    return json.loads((work / "pretrain.json").read_text())["seconds"] / 60


def line(label: str, probe: str, results: list[Path], minutes: str = "") -> str:
    """One row of the table: balanced accuracy per image of both encoders and their paired difference."""
    report = results[0].parents[1] / "compare.json"
    command("dermeval", "compare", *results, "--json", report)
    rows = json.loads(report.read_text())["rows"]
    before, after = (r for r in rows if r["level"] == "image" and r["score"] == "balanced_accuracy")
    return (
        f"| {label} | {probe} | {before['value']:.3f} | {after['value']:.3f} | {after['difference']:+.3f} "
        f"[{after['difference_low']:+.3f}, {after['difference_high']:+.3f}] | {after['p']:.4f} | {minutes} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data", type=Path, help="dataset folder that scripts/quickstart.sh prepared")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print("| seed | probe | start | trained | difference [95%], paired by patient | p | pretraining, min |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for seed in options.seeds:
            minutes = judge_seed(options.data, seed, work)
            for probe in PROBES:
                results = [work / probe / name / str(seed) for name in NAMES]
                print(line(str(seed), probe, results, f"{minutes:.1f}"), flush=True)
        for probe in PROBES:
            print(line("mean", probe, [work / probe / name for name in NAMES]), flush=True)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"\n{machine}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
