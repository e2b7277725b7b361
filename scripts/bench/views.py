"""Views per core: dermssl's store and views against lightly's transforms on the raw files.

    python scripts/bench/views.py [--photos 12] [--small 64] [--rounds 3] [--out scripts/bench/results/views.md]

Makes JPEGs of 12 megapixels and of 341 x 256 pixels, prepares them with `dermssl prepare`, and measures both sides in
turns in one process on one thread. Figures are CPU time per image, the least of all rounds, so that other work on the
machine counts little. lightly is given the same number and sizes of views and the same odds of blur and solarisation;
its colour jitter is its own, drawn with the same odds.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from lightly.transforms import DINOTransform, SimCLRTransform
from machine import processor_seconds, publish, timed
from PIL import Image

from dermssl.backbone.build import IMAGENET
from dermssl.cli import main as dermssl
from dermssl.dataset.store import ImageStore
from dermssl.devices import keep_memory
from dermssl.views.crops import decode
from dermssl.views.loader import Pool, ViewDataset, to_views
from dermssl.views.recipe import ViewOptions
from dermssl.views.sampler import Item

PHOTO, SMALL = (4000, 3000), (341, 256)
BATCH = 32


def dino(size: int, local: int) -> tuple[ViewOptions, Callable]:
    """2 global and 8 local views on both sides."""
    theirs = DINOTransform(global_crop_size=size, local_crop_size=local, n_local_views=8)
    return ViewOptions(global_size=size, local_size=local), theirs


def simclr(size: int) -> tuple[ViewOptions, Callable]:
    """2 views on both sides."""
    ours = ViewOptions(
        global_size=size, local_count=0, global_scale=[0.08, 1.0], blur=[0.5, 0.5, 0.0], solarize=[0.0, 0.0, 0.0]
    )
    return ours, SimCLRTransform(input_size=size)


@dataclass(frozen=True)
class Case:
    """One comparison: raw images of one size, the short side they are stored at, and the views of both sides."""

    name: str
    raw: str
    short_side: int
    ours: ViewOptions
    theirs: Callable


def list_cases() -> list[Case]:
    """12-megapixel and small files, multi-crop and two views, large and small views."""
    recipes = {"2x224 + 8x96": dino(224, 96), "2x224": simclr(224), "2x64 + 8x32": dino(64, 32), "2x64": simclr(64)}
    stores = [("photo", 384, list(recipes)[:2]), ("small", 256, list(recipes)[:2]), ("small", 160, list(recipes)[2:])]
    return [Case(name, raw, short, *recipes[name]) for raw, short, names in stores for name in names]


def make_jpegs(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> list[Path]:
    """Coloured blobs under sensor noise, quality 90: what takes as long to decode as a photo."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    paths = [folder / f"{index:04d}.jpg" for index in range(count)]
    for path in paths:
        blobs = Image.fromarray(random.integers(40, 216, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(blobs.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = pixels + 5 * random.standard_normal(pixels.shape, dtype=np.float32)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def prepare(raw: Path, out: Path, short_side: int) -> float:
    """Run `dermssl prepare` and return the CPU seconds it took, its workers' included."""
    before = processor_seconds()
    arguments = ["--root", str(raw), "--out", str(out), "--short-side", str(short_side), "--workers", "1"]
    assert dermssl(["prepare", "--source", "folder", "--name", "views", *arguments]) == 0
    return processor_seconds() - before


def measure(case: Case, paths: list[Path], dataset: Path, rounds: int) -> dict[str, float]:
    """Least CPU milliseconds per image of lightly and of each part of ours, taken in turns."""
    store = ImageStore(dataset)
    views = ViewDataset(Pool([store], np.zeros(len(store), int), np.arange(len(store))), case.ours, seed=0)
    batches = [list(range(first, min(first + BATCH, len(store)))) for first in range(0, len(store), BATCH)]
    cut: list[list[torch.Tensor]] = []

    def decoded() -> None:
        for row in range(len(store)):
            decode(store.jpeg(row))

    def crop(epoch: int) -> None:
        cut[:] = [views.__getitems__([Item(epoch, row, row) for row in rows]) for rows in batches]

    def normalise() -> None:
        for crops in cut:
            to_views(crops, torch.device("cpu"), *IMAGENET)

    def lightly() -> None:
        for path in paths:
            with Image.open(path) as image:
                case.theirs(image.convert("RGB"))

    taken: dict[str, list[float]] = {"lightly": [], "decode": [], "views": [], "normalise": []}
    for epoch in range(rounds):
        for name, work in (
            ("lightly", lightly),
            ("decode", decoded),
            ("views", lambda epoch=epoch: crop(epoch)),
            ("normalise", normalise),
        ):
            taken[name].append(timed(work)[0].cpu)
    return {name: 1000 * min(seconds) / len(paths) for name, seconds in taken.items()}


def row(case: Case, least: dict[str, float]) -> str:
    """One line of the table."""
    both = least["views"] + least["normalise"]
    raw = "12 MP" if case.raw == "photo" else "341 x 256"
    changes = least["views"] - least["decode"]
    return (
        f"| {case.name} | {raw} | {case.short_side} | {least['lightly']:.1f} | {both:.2f} | {least['decode']:.2f} "
        f"| {changes:.2f} | {least['normalise']:.2f} | **{least['lightly'] / both:.1f}x** "
        f"| {least['lightly'] / least['views']:.1f}x |"
    )


HEADER = """\
| views | raw files | stored short side | lightly | dermssl | = decode | + crop, colour, blur, turn | + normalise \
| ratio | ratio, normalised on a GPU |
|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Measure all cases and print (or write) the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=12, help="JPEGs of 12 megapixels")
    parser.add_argument("--small", type=int, default=64, help="JPEGs of 341 x 256 pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_memory()  # as training does on a CPU
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        lines = compare(Path(scratch), options)
    notes = [
        "# Views per core against lightly",
        f"`python scripts/bench/views.py --photos {options.photos} --small {options.small} "
        f"--rounds {options.rounds}`: CPU milliseconds per image on one thread, least of {options.rounds} rounds; "
        f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, load {load:.1f} at the start.",
    ]
    publish("\n\n".join([*notes, "\n".join(lines)]) + "\n", options.out)


def compare(scratch: Path, options: argparse.Namespace) -> list[str]:
    """The table's lines; the last one says what `prepare` costs once."""
    counts = {"photo": (options.photos, PHOTO), "small": (options.small, SMALL)}
    paths = {raw: make_jpegs(scratch / raw, *count) for raw, count in counts.items()}
    prepared: dict[tuple[str, int], float] = {}
    lines = [HEADER]
    for case in list_cases():
        dataset = scratch / f"{case.raw}_{case.short_side}"
        if (case.raw, case.short_side) not in prepared:
            prepared[case.raw, case.short_side] = prepare(scratch / case.raw, dataset, case.short_side)
        lines.append(row(case, measure(case, paths[case.raw], dataset, options.rounds)))
    once = 1000 * prepared["photo", 384] / options.photos
    return [*lines, "", f"`prepare` costs {once:.0f} CPU ms per 12-megapixel image, once."]


if __name__ == "__main__":
    main()
