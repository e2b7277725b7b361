"""All random decisions about a view. They depend on (seed, epoch, position, view) and nothing else."""

import math
from collections.abc import Sequence

import numpy as np

from dermssl.views.colour import Changes
from dermssl.views.recipe import View, ViewOptions
from dermssl.views.sampler import philox

VIEW_STREAM = 3
DRAWS_PER_VIEW = 48
"""Uniform numbers reserved for each view, so that a further view or effect does not change those of others."""
TRIES, RATIO = 10, (3 / 4, 4 / 3)


def uniforms(seed: int, epoch: int, position: int, views: int) -> np.ndarray:
    """``(views, DRAWS_PER_VIEW)`` numbers in [0, 1) for the image at one position of one epoch."""
    return philox(seed, VIEW_STREAM, position, epoch).random((views, DRAWS_PER_VIEW))


def crop_box(scale: Sequence[float], width: int, height: int, draws: Sequence[float]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom; pixels) of a random resized crop, as torchvision draws it.

    The area share is uniform and the ratio of the sides log-uniform. After ten crops that do not fit, the centre crop
    is taken. ``scale`` is the smallest and largest share of the area of the stored image, ``width`` x ``height``
    pixels. ``draws`` are the uniform numbers of one view; the first 22 are used.
    """
    low, high = scale
    for share, shape in zip(draws[:TRIES], draws[TRIES : 2 * TRIES], strict=True):
        area = width * height * (low + (high - low) * share)
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** shape
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(draws[20] * (width - across + 1)), int(draws[21] * (height - down + 1))
            return left, top, left + across, top + down
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    across, down = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def turns(options: ViewOptions, draws: np.ndarray) -> np.ndarray:
    """One of the 8 symmetries of a square: 0-3 quarter turns to the left, 4-7 the same after a left-right flip."""
    if options.turns:
        return (draws[..., 22] * 8).astype(int)
    return np.where(draws[..., 22] < 0.5, 4, 0)


def changes(options: ViewOptions, views: Sequence[View], draws: np.ndarray) -> Changes:
    """The changes of V ``views`` by their uniform numbers ``draws`` (..., V, DRAWS_PER_VIEW), arrays ``(..., V)``."""
    sizes, blurs, solarized = (np.array([getattr(view, key) for view in views]) for key in ("size", "blur", "solarize"))
    low, high = options.blur_sigma
    sigma = (low + (high - low) * draws[..., 31]) * sizes / 224
    jittered, grey = draws[..., 23] < options.jitter, draws[..., 29] < options.grey
    return Changes(
        coloured=jittered | grey,
        brightness=np.where(jittered, _around_one(options.brightness, draws[..., 24]), 1),
        contrast=np.where(jittered, _around_one(options.contrast, draws[..., 25]), 1),
        saturation=np.where(jittered, _around_one(options.saturation, draws[..., 26]), 1) * ~grey,
        hue=np.where(jittered, options.hue * (2 * draws[..., 27] - 1), 0),
        sigma=np.where(draws[..., 30] < blurs, sigma, 0),
        solarize=draws[..., 32] < solarized,
        turn=turns(options, draws),
    )


def _around_one(strength: float, draws: np.ndarray) -> np.ndarray:
    least = max(0.0, 1 - strength)
    return least + (1 + strength - least) * draws
