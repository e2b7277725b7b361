"""Whether two stored pictures are copies of each other, told by their fine structure once one is turned to the other.

Perceptual hashes see the coarse layout only, which two lesions may share. A copy that was saved again, resized, turned
or mirrored shares its hairs, pores and edges too; two lesions do not.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

SIDE = 128
"""Side of the square grey pictures that are compared, pixels."""
BLOCK = 16
MOST_SHIFT = 3
"""Pixels by which the two may be displaced."""
COPY_CORRELATION = 0.25
"""Correlation from which two pictures are copies.

Measured at 256 px: HAM10000 has 3,541 pairs of different lesions with hashes within 8 bits. One of them is one
photograph under two names and has 0.90; no other has more than 0.17. Of 60 images each of HAM10000 and PAD-UFES-20,
saved again (JPEG 60), halved, turned or mirrored, none has less than 0.33."""


def copy_correlation(one: Image.Image, other: Image.Image, view: int) -> float:
    """Correlation of the fine structure of ``one`` and of ``view`` of ``other``: the median over blocks, -1 to 1.

    ``view`` is 0-7, see `dermssl.dataset.hashes.perceptual_hashes`. The best displacement of up to `MOST_SHIFT` counts.
    """
    side = (SIDE - 2 * MOST_SHIFT) // BLOCK * BLOCK
    shifted = np.lib.stride_tricks.sliding_window_view(_structure(other, view), (side, side))
    shifted = _blocks(shifted[: 2 * MOST_SHIFT + 1, : 2 * MOST_SHIFT + 1])
    fixed = _blocks(_structure(one, 0)[MOST_SHIFT:, MOST_SHIFT:][:side, :side])
    norms = np.linalg.norm(fixed, axis=-1) * np.linalg.norm(shifted, axis=-1)
    products = np.einsum("bp,yxbp->yxb", fixed, shifted)
    return float(np.median(products / np.maximum(norms, 1e-9), axis=-1).max())


def _structure(image: Image.Image, view: int) -> np.ndarray:
    """A square grey picture without its coarse light and shade, ``(S, S)``, turned as the hash's ``view`` is."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0), np.float32)
    turned = np.rot90(grey if view < 4 else grey[:, ::-1], view % 4)
    return ndimage.gaussian_filter(turned, 0.8) - ndimage.gaussian_filter(turned, 2.0)


def _blocks(pictures: np.ndarray) -> np.ndarray:
    """Square blocks of pictures ``(..., S, S)`` as rows of mean 0, ``(..., blocks, pixels)``."""
    *many, side, _ = pictures.shape
    split = pictures.reshape(*many, side // BLOCK, BLOCK, side // BLOCK, BLOCK).swapaxes(-3, -2)
    rows = split.reshape(*many, -1, BLOCK**2)
    return rows - rows.mean(-1, keepdims=True)
