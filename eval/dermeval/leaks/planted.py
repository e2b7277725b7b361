"""Planted copies: audited images with the changes of real copies, to measure which of them would be confirmed.

Each copy is compared with its original. Whether the search for candidates would nominate the pair is not measured.
"""

import functools
import io
from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from dermeval.features import alignment
from dermeval.leaks import certainty
from dermeval.leaks.local_features import Detail, describe_picture
from dermeval.leaks.matching import local_of
from dermeval.leaks.pictures import Picture, content, without_frame
from dermeval.leaks.verify import EVIDENCE, compare_colours, compare_pictures
from dermssl.parallel import process_map

LEAST_SIDE = 16
"""Short side, in pixels, of the smallest image that copies are made of."""


def resized(rgb: np.ndarray, scale: float) -> np.ndarray:
    """The picture with each side ``scale`` times as long."""
    return cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def crop(rgb: np.ndarray, severity: float, random: np.random.Generator) -> np.ndarray:
    """Crop at a random position, with 90% to 50% of each side."""
    share = 0.9 - 0.4 * severity
    height, width = (round(side * share) for side in rgb.shape[:2])
    top, left = random.integers(rgb.shape[0] - height + 1), random.integers(rgb.shape[1] - width + 1)
    return rgb[top : top + height, left : left + width]


