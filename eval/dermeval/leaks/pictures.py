"""The place of the audited images, and their pixels."""

import functools
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dermssl.dataset.store import ImageStore

MOST_ENLARGED = 2.0


class Picture(NamedTuple):
    """The place of an image: dataset folder and row, in the ``version`` of the image store that was opened."""

    folder: Path
    row: int
    version: str


def pixels(picture: Picture) -> np.ndarray:
    """The stored image, ``(H, W, 3)`` uint8 RGB."""
    return np.asarray(store_of(picture.folder, picture.version).image(picture.row).convert("RGB"))


def grey_picture(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """The picture in grey with this short side, ``(H, W)`` uint8, enlarged at most `MOST_ENLARGED` times."""
    grey, size = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), grey_size(rgb, short_side)
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if size[0] < rgb.shape[1] else cv2.INTER_CUBIC)


def grey_size(rgb: np.ndarray, short_side: int) -> tuple[int, int]:
    """Width and height of `grey_picture`."""
    scale = min(short_side / min(rgb.shape[:2]), MOST_ENLARGED)
    return max(8, round(rgb.shape[1] * scale)), max(8, round(rgb.shape[0] * scale))


@functools.cache
def store_of(folder: Path, version: str) -> ImageStore:
    """The image store of a dataset folder, opened once. Its images raise InputError if it has another version now."""
    return ImageStore(folder, version)
