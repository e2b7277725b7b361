"""The place of the audited images, and their pixels."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dermssl.dataset.store import ImageStore

MOST_ENLARGED = 2.0
LETTERS_FROM, LETTERS_RISE, LETTERS_STROKE, LETTERS_SHARE = 205, 45, 0.02, 0.03
"""White letters (a watermark): the least brightness of each colour channel, its least rise above the surroundings,
the width of the strokes as a share of the short side, and the least share of the picture that letters cover."""


class Picture(NamedTuple):
    """The place of an image: dataset folder and row."""

    folder: Path
    row: int


def pixels(picture: Picture) -> np.ndarray:
    """The stored image, ``(H, W, 3)`` uint8 RGB."""
    return np.asarray(store_of(picture.folder).image(picture.row).convert("RGB"))


def grey_picture(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """The picture in grey with this short side, ``(H, W)`` uint8, enlarged at most `MOST_ENLARGED` times."""
    grey, size = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), grey_size(rgb, short_side)
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if size[0] < rgb.shape[1] else cv2.INTER_CUBIC)


def grey_size(rgb: np.ndarray, short_side: int) -> tuple[int, int]:
    """Width and height of `grey_picture`."""
    scale = min(short_side / min(rgb.shape[:2]), MOST_ENLARGED)
    return max(8, round(rgb.shape[1] * scale)), max(8, round(rgb.shape[0] * scale))


def without_letters(rgb: np.ndarray) -> np.ndarray:
    """The picture ``(H, W, 3)`` uint8 with white letters filled in from their surroundings; ``rgb`` if it has none.

    Letters hide the local features of a picture, and two pictures with one watermark would resemble each other.
    """
    side = min(rgb.shape[:2])
    darkest: Any = functools.reduce(np.minimum, cv2.split(rgb))
    around, stroke = np.ones((side // 14 * 2 + 1,) * 2, np.uint8), np.ones((max(2, round(LETTERS_STROKE * side)),) * 2)
    risen = cv2.morphologyEx(darkest, cv2.MORPH_TOPHAT, around) > LETTERS_RISE
    letters = ((darkest > LETTERS_FROM) & risen).astype(np.uint8)
    letters = cv2.morphologyEx(letters, cv2.MORPH_OPEN, stroke.astype(np.uint8))
    if letters.mean() < LETTERS_SHARE:
        return rgb
    edge = np.ones((side // 23 | 1,) * 2, np.uint8)
    return cv2.inpaint(np.ascontiguousarray(rgb), cv2.dilate(letters, edge), 3, cv2.INPAINT_TELEA)


@functools.cache
def store_of(folder: Path) -> ImageStore:
    """The image store of a dataset folder, opened once."""
    return ImageStore(folder)