def rotate(rgb: np.ndarray, severity: float, random: np.random.Generator) -> np.ndarray:
    """Turn by 5 to 45 degrees either way after a random quarter turn; edge pixels fill the corners."""
    angle = (5 + 40 * severity) * random.choice([-1, 1])
    turned = np.rot90(rgb, int(random.integers(4)))
    height, width = turned.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    return cv2.warpAffine(
        np.ascontiguousarray(turned), matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


def mirror(rgb: np.ndarray, severity: float, random: np.random.Generator) -> np.ndarray:
    """Mirror left to right; above severity 0.3 also crop."""
    return crop(rgb[:, ::-1], severity / 2, random) if severity > 0.3 else rgb[:, ::-1]


def colour(rgb: np.ndarray, severity: float, random: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and white balance."""
    gain = 1 + severity * 0.4 * random.uniform(-1, 1, 3)
    offset = 40 * severity * random.uniform(-1, 1)
    return np.clip(rgb * gain + offset, 0, 255).astype(np.uint8)


def watermark(rgb: np.ndarray, severity: float, random: np.random.Generator) -> np.ndarray:
    """Write letters across the picture."""
    marked, size = rgb.copy(), min(rgb.shape[:2]) / 200 * (1 + severity)
    for line in range(1, 2 + round(2 * severity)):
        place = (int(rgb.shape[1] * 0.05), int(rgb.shape[0] * line / (2 + round(2 * severity))))
        thick = max(1, round(2 * size))
        cv2.putText(marked, "COPYRIGHT", place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), thick)
    return cv2.addWeighted(marked, 0.5 + 0.4 * severity, rgb, 0.5 - 0.4 * severity, 0)


def border(rgb: np.ndarray, severity: float, random: np.random.Generator) -> np.ndarray:
    """Add a black or white frame, 5% to 20% of the short side wide."""
    wide = round(min(rgb.shape[:2]) * (0.05 + 0.15 * severity))
    value = [int(v) for v in random.choice([0, 255]) * np.ones(3)]
    return cv2.copyMakeBorder(rgb, wide, wide, wide, wide, cv2.BORDER_CONSTANT, value=value)


def screenshot(rgb: np.ndarray, severity: float, random: np.random.Generator) -> np.ndarray:
    """Show the picture in a window with a bar, at another size."""
    height, width = rgb.shape[:2]
    page = np.full((round(height * 1.3), round(width * (1.1 + 0.6 * severity)), 3), 240, np.uint8)
    page[: height // 10] = 60
    left = int(random.integers(page.shape[1] - width + 1))
    top = page.shape[0] - height - height // 20
    page[top : top + height, left : left + width] = rgb
    return _jpeg(resized(page, 0.9 - 0.5 * (0.2 + 0.3 * severity)), 80)


def photo_of_screen(rgb: np.ndarray, severity: float, random: np.random.Generator) -> np.ndarray:
    """Photograph a screen: perspective, uneven light, a little blur, stripes."""
    height, width = rgb.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + random.uniform(-1, 1, (4, 2)) * (0.03 + 0.09 * severity) * min(height, width)
    matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    seen = cv2.warpPerspective(rgb, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    stripes = 6 * severity * np.sin(np.arange(height) * random.uniform(0.8, 2.5))[:, None, None]
    lit = np.linspace(1 - 0.25 * severity, 1 + 0.15 * severity, width)[None, :, None]
    seen = cv2.GaussianBlur(np.clip(seen * lit + stripes, 0, 255).astype(np.uint8), (0, 0), 0.5 + 0.5 * severity)
    return _jpeg(seen, 75)


KINDS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "re-saved": lambda rgb, severity, _: _jpeg(rgb, round(90 - 60 * severity)),
    "resized": lambda rgb, severity, _: resized(rgb, 0.9 - 0.5 * severity),
    "cropped": crop,
    "rotated": rotate,
    "mirrored": mirror,
    "blurred": lambda rgb, severity, _: cv2.GaussianBlur(rgb, (0, 0), min(rgb.shape[:2]) * (0.004 + 0.008 * severity)),
    "other colours": colour,
    "watermark": watermark,
    "border": border,
    "screenshot": screenshot,
    "photo of a screen": photo_of_screen,
}
"""The kinds of copies. Each function takes a picture, a severity from 0 to 1 and a random generator."""


def scores_of_planted(pictures: list[Picture], count: int, detail: Detail, workers: int) -> pd.DataFrame:
    """Scores of ``count`` copies against their originals: ``kind`` (in turn), ``severity``, ``score``."""
    random = np.random.default_rng(0)
    rows = random.integers(len(pictures), size=count)
    tasks = [
        (list(KINDS)[number % len(KINDS)], float(random.uniform()), pictures[row], number, detail)
        for number, row in enumerate(rows)
    ]
    with process_map(workers if len(tasks) > 32 else 1) as run:
        done = tqdm(run(_planted_evidence, tasks), "planted copies", len(tasks), unit="copy", disable=None, leave=False)
        made = [(task[:2], found) for task, found in zip(tasks, done, strict=True) if found is not None]
    evidence = np.array([found for _, found in made], EVIDENCE)
    scores = certainty.world_scores(evidence).max(axis=1, initial=0)
    return pd.DataFrame([kind for kind, _ in made], columns=["kind", "severity"]).assign(score=scores)


def copy_of(rgb: np.ndarray, kind: str, severity: float, seed: int) -> np.ndarray:
    """A copy of one kind, ``(h, w, 3)`` uint8."""
    return np.ascontiguousarray(KINDS[kind](rgb, severity, np.random.default_rng(seed)))


def _planted_evidence(task: tuple[str, float, Picture, int, Detail]) -> np.ndarray | None:
    """The evidence of a copy against its original; None for an image too small to be changed in all ways."""
    cv2.setNumThreads(1)
    kind, severity, picture, seed, detail = task
    rgb = content(picture)
    if min(rgb.shape[:2]) < LEAST_SIDE:
        return None
    pictures = (rgb, without_frame(copy_of(rgb, kind, severity, seed)))
    described = [describe_picture(picture, detail) for picture in pictures]
    structures = [functools.partial(alignment.structure, picture) for picture in pictures]
    found = compare_pictures(local_of(described[0]), local_of(described[1]), structures)[None]
    compare_colours(found, np.array([[0, 1]]), np.stack(described))
    return found[0]


def _jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(Image.open(io.BytesIO(data.tobytes())))
