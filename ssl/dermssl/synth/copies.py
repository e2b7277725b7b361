"""Planted duplicates: patients who stand in the tables a second time under a new id, with copies of their photos."""

import io
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps

from dermssl.synth.patients import synthetic_id

KINDS = ("re-saved", "re-photographed", "flipped")


class Copy(NamedTuple):
    """One planted photo: ``file`` shows what ``original_file`` shows. Both are names below ``images/``."""

    original: str
    duplicate: str
    kind: str
    original_file: str
    duplicate_file: str


def plan_copies(
    labels: pd.DataFrame, photos: np.ndarray, splits: pd.DataFrame, count: int, random: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame, list[Copy]]:
    """New label rows, new split rows and the photos to copy, for ``count`` patients taken at random.

    The kinds take turns. Every second new record stands on the other side of the split than its original, so that
    some leak from TRAIN to TEST and some do not. A record gets one to all of the original's photos.
    """
    chosen = random.permutation(len(labels))[: min(count, len(labels))]
    rows = labels.iloc[chosen].copy()
    first = 1 + sum(labels["subject_id"].str.startswith("SYN"))
    rows["subject_id"] = [synthetic_id(first + number) for number in range(len(rows))]
    side_of = dict(zip(splits["subject_id"], splits["Split"], strict=True))
    sides, copies = [], []
    for turn, (row, duplicate) in enumerate(zip(chosen, rows["subject_id"], strict=True)):
        original = labels["subject_id"].iloc[row]
        side = side_of.get(original, "TRAIN")
        sides.append({"TRAIN": "TEST", "TEST": "TRAIN"}[side] if (turn // len(KINDS)) % 2 == 0 else side)
        taken = random.permutation(photos[row])[: random.integers(1, photos[row] + 1)]
        copies += [
            Copy(original, duplicate, KINDS[turn % len(KINDS)], photo_name(original, n), photo_name(duplicate, i))
            for i, n in enumerate(sorted(taken.tolist()))
        ]
    return rows, pd.DataFrame({"subject_id": rows["subject_id"], "Split": sides}), copies


def photo_name(subject_id: str, number: int) -> str:
    """File name of photo ``number`` (from 0) of a patient, below ``images/``."""
    return f"{subject_id}_{number + 1}.jpg"


def copy_photo(jpeg: bytes, kind: str, random: np.random.Generator) -> bytes:
    """A near-duplicate of one JPEG: encoded anew, photographed off a screen or print, or mirrored."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    if kind == "re-photographed":
        turned = image.rotate(float(random.uniform(-5, 5)), Image.Resampling.BICUBIC)
        # 5 degrees on a 4:3 picture leave the corners of anything above 0.87 of the frame empty.
        share, (width, height) = random.uniform(0.80, 0.86), image.size
        left, top = (1 - share) * width / 2, (1 - share) * height / 2
        cropped = turned.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, width - left, height - top))
        image = ImageEnhance.Brightness(cropped).enhance(float(random.uniform(0.85, 1.15)))
    elif kind == "flipped":
        image = ImageOps.mirror(image)
    return encode_photo(image, int(random.integers(55, 86)))


def encode_photo(image: Image.Image, quality: int) -> bytes:
    """JPEG as a telephone saves it: chroma subsampled."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
