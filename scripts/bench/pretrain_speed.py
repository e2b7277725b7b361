"""Pretraining images per second: `dermssl pretrain` against lightly's example loop, in turns on the same machine.

    python scripts/bench/pretrain_speed.py data/ham10000 RAW/ham10000 [--methods simclr dino] [--backbone resnet18]
        [--size 64] [--local 32] [--locals 6] [--batch 128] [--steps 30] [--rounds 3] [--threads 2] [--workers 2]
        [--patch-size 8] [--out page.md] [--training.compile true ...]

The first folder is made by `dermssl prepare`, the second holds the same images as they came. lightly's side is the
example of its documentation (transform, LightlyDataset, DataLoader, heads, loss, optimizer, float32), with the sizes,
the batch and the backbone set to ours. Each round runs both sides once; the first third of the steps is not counted.
Figures are wall-clock, so let nothing else run. dermssl runs with its own defaults (precision, workers), but for what
further options say. ``--only-ours`` leaves lightly's side out.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from lightly.data import LightlyDataset
from lightly_loops import BOTTLENECK, HIDDEN, OUT_DIM, lightly_loop
from machine import describe, publish
from torch.utils.data import DataLoader

from dermssl.files import read_json


def lightly_speed(method: str, options: argparse.Namespace) -> float:
    """Images per second of lightly's loop on the raw files."""
    loop = lightly_loop(
        method, options.backbone, options.size, options.local, options.locals, options.patch_size, options.device
    )
    loader = DataLoader(
        LightlyDataset(str(options.raw), transform=loop.transform),
        batch_size=options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
    )
    warm_up, done, since = options.steps // 3, 0, 0.0
    while True:
        for batch in loader:
            loop.step(batch[0], 0)
            done += 1
            if done == warm_up:
                since = time.perf_counter()
            if done == options.steps:
                if options.device == "cuda":
                    torch.cuda.synchronize()
                return (options.steps - warm_up) * options.batch / (time.perf_counter() - since)


def dermssl_speed(method: str, options: argparse.Namespace, further: list[str]) -> float:
    """Images per second of `dermssl pretrain` on the dataset folder, as its metrics.jsonl tells them."""
    images = read_json(options.data / "dataset.json", "dermssl prepare")["counts"]["images"]
    epochs = math.ceil(2 * options.steps * options.batch / images) + 1
    every = max(1, options.steps // 6)
    settings = {
        "method": method,
        "model.backbone": options.backbone,
        "model.drop_path": 0,
        "views.global_size": options.size,
        "views.local_size": options.local,
        "views.local_count": options.locals if method == "dino" else 0,
        f"{method}.hidden_dim": HIDDEN,
        **({"dino.out_dim": OUT_DIM, "dino.bottleneck_dim": BOTTLENECK} if method == "dino" else {}),
        "training.batch": options.batch,
        "training.epochs": epochs,
        "training.log_every": every,
        "training.state_every_epochs": epochs,
        "online.every_epochs": epochs,
        "online.max_images": 100,
        "optim.warmup_epochs": 0,
        "health.on_collapse": "warn",
        **({"model.patch_size": options.patch_size} if options.patch_size else {}),
    }
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        pairs = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "dermssl", "pretrain", "--data", str(options.data), "--out", str(run)]
        with (Path(scratch) / "log").open("w") as log:
            process = subprocess.Popen([*command, *pairs, *further], stdout=log, stderr=log, env=_environment(options))
            speeds = _read_speeds(process, run / "metrics.jsonl", options.steps)
        if not speeds:
            raise SystemExit((Path(scratch) / "log").read_text())
    counted = [speed for step, speed in speeds.items() if options.steps // 3 < step <= options.steps]
    return statistics.harmonic_mean(counted)


def _environment(options: argparse.Namespace) -> dict[str, str]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    return os.environ | {"OMP_NUM_THREADS": str(options.threads)} | hidden


def _read_speeds(process: subprocess.Popen, metrics: Path, steps: int) -> dict[int, float]:
    """Images per second by step, read until ``steps`` are done; the rest of the run is not needed."""
    speeds: dict[int, float] = {}
    while max(speeds, default=0) < steps:
        ended = process.poll() is not None
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        speeds = {record["step"]: record["images_per_second"] for record in records if "images_per_second" in record}
        if ended:
            break
        time.sleep(0.5)
    process.terminate()
    process.wait()
    return speeds


def main() -> None:
    """Measure and print (or write) the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("raw", type=Path, help="folder with the same images as they came")
    parser.add_argument("--methods", nargs="+", choices=["simclr", "dino"], default=["simclr", "dino"])
    parser.add_argument("--backbone", default="resnet18", help="timm name, on both sides")
    parser.add_argument("--patch-size", type=int, help="of a vision transformer, on both sides")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--local", type=int, default=32)
    parser.add_argument("--locals", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of both sides")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="data workers of lightly's side")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options, further = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    publish(report(options, further), options.out)


def report(options: argparse.Namespace, further: list[str]) -> str:
    """The page: what was run, and one line per method with the medians over the rounds."""
    machine = describe()
    lines = ["| method | lightly, images/s | dermssl, images/s | ratio |", "|---|---|---|---|"]
    for method in options.methods:
        pairs = [
            (math.nan if options.only_ours else lightly_speed(method, options), dermssl_speed(method, options, further))
            for _ in range(options.rounds)
        ]
        theirs, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(our / their for their, our in pairs)
        beside = ("", "") if options.only_ours else (f"{theirs:.1f}", f"**{ratio:.2f}x**")
        lines.append(f"| {method} | {beside[0]} | {ours:.1f} | {beside[1]} |")
    crops = f"{options.size} px" + (f" (DINO: 2x{options.size} + {options.locals}x{options.local})")
    patch = f" with patches of {options.patch_size} px" if options.patch_size else ""
    about = [
        f"`python scripts/bench/pretrain_speed.py {' '.join(sys.argv[1:])}`",
        "",
        *machine,
        f"- {options.backbone}{patch}, {crops}, batch {options.batch}, {options.steps} steps, median of "
        f"{options.rounds} rounds, {options.device}, {options.threads} threads; lightly in float32 with "
        f"{options.workers} data workers",
        "",
        *lines,
    ]
    return "# Pretraining speed against lightly's example loop\n\n" + "\n".join(about) + "\n"


if __name__ == "__main__":
    main()
