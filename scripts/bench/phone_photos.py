"""Photographs as large as a phone's, for speed comparisons: 12-megapixel JPEGs, each under several names.

    python scripts/bench/phone_photos.py OUT [--distinct 640] [--copies 6]

OUT/distinct/photos holds the distinct files, OUT/many/photos hard links to them, for loaders that need more files in an
epoch. One folder more lies between because loaders take it as the class.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from views import PHOTO, make_jpegs

from dermssl.parallel import available_cores


def main() -> None:
    """Make both folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--distinct", type=int, default=640)
    parser.add_argument("--copies", type=int, default=6)
    options = parser.parse_args()
    distinct, many = (options.out / name / "photos" for name in ("distinct", "many"))
    many.mkdir(parents=True)
    cores = available_cores()
    shares = [range(options.distinct)[core::cores] for core in range(cores)]
    parts = [options.out / "distinct" / f"part{core}" for core in range(cores)]
    with ProcessPoolExecutor(cores) as pool:
        made = list(pool.map(make_jpegs, parts, map(len, shares), [PHOTO] * cores, range(cores)))
    distinct.mkdir()
    for share, paths, part in zip(shares, made, parts, strict=True):
        for index, path in zip(share, paths, strict=True):
            photo = path.rename(distinct / f"{index:05d}.jpg")
            for copy in range(options.copies):
                (many / f"{index:05d}_{copy:02d}.jpg").hardlink_to(photo)
        part.rmdir()


if __name__ == "__main__":
    main()
