"""Decides whether two stored images are copies, by their fine structure.

Perceptual hashes compare the coarse layout, which two lesions may share. A copy that was saved again, resized, turned
or mirrored also has the same hairs, pores and edges. Two lesions do not.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

SIDE = 128
"""Side of the square grey images that are compared, in pixels."""
BLOCK = 16
"""Side of the blocks whose correlations are computed, in pixels."""
MOST_SHIFT = 3
"""Pixels by which one image may be displaced against the other."""
COPY_CORRELATION = 0.25
"""From this correlation on, two images are copies.

Measured at 256 px: HAM10000 has 3,541 pairs of different lesions whose hashes differ by at most 8 bits. One pair is the
same photograph under two names, with a correlation of 0.90. The others have at most 0.17. Copies of 60 images each of
HAM10000 and PAD-UFES-20, saved again (JPEG 60), halved, turned or mirrored, have at least 0.33."""


def copy_correlation(one: Image.Image, other: Image.Image, view: int) -> float:
    """Correlation, -1 to 1, of the fine structures of ``one`` and of the ``view`` (0-7) of ``other``.

    Views are those of `perceptual_hashes`. The median over blocks counts, at the best shift of up to `MOST_SHIFT`.
    """
    side = (SIDE - 2 * MOST_SHIFT) // BLOCK * BLOCK
    shifted = np.lib.stride_tricks.sliding_window_view(_structure(other, view), (side, side))
    shifted = square_blocks(shifted[: 2 * MOST_SHIFT + 1, : 2 * MOST_SHIFT + 1], BLOCK)
    fixed = square_blocks(_structure(one, 0)[MOST_SHIFT:, MOST_SHIFT:], BLOCK)
    fixed, shifted = (part - part.mean(-1, keepdims=True) for part in (fixed, shifted))
    norms = np.linalg.norm(fixed, axis=-1) * np.linalg.norm(shifted, axis=-1)
    products = np.einsum("bp,yxbp->yxb", fixed, shifted)
    return float(np.median(products / np.maximum(norms, 1e-9), axis=-1).max())


def _structure(image: Image.Image, view: int) -> np.ndarray:
    """The fine structure of a square grey image in its ``view``, ``(SIDE, SIDE)``."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0), np.float32)
    turned = np.rot90(grey if view < 4 else grey[:, ::-1], view % 4)
    return ndimage.gaussian_filter(turned, 0.8) - ndimage.gaussian_filter(turned, 2.0)


def square_blocks(pictures: np.ndarray, side: int) -> np.ndarray:
    """The blocks of ``side`` x ``side`` pixels of images ``(..., H, W)`` as rows, ``(..., blocks, pixels)``."""
    *many, height, width = pictures.shape
    rows, columns = height // side, width // side
    cut = pictures[..., : rows * side, : columns * side].reshape(*many, rows, side, columns, side)
    return cut.swapaxes(-3, -2).reshape(*many, rows * columns, side**2)
