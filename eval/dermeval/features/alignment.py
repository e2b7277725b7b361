"""Whether the fine structures of two pictures coincide when one picture is laid on the other.

Two lesions may look alike as a whole, but hairs, pores and pigment coincide only if both pictures show one scene.
OpenCV's ECC (Evangelidis & Psarakis 2008) refines an initial map; then small blocks are correlated.
"""

from typing import NamedTuple

import cv2
import numpy as np

from dermeval.features.letters import without_letters

SHORT_SIDE = 128
BLOCK = 16
LEAST_BLOCKS, LEAST_VISIBLE = 6, 0.75
"""So many blocks are needed. Of each block, so much must be hidden in neither picture."""
FLAT = 0.5
"""Contrast, in grey levels, that is added to the local contrast so that noise is not amplified."""
STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
LARGEST_CHANGE = 4.0
"""A map that enlarges or shrinks the picture more than this factor is no alignment."""
MOST_ENLARGED = 2.0
SCENE_CORRELATION = 0.4
"""From this correlation of the aligned structure on two pictures show one scene; below it, at most one lesion."""


class Aligned(NamedTuple):
    """Median correlation of the blocks, the share of the first picture that the second covers, the map ``(2, 3)``."""

    correlation: float
    overlap: float
    matrix: np.ndarray | None


def same_scene(first: np.ndarray, second: np.ndarray, orientation: int) -> bool:
    """Whether a picture and another one in this ``orientation`` (see `oriented_start`) are copies of one photograph.

    Perceptual hashes compare the coarse layout, which two lesions may share. Of the 3,541 pairs of different lesions of
    HAM10000 (160 px) whose hashes differ by at most 8 bits, one is the same photograph under two names, with a
    correlation of 0.92; the others have at most 0.26. Copies of 60 images each of HAM10000 and PAD-UFES-20, saved again
    (JPEG 60), halved, turned or mirrored, have at least 0.62.
    """
    ours, theirs = structure(first), structure(second)
    theirs = np.ascontiguousarray(theirs[:, ::-1]) if orientation >= 4 else theirs
    return align(ours, theirs, oriented_start(orientation, ours.shape, theirs.shape)).correlation >= SCENE_CORRELATION


def structure(rgb: np.ndarray, hidden: np.ndarray | None = None) -> np.ndarray:
    """Details between two scales with equalised local contrast, ``(H, W)`` float32, NaN in the ``hidden`` cells.

    Light, colour and the shape of a lesion are removed, and the rim of a dermatoscope does not outweigh the rest.
    ``hidden`` (16, 16) bool are squares of the picture that do not count.
    """
    grey = grey_picture(without_letters(rgb), SHORT_SIDE).astype(np.float32)
    details = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 4.0)
    contrast = np.sqrt(cv2.GaussianBlur(details**2, (0, 0), 6.0))
    even = details / (contrast + FLAT)
    if hidden is not None:
        even[cv2.resize(hidden.astype(np.uint8), even.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0] = np.nan
    return even


def oriented_start(orientation: int, first: tuple[int, int], second: tuple[int, int]) -> np.ndarray:
    """The map ``(2, 3)``, in pixels, of a quarter turn about the centres of two pictures of these heights and widths.

    ``orientation`` is 0 to 7 as in `dermssl.dataset.hashes.perceptual_hashes`; from 4 on the second is mirrored.
    """
    angle = np.deg2rad(90.0 * (orientation % 4))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centres = [np.array([(width - 1) / 2, (height - 1) / 2]) for height, width in (first, second)]
    return np.column_stack([turn, centres[1] - turn @ centres[0]])


def align(first: np.ndarray, second: np.ndarray, start: np.ndarray) -> Aligned:
    """Refine the pixel map ``start`` (2, 3) between two `structure` pictures, and correlate their blocks.

    If the orientation of the start is mirrored, ``second`` is already mirrored.
    """
    found = correlate(first, second, start)
    if found.matrix is None:
        return found
    ours, theirs, shown = np.nan_to_num(first), np.nan_to_num(second), 255 * (~np.isnan(second)).astype(np.uint8)
    try:
        _, refined = cv2.findTransformECC(ours, theirs, start.astype(np.float32), cv2.MOTION_AFFINE, STEPS, shown, 5)
    except cv2.error:  # ECC did not converge
        return found
    if 1 / LARGEST_CHANGE < abs(np.linalg.det(refined[:, :2])) < LARGEST_CHANGE**2:
        found = max(found, correlate(first, second, refined), key=lambda aligned: aligned.correlation)
    return found


def correlate(first: np.ndarray, second: np.ndarray, matrix: np.ndarray) -> Aligned:
    """Median correlation of the blocks of the first picture that the mapped second picture covers."""
    size, flags = first.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = np.asarray(matrix, np.float32)
    seen = cv2.warpAffine(second, matrix, size, flags=flags)
    inside = cv2.warpAffine(np.ones_like(second), matrix, size, flags=flags)
    visible = ~(np.isnan(first) | np.isnan(seen))
    shown = square_blocks(visible, BLOCK)
    covered = (square_blocks(inside, BLOCK).mean(axis=1) > 0.95) & (shown.mean(axis=1) >= LEAST_VISIBLE)
    if covered.sum() < LEAST_BLOCKS:
        return Aligned(0.0, 0.0, None)
    shown = shown[covered]
    pixels = shown.sum(axis=1)
    ours, theirs = (square_blocks(np.where(visible, part, 0), BLOCK)[covered] for part in (first, seen))
    ours, theirs = (np.where(shown, part - (part.sum(axis=1) / pixels)[:, None], 0) for part in (ours, theirs))
    norms = np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum(axis=1))
    # The constant keeps the correlation of flat blocks near 0: only structure in both pictures is evidence.
    correlations = (ours * theirs).sum(axis=1) / (norms + pixels * 0.01)
    return Aligned(float(np.median(correlations)), float(np.where(visible, inside, 0).mean()), matrix)


def grey_picture(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """The picture in grey with this short side, ``(H, W)`` uint8, enlarged at most `MOST_ENLARGED` times."""
    grey, size = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), grey_size(rgb, short_side)
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if size[0] < rgb.shape[1] else cv2.INTER_CUBIC)


def grey_size(rgb: np.ndarray, short_side: int) -> tuple[int, int]:
    """Width and height of `grey_picture`."""
    scale = min(short_side / min(rgb.shape[:2]), MOST_ENLARGED)
    return max(8, round(rgb.shape[1] * scale)), max(8, round(rgb.shape[0] * scale))


def square_blocks(picture: np.ndarray, side: int) -> np.ndarray:
    """The blocks of ``side`` x ``side`` pixels of a picture ``(H, W)`` as rows, ``(blocks, pixels)``."""
    rows, columns = (length // side for length in picture.shape)
    cut = picture[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return cut.swapaxes(1, 2).reshape(rows * columns, side**2)
