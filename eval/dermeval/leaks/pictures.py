"""The place of the audited images, and their pixels."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dermssl.dataset.store import ImageStore

ONE_COLOUR = 10
"""Grey levels by which the pixels of a row or column of one colour differ, in each channel. Of 7,300 photographs of
HAM10000 and PAD-UFES-20 (160 px), three have such rows or columns at an edge."""
LEAST_EDGE, LEAST_INSIDE = 0.5, 0.2
"""A frame ends where so much of a row or column has another colour; text on a page is less. Within the frame lies at
least so much of each side, as of a wide photograph on an upright phone. Otherwise nothing is cut off."""
BLURRED = 10
"""Rows over which the compression of a JPEG, in squares of 8 pixels, may blur the edge."""


class Picture(NamedTuple):
    """The place of an image: dataset folder and row, in the ``version`` of the image store that was opened."""

    folder: Path
    row: int
    version: str


def pixels(picture: Picture) -> np.ndarray:
    """The stored image, ``(H, W, 3)`` uint8 RGB."""
    return np.asarray(store_of(picture.folder, picture.version).image(picture.row).convert("RGB"))


def content(picture: Picture) -> np.ndarray:
    """The stored image without an even frame, as pictures are compared."""
    return without_frame(pixels(picture))


def without_frame(rgb: np.ndarray) -> np.ndarray:
    """The part of ``rgb`` (H, W, 3) inside an even frame, such as black bars, a white margin, or a page around it.

    Rows and columns of one colour at the edges are cut off. Else two photographs in one frame would be alike, and a
    photograph would differ from its copy in a frame.
    """
    inside, size = rgb, None
    while size != inside.shape:
        size = inside.shape
        for _ in range(4):  # the upper edge of each quarter turn
            inside = np.rot90(inside[_frame_above(inside) :])
    sides = [after / before for after, before in zip(inside.shape[:2], rgb.shape[:2], strict=True)]
    return inside if LEAST_INSIDE <= min(sides) < 1 else rgb


def _frame_above(rgb: np.ndarray) -> int:
    """The number of rows of one colour at the upper edge, 0 if what follows is no straight edge of a picture."""
    if np.ptp(rgb[0], axis=0).max() > ONE_COLOUR:
        return 0
    ranges = [np.ptp(rgb[:, :, channel], axis=1) for channel in range(3)]  # 7 times as fast as all channels at once
    rows = int((np.max(ranges, axis=0) > ONE_COLOUR).argmax())
    following = np.abs(rgb[rows : rows + BLURRED].astype(np.int16) - rgb[max(rows - 1, 0)]).max(axis=2) > ONE_COLOUR
    edge = following.mean(axis=1) >= LEAST_EDGE
    return rows + int(edge.argmax()) if edge.any() else 0


@functools.cache
def store_of(folder: Path, version: str) -> ImageStore:
    """The image store of a dataset folder, opened once. Its images raise InputError if it has another version now."""
    return ImageStore(folder, version)
