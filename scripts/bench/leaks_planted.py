"""Plants copies of real images under new patient ids and measures what ``dermeval leaks`` finds of them.

    python scripts/bench/leaks_planted.py --source pad_ufes_20 --root RAW --work DIR [--encoder random:resnet18]

Every kind of copy is made of other images, so that a kind's recall is its own. Results are in results/leaks_planted.md.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image, ImageEnhance

from dermeval.cli import main as dermeval
from dermssl.cli import main as dermssl

TABLES = {
    "pad_ufes_20": ("metadata.csv", "patient_id", "img_id"),
    "ham10000": ("HAM10000_metadata.csv", "lesion_id", "image_id"),
}


def rephotograph(image: Image.Image, degrees: float, crop: float, light: float) -> Image.Image:
    """A picture of the picture: turned, without its border, in another light, enlarged back to its size."""
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    left, top = round(image.width * crop), round(image.height * crop)
    inner = turned.crop((left, top, image.width - left, image.height - top))
    return ImageEnhance.Brightness(inner.resize(image.size, Image.Resampling.BICUBIC)).enhance(light)


KINDS: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "re-saved q60": (lambda image: image, 60),
    "half size": (lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC), 85),
    "flipped": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 85),
    "quarter turn": (lambda image: image.transpose(Image.Transpose.ROTATE_90), 85),
    "re-photographed 8 deg, crop 10%": (lambda image: rephotograph(image, 8, 0.05, 1.15), 80),
    "re-photographed -12 deg, crop 20%": (lambda image: rephotograph(image, -12, 0.10, 0.85), 70),
    "re-photographed 5 deg, crop 30%, flipped": (
        lambda image: rephotograph(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), 5, 0.15, 1.2),
        80,
    ),
}


def plant(source: str, root: Path, out: Path, each: int, seed: int) -> None:
    """A copy of the raw set in ``out`` with ``each`` planted copies per kind, and ``truth.csv``."""
    name, group, image = TABLES[source]
    table = pd.read_csv(root / name, dtype=str, keep_default_na=False)
    files = {path.stem: path for path in root.rglob("*.jpg")}
    chosen = (
        table[table[image].map(lambda i: Path(i).stem in files)]
        .drop_duplicates(group)
        .sample(each * len(KINDS), random_state=seed)
    )
    rows, truth = [], []
    shutil.copytree(root, out)
    (out / "planted").mkdir()
    for number, row in enumerate(chosen.to_dict("records")):
        kind = list(KINDS)[number // each]
        change, quality = KINDS[kind]
        change(Image.open(files[Path(row[image]).stem]).convert("RGB")).save(
            out / "planted" / f"COPY_{number:04d}.jpg", quality=quality
        )
        rows.append(row | {group: f"COPY_{number:04d}", image: f"COPY_{number:04d}.jpg"})
        truth.append({"subject_id": row[group], "duplicate_subject_id": f"COPY_{number:04d}", "kind": kind})
    pd.concat([table, pd.DataFrame(rows)]).to_csv(out / name, index=False)
    pd.DataFrame(truth).to_csv(out / "truth.csv", index=False)


def main() -> None:
    """Plant, prepare, embed and audit; the last command prints the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=TABLES, required=True)
    parser.add_argument("--root", type=Path, required=True, help="raw data set")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for everything made on the way; must not exist"
    )
    parser.add_argument("--encoder", default="random:resnet18", help="as for dermeval embed")
    parser.add_argument("--image-size", default="64", help="as for dermeval embed")
    parser.add_argument("--views", nargs="*", default=[], help="as for dermeval embed")
    parser.add_argument("--each", type=int, default=15, help="planted copies per kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    raw, data, embeddings, audit = (str(options.work / name) for name in ("raw", "data", "embeddings", "leaks"))
    plant(options.source, options.root, Path(raw), options.each, options.seed)
    encoder = ["--encoder", options.encoder, "--image-size", options.image_size]
    encoder += ["--views", *options.views] if options.views else []
    sys.exit(
        dermssl(["prepare", "--source", options.source, "--root", raw, "--out", data])
        or dermeval(["embed", *encoder, "--data", data, "--out", embeddings])
        or dermeval(["leaks", embeddings, "--out", audit, "--truth", f"{raw}/truth.csv"])
    )


if __name__ == "__main__":
    main()
