"""Whether two images show the same scene: align one to the other, then compare their fine structure block by block.

Two lesions may look alike as a whole; hairs, pores and pigment do not fall on each other unless both images come from
one photograph, from photographs of one print or screen, or from two photographs of one spot. The steps: a search over
flips, turns, sizes and shifts (`turns`), an affine Gauss-Newton refinement (after Lucas & Kanade 1981), and the median
correlation of small blocks.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

COARSE, MIDDLE, FINE = 48, 64, 128
"""Sides of the square pictures, pixels, of the search and of the two steps of refinement."""
BLOCK = 16
LEAST_BLOCKS = 10
FLAT = 0.5
"""Contrast, in grey levels, under which structure is taken for noise."""


class Look(NamedTuple):
    """The fine structure of an image's central square at three sizes, each ``(S, S)`` float32."""

    coarse: np.ndarray
    middle: np.ndarray
    fine: np.ndarray


class Affine(NamedTuple):
    """Maps a point of the fixed image to the moving one: ``linear @ p + shift``; (row, column), sides of length 1."""

    linear: np.ndarray
    shift: np.ndarray


class Match(NamedTuple):
    """How well two images agree once aligned, and how one was turned, mirrored and enlarged to get there."""

    agreement: float
    overlap: float
    degrees: float
    scale: float
    mirrored: bool


NO_MATCH = Match(0.0, 0.0, 0.0, 1.0, False)


def look(image: Image.Image) -> Look:
    """The fine structure that alignment compares."""
    coarse, middle, fine = (_central_square(image, size) for size in (COARSE, MIDDLE, FINE))
    return Look(structure(coarse, 0.8, 3.0), structure(middle, 1.0, 4.0), structure(fine, 1.0, 4.0))


def _central_square(image: Image.Image, size: int) -> np.ndarray:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("L").crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0), dtype=np.float32)


def structure(grey: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """Details between two scales (pixels, sigma), scaled to equal local contrast; mean 0 and variance 1.

    Light, colour and the large form of a lesion drop out, and the rim of a dermatoscope does not drown the rest.
    """
    details = ndimage.gaussian_filter(grey, fine) - ndimage.gaussian_filter(grey, coarse)
    contrast = np.sqrt(ndimage.gaussian_filter(details**2, 1.5 * coarse))
    even = details / (contrast + FLAT)
    return ((even - even.mean()) / (even.std() + 1e-6)).astype(np.float32)


def compare(fixed: Look, moving: Look, start: Affine) -> Match:
    """Refine ``start`` and measure the agreement; `NO_MATCH` where the alignment runs away."""
    found = refine(fixed.middle, moving.middle, start, steps=10)
    found = found and refine(fixed.fine, moving.fine, found, steps=8)
    if found is None:
        return NO_MATCH
    correlations, overlap = block_correlations(fixed.fine, moving.fine, found)
    if len(correlations) < LEAST_BLOCKS:
        return NO_MATCH
    determinant = np.linalg.det(found.linear)
    upright = found.linear @ np.diag([1.0, np.sign(determinant)])
    degrees = np.rad2deg(np.arctan2(upright[1, 0] - upright[0, 1], upright[0, 0] + upright[1, 1]))
    scale = float(np.sqrt(abs(determinant)))
    return Match(float(np.median(correlations)), overlap, float(degrees), scale, bool(determinant < 0))


def refine(fixed: np.ndarray, moving: np.ndarray, start: Affine, steps: int) -> Affine | None:
    """Gauss-Newton steps on the affine map that makes ``moving`` (S, S) equal ``fixed`` up to gain and offset.

    None where the two no longer overlap, or the map shrinks or stretches beyond what a photograph of a photograph does.
    """
    linear, shift = start
    slopes = np.gradient(moving)
    for _ in range(steps):
        points, inside, grid = _sample_points(Affine(linear, shift), len(fixed))
        if inside.mean() < 0.3 or not 0.35 < abs(np.linalg.det(linear)) < 2.9:
            return None
        where, at = points[inside].T, grid[inside]
        seen, down, right = (ndimage.map_coordinates(image, where, order=1) for image in (moving, *slopes))
        wanted, spread = _standardised(fixed[inside]), seen.std() + 1e-6
        change = np.stack([down * at[:, 0], down * at[:, 1], down, right * at[:, 0], right * at[:, 1], right], axis=1)
        change = (change - change.mean(axis=0)) * (len(fixed) / spread)
        normal = change.T @ change
        damped = normal + (1e-3 * np.trace(normal) / 6 + 1e-9) * np.eye(6)
        step = np.linalg.solve(damped, change.T @ (wanted - _standardised(seen)))
        linear, shift = linear + step[[0, 1, 3, 4]].reshape(2, 2), shift + step[[2, 5]]
        if np.abs(step).max() < 2e-4:
            break
    return Affine(linear, shift)


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / (values.std() + 1e-6)


def _sample_points(affine: Affine, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each fixed pixel lies in the moving image ``(S, S, 2)``, whether inside it, and the fixed unit grid."""
    middle = (size - 1) / 2
    grid = (np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1) - middle) / size
    points = (grid @ affine.linear.T + affine.shift) * size + middle
    return points, ((points >= 0) & (points <= size - 1)).all(axis=-1), grid


def block_correlations(fixed: np.ndarray, moving: np.ndarray, affine: Affine) -> tuple[np.ndarray, float]:
    """Correlation within each `BLOCK` that both images cover, and the share of the fixed image covered."""
    points, inside, _ = _sample_points(affine, len(fixed))
    seen = ndimage.map_coordinates(moving, points.reshape(-1, 2).T, order=1).reshape(fixed.shape)
    ours, theirs, covered = _blocks(fixed), _blocks(seen), _blocks(inside).mean(axis=1) > 0.95
    ours, theirs = (part[covered] - part[covered].mean(axis=1, keepdims=True) for part in (ours, theirs))
    norms = np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum(axis=1))
    return (ours * theirs).sum(axis=1) / (norms + 1e-6), float(inside.mean())


def _blocks(image: np.ndarray) -> np.ndarray:
    count = len(image) // BLOCK
    return image.reshape(count, BLOCK, count, BLOCK).swapaxes(1, 2).reshape(count * count, BLOCK * BLOCK)
