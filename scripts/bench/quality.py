"""Encoders at equal cost: `dermssl pretrain` against lightly's example loop, on the same images, epochs and core.

    python scripts/bench/quality.py --config configs/simclr_resnet18_small.yaml --data data/ham10000 data/pad_ufes_20 \
        --epochs 10 --work DIR [--seed 0] [--threads 1] [--dino.momentum 0.9 ...]

Trains ours by the recipe (further options go to `dermssl pretrain`), then lightly's loop (its own transform with local
crops of 3/7 of the global ones, loss, optimizer and learning rate; our backbone, global size, batch, and the images of
our ledger) for as many epochs, keeping its encoder after each. Scored are lightly's last encoder (equal epochs) and the
last one that it had in our time (equal time), with 5 folds by group over all images, and raw pixels. Time is processor
time of all processes of a side, which other work on the machine spares; ours includes start, online evaluation and
saving. Prints a Markdown table for scripts/bench/results/.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as parquet
import torch
import yaml
from lightly_loops import lightly_loop
from machine import command, processor_seconds
from torch.utils.data import DataLoader, Dataset

from dermssl.backbone.embedding import preprocessing_at
from dermssl.backbone.encoder_folder import write_encoder
from dermssl.dataset import dataset as datasets
from dermssl.errors import counted
from dermssl.views.recipe import ViewOptions

WORKERS = 1


class Images(Dataset):
    """Views of the stored images of a run's ledger, by lightly's transform."""

    def __init__(self, ledger: Path, folders: list[str], transform: Callable) -> None:
        self.transform = transform
        wanted = set(parquet.read_table(ledger, columns=["image_id"])["image_id"].to_pylist())
        sets = [datasets.open_dataset(folder) for folder in folders]
        self.places = [(s, row) for s in sets for row, name in enumerate(s.column("image_id")) if name in wanted]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        images, row = self.places[index]
        return self.transform(images.images.image(row))


def train_ours(options: argparse.Namespace, further: list[str]) -> float:
    """Processor seconds of our whole run; of an earlier call's, if ``--work`` holds one."""
    known = options.work / "processor_seconds.json"
    if known.exists():
        return float(json.loads(known.read_text()))
    since = processor_seconds()
    # fmt: off
    command(
        "dermssl", "pretrain", "--config", options.config, "--data", *options.data, "--out", options.work / "ours",
        "--training.epochs", options.epochs, "--training.seed", options.seed, "--data.workers", WORKERS,
        "--overwrite", "true", *further,
    )
    # fmt: on
    known.write_text(json.dumps(processor_seconds() - since))
    return float(json.loads(known.read_text()))


def train_lightly(options: argparse.Namespace) -> list[float]:
    """Processor seconds after each epoch; the encoders lie in ``lightly_<epoch>``."""
    recipe = yaml.safe_load((options.work / "ours" / "config.yaml").read_text())
    size, name = recipe["views"]["global_size"], recipe["model"]["backbone"]
    torch.manual_seed(options.seed)
    local = ViewOptions(global_size=size).local_size
    loop = lightly_loop(recipe["method"], name, size, local, options.locals)
    images = Images(options.work / "ours" / "ledger.parquet", options.data, loop.transform)
    batch = recipe["training"]["batch"]
    loader = DataLoader(images, batch_size=batch, shuffle=True, drop_last=True, num_workers=WORKERS)
    since, seconds = processor_seconds(), []
    for epoch in range(options.epochs):
        for batch_views in loader:
            loop.step(batch_views, epoch)
        seconds.append(processor_seconds() - since)
        folder, training = options.work / f"lightly_{epoch + 1}", {"method": recipe["method"], "splits": "train"}
        write_encoder(loop.encoder, folder, name, preprocessing_at(size), [], "lightly", training)
        print(f"lightly: epoch {epoch + 1} of {options.epochs}, {seconds[-1]:.0f} s", file=sys.stderr, flush=True)
    return seconds


def score(name: str, encoder: str, size: int, options: argparse.Namespace) -> list[str]:
    """Per data set: kNN balanced accuracy, macro-F1, recall@1, linear probe's balanced accuracy."""
    cells = []
    for data in options.data:
        place = options.work / f"{name}_{Path(data).name}"
        command("dermeval", "embed", "--encoder", encoder, "--image-size", size, "--data", data, "--out", place)
        results = {}
        for probe in ("knn", "linear"):
            out = place.with_name(f"{place.name}_{probe}")
            command("dermeval", probe, place, "--split", "folds", "--out", out)
            results[probe] = json.loads((out / "result.json").read_text())
        knn, linear = (results[probe]["levels"]["image"]["scores"] for probe in ("knn", "linear"))
        recalls = [entry["value"] for entry in results["knn"]["recall_at_1"]]
        values = [knn["balanced_accuracy"]["value"], knn["macro_f1"]["value"], linear["balanced_accuracy"]["value"]]
        cells += [f"{value:.3f}" for value in [*values[:2], *recalls[:1], values[2]]]
    return cells


def main() -> None:
    """Train both, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="our recipe")
    parser.add_argument("--data", nargs="+", required=True, help="dataset folders")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--locals", type=int, default=6, help="local crops of lightly's DINO transform (its default)")
    parser.add_argument("--threads", type=int, default=1, help="threads of either side, beside one data worker")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for runs and embeddings")
    options, further = parser.parse_known_args()
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(options.threads)
    ours, theirs = train_ours(options, further), train_lightly(options)
    size = yaml.safe_load((options.work / "ours" / "config.yaml").read_text())["views"]["global_size"]
    in_time = sum(seconds <= ours for seconds in theirs)
    rows = [
        ("dermssl", options.work / "ours", options.epochs, ours),
        ("lightly, equal epochs", options.work / f"lightly_{options.epochs}", options.epochs, theirs[-1]),
        ("raw pixels, PCA-128", "pixels:128", 0, 0.0),
    ]
    if 0 < in_time < options.epochs:
        rows.insert(2, ("lightly, equal time", options.work / f"lightly_{in_time}", in_time, theirs[in_time - 1]))
    names = [Path(data).name for data in options.data]
    kinds = ("kNN balanced accuracy", "kNN macro-F1", "recall@1", "linear balanced accuracy")
    head = ["", "epochs", "processor, s", *[f"{name}: {kind}" for name, kind in itertools.product(names, kinds)]]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for number, (label, encoder, epochs, seconds) in enumerate(rows):
        cells = score(f"scored{number}", str(encoder), size, options)
        print("| " + " | ".join([label, str(epochs), f"{seconds:.0f}", *cells]) + " |", flush=True)
    threads = counted(options.threads, "thread")
    print(f"\n{os.cpu_count()} cores, {threads}, torch {torch.__version__}, seed {options.seed}")


if __name__ == "__main__":
    main()
