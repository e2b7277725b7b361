"""Makes a stand-in of a large pooled data set: pictures that are no near-duplicates, and known copies among them.

    python scripts/bench/leaks_stand_in.py DATA [DATA ...] --out RAW --images 100000
    dermssl prepare --source folder --root RAW --out standin --short-side 224

Each picture has the colours and the large forms of two real images of the dataset folders, mixed by a random mask, and
fine detail with the spectrum of a third one but with random phases, so that its local features are its own. Some have
hairs. Two pictures may share the large forms of a real image. All are JPEGs of 160 to 224 px. Picture 199 of every 200
is a copy of picture 99 (`dermeval.leaks.planted.KINDS` in turn); ``copies.csv`` beside the pictures names both, the
kind and the severity.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

from dermeval.leaks.planted import KINDS, copy_of
from dermssl.dataset.dataset import open_dataset

FIELD = (256, 320)
"""Height and width of the field of detail, which each picture takes a part of."""
SPECTRA = 400
COPY_EVERY, COPY_OF = 200, 99
MOST_SEVERE = 0.7


def spectrum(rgb: np.ndarray) -> np.ndarray:
    """Amplitudes of the fine detail of a picture, ``(256, 161)`` float32."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 6.0)
    below, right = (max(0, wanted - side) for wanted, side in zip(FIELD, detail.shape, strict=True))
    whole = cv2.copyMakeBorder(detail, 0, below, 0, right, cv2.BORDER_REFLECT)[: FIELD[0], : FIELD[1]]
    return np.abs(np.fft.rfft2(whole)).astype(np.float32)


def large_forms(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random part of a picture in a random orientation, ``(24, 24, 3)`` float32."""
    side = round(min(rgb.shape[:2]) * random.uniform(0.6, 1))
    top, left = (random.integers(whole - side + 1) for whole in rgb.shape[:2])
    part = np.rot90(rgb[top : top + side, left : left + side], int(random.integers(4)))
    return cv2.resize(np.ascontiguousarray(part), (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32)


def picture(number: int, real: list[np.ndarray], spectra: list[np.ndarray]) -> np.ndarray:
    """One picture, ``(H, W, 3)`` uint8."""
    random = np.random.default_rng(number)
    short, ratio = int(random.integers(160, 225)), random.choice([1.0, 4 / 3])
    width, height = round(short * ratio), short
    one, other = (large_forms(real[random.integers(len(real))], random) for _ in range(2))
    mask = cv2.resize(random.normal(0.5, 0.7, (4, 4)).astype(np.float32), (24, 24), interpolation=cv2.INTER_CUBIC)
    mask = np.clip(mask, 0, 1)[:, :, None]
    forms = cv2.resize(one * mask + other * (1 - mask), (width, height), interpolation=cv2.INTER_CUBIC)
    amplitudes = spectra[random.integers(len(spectra))]
    phases = random.random(amplitudes.shape, np.float32) * np.float32(2 * np.pi)
    field = np.fft.irfft2(amplitudes * np.exp(1j * phases), FIELD).astype(np.float32)[:height, :width]
    strength = cv2.resize(random.uniform(0.3, 1.9, (5, 5)).astype(np.float32), (width, height))
    rgb = np.clip(forms + (field * strength)[:, :, None], 0, 255).astype(np.uint8)
    if random.random() < 0.4:
        colour = random.integers(20, 90, 3).tolist()
        for _ in range(random.integers(2, 25)):
            start, middle, end = random.uniform(-0.1, 1.1, (3, 2)) * (width, height)
            t = np.linspace(0, 1, 12)[:, None]
            curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * (0.6 * middle + 0.2 * (start + end)) + t**2 * end
            cv2.polylines(rgb, [np.rint(curve * 8).astype(np.int32)], False, colour, 1, cv2.LINE_AA, 3)
    return rgb


def main() -> None:
    """Write the pictures and ``copies.csv``; what is there already is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="dataset folders of real images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    stores = [open_dataset(folder).images for folder in options.data]
    real = [np.asarray(store.image(row)) for store in stores for row in range(len(store))]
    chosen = np.random.default_rng(0).permutation(len(real))[:SPECTRA]
    spectra = [spectrum(real[row]) for row in chosen]
    (options.out / "skin").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(options.images):
        path = options.out / "skin" / f"{number:06d}.jpg"
        source, original = number, number - number % COPY_EVERY + COPY_OF
        copied = number % COPY_EVERY == COPY_EVERY - 1
        if copied:
            severity = float(np.random.default_rng(number).uniform(0, MOST_SEVERE))
            kind, source = list(KINDS)[number // COPY_EVERY % len(KINDS)], original
            rows.append([f"{original:06d}", f"{number:06d}", kind, round(severity, 3)])
        if not path.is_file():
            rgb = picture(source, real, spectra)
            rgb = copy_of(rgb, kind, severity, number) if copied else rgb
            cv2.imwrite(str(path), rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    with (options.out / "copies.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["original", "copy", "kind", "severity"], *rows])


if __name__ == "__main__":
    main()
