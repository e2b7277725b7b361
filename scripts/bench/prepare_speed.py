"""Images/s of ``dermssl prepare`` from 12-megapixel JPEGs, against plain Pillow loops in the same run.

    python scripts/bench/prepare_speed.py [--images 64] [--repeats 3]
    python scripts/bench/prepare_speed.py --memory 4000 16000

The loops decode and resize (bicubic) to the same size and keep nothing: no hashes, no store, no table. ``thumbnail``
is Pillow's own short cut, which lets the JPEG decoder skip detail as prepare does. CPU time is of this process and
all its workers, start included; it says more than the rate where the machine is shared. Results are in
results/prepare_speed.md.
"""

import argparse
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from machine import describe, memory_mib, peak_memory, processor_seconds
from PIL import Image, features
from PIL import __version__ as pillow_version

from dermssl.parallel import available_cores, process_map
from dermssl.prepare.options import PrepareOptions
from dermssl.prepare.prepare import prepare

SHORT_SIDE = 384
PHOTO = (4000, 3000)
TINY = (48, 36)
DISTINCT = 8


def make_photo(number: int, folder: Path, size: tuple[int, int]) -> None:
    """A JPEG of the weight of a phone's: soft shapes under sensor noise, quality 90 (12 megapixels: 3 MB)."""
    random = np.random.default_rng(number)
    shapes = Image.fromarray(random.integers(60, 220, (24, 32, 3), dtype=np.uint8))
    soft = np.asarray(shapes.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    noise = 4 * random.standard_normal((*soft.shape[:2], 1), dtype=np.float32)
    picture = Image.fromarray((soft + noise).clip(0, 255).astype(np.uint8))
    picture.save(folder / f"{number:06d}.jpg", quality=90)


def plain(file: Path) -> int:
    """Pillow's decode and resize at their leanest: most data loaders make a copy with ``convert("RGB")`` too."""
    with Image.open(file) as image:
        scale = SHORT_SIDE / min(image.size)
        return image.resize((round(image.width * scale), round(image.height * scale))).width


def thumbnail(file: Path) -> int:
    """Pillow's own short cut: the decoder leaves out detail that the small picture cannot show."""
    with Image.open(file) as image:
        scale = SHORT_SIDE / min(image.size)
        image.thumbnail((round(image.width * scale), round(image.height * scale)))
        return image.width


def loop(step: Callable[[Path], int], folder: Path, workers: int) -> None:
    """``step`` over every file, in ``workers`` processes."""
    with process_map(workers) as in_processes:
        for _ in in_processes(step, sorted(folder.iterdir())):
            pass


def whole_prepare(folder: Path, workers: int) -> None:
    """The command itself, written beside the photos and thrown away."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        prepare(PrepareOptions(source="folder", root=str(folder), out=f"{out}/data", workers=workers))


def compare_speed(folder: Path, images: int, repeats: int, cores: int) -> None:
    """Every way in turn, ``repeats`` times; prints medians, and ratios to Pillow's loop with as many processes."""
    ways = {
        f"{name}, {processes} process{'es' * (processes > 1)}": functools.partial(way, folder, processes)
        for processes in (1, cores)
        for name, way in (
            ("Pillow decode + resize", functools.partial(loop, plain)),
            ("Pillow thumbnail", functools.partial(loop, thumbnail)),
            ("dermssl prepare", whole_prepare),
        )
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), processor_seconds()
            way()
            rates[name].append(images / (time.perf_counter() - start))
            costs[name].append((processor_seconds() - cpu) / images)
    print("| | images/s | times Pillow's | CPU ms per image | of Pillow's CPU |")
    print("|---|---|---|---|---|")
    for name in ways:
        rate, cost = median(rates[name]), median(costs[name])
        base = "Pillow decode + resize," + name.partition(",")[2]
        speed, share = rate / median(rates[base]), cost / median(costs[base])
        print(f"| {name} | {rate:.1f} | {speed:.2f} | {1000 * cost:.0f} | 1/{1 / share:.2f} |")


def compare_memory(scratch: Path, sizes: list[int], cores: int) -> None:
    """Peak memory of the main process for data sets of several sizes, smallest first."""
    for images in sizes:
        folder = scratch / f"{images}"
        make_photos(folder, images, TINY, cores)
        before = memory_mib("VmRSS")
        with peak_memory() as peak:
            whole_prepare(folder, cores)
        print(f"{images} images: main process {before:.0f} MiB before, {before + peak.mib:.0f} MiB at its peak")


def make_photos(folder: Path, images: int, size: tuple[int, int], cores: int) -> None:
    """Fill ``folder`` with that many photos: the first few generated, the others copies, which no step can tell."""
    folder.mkdir()
    with process_map(cores) as in_processes:
        list(in_processes(functools.partial(make_photo, folder=folder, size=size), range(min(DISTINCT, images))))
    for number in range(DISTINCT, images):
        shutil.copy(folder / f"{number % DISTINCT:06d}.jpg", folder / f"{number:06d}.jpg")


def main() -> None:
    """Measure what is asked for and print it with the machine's load before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", metavar="IMAGES", help="measure memory at these sizes instead")
    options = parser.parse_args()
    cores = available_cores()
    print("\n".join(describe()))
    print(f"- Pillow {pillow_version}, libjpeg-turbo {features.version('libjpeg_turbo')}\n")
    with tempfile.TemporaryDirectory() as scratch:
        if options.memory:
            compare_memory(Path(scratch), sorted(options.memory), cores)
        else:
            folder = Path(scratch) / "photos"
            make_photos(folder, options.images, PHOTO, cores)
            megabytes = sum(file.stat().st_size for file in folder.iterdir()) / options.images / 1e6
            print(
                f"{options.images} JPEGs of {PHOTO[0]} x {PHOTO[1]}, {megabytes:.1f} MB each, store at {SHORT_SIDE}\n"
            )
            compare_speed(folder, options.images, options.repeats, cores)
    print(f"\nLoad after the run: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
