"""Every random decision about a view, drawn from (seed, epoch, position, view) and nothing else."""

import itertools
from collections.abc import Sequence

import numpy as np

from dermssl.views.recipe import View, ViewOptions
from dermssl.views.sampler import philox

VIEW_STREAM = 3
DRAWS_PER_VIEW = 48
"""Uniform numbers reserved per view, so that adding a view or an effect does not move the numbers of others."""

TRIES = 10
RATIO = (3 / 4, 4 / 3)
PHOTOMETRIC = ("jitter", "brightness", "contrast", "saturation", "hue", "order", "grey", "sigma", "solarize", "turn")
ORDERS = np.array(list(itertools.permutations(range(4))))
"""The 24 orders of brightness (0), contrast (1), saturation (2), hue (3)."""


def uniforms(seed: int, epoch: int, position: int, views: int) -> np.ndarray:
    """``(views, DRAWS_PER_VIEW)`` numbers in [0, 1) for one image of one epoch."""
    return philox(seed, VIEW_STREAM, position, epoch).random((views, DRAWS_PER_VIEW))


def crop_boxes(views: Sequence[View], width: int, height: int, draws: np.ndarray) -> np.ndarray:
    """Random resized crops as torchvision draws them: area share, log-uniform ratio, ten tries, else a centre crop.

    Args:
        views: give the area ranges.
        width, height: of the stored image, pixels.
        draws: ``(V, DRAWS_PER_VIEW)`` uniform numbers; the first 22 of each view are used.

    Returns:
        ``(V, 4)`` integers: left, top, right, bottom in pixels.
    """
    smallest, largest = np.array([view.scale for view in views]).T[:, :, None]
    area = width * height * (smallest + (largest - smallest) * draws[:, :TRIES])
    low, high = np.log(RATIO)
    ratio = np.exp(low + (high - low) * draws[:, TRIES : 2 * TRIES])
    sides = np.rint(np.sqrt([area * ratio, area / ratio]))
    limits = np.array([[width], [height]])
    fits = np.all((sides > 0) & (sides <= limits[:, :, None]), axis=0)
    crop = sides[:, range(len(views)), fits.argmax(axis=1)]
    corner = np.floor(draws[:, 20:22].T * (limits - crop + 1))
    centred = ~np.any(fits, axis=1)
    if centred.any():
        crop[:, centred] = np.array(_nearest_ratio(width, height))[:, None]
        corner[:, centred] = (limits - crop[:, centred]) // 2
    return np.concatenate([corner, corner + crop]).T.astype(int)


def _nearest_ratio(width: int, height: int) -> tuple[float, float]:
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    return min(width, round(height * ratio)), min(height, round(width / ratio))


def turns(options: ViewOptions, draws: np.ndarray) -> np.ndarray:
    """Which of the 8 symmetries of a square: 0-3 quarter turns (to the left), 4-7 the same after a left-right flip."""
    if options.turns:
        return (draws[..., 22] * 8).astype(int)
    return np.where(draws[..., 22] < 0.5, 4, 0)


def photometric(options: ViewOptions, views: Sequence[View], draws: np.ndarray) -> np.ndarray:
    """The views' photometric parameters in the order of `PHOTOMETRIC`.

    Args:
        options: strengths and odds that all views share.
        views: give the odds of blur and solarisation.
        draws: ``(..., V, DRAWS_PER_VIEW)`` uniform numbers.

    Returns:
        ``(..., V, 10)`` float32. ``sigma`` is 0 where there is no blur; it is given in pixels of its view.
    """
    sizes, blurs, solarized = (np.array([getattr(view, key) for view in views]) for key in ("size", "blur", "solarize"))
    low, high = options.blur_sigma
    sigma = (low + (high - low) * draws[..., 31]) * sizes / 224
    columns = [
        draws[..., 23] < options.jitter,
        _around_one(options.brightness, draws[..., 24]),
        _around_one(options.contrast, draws[..., 25]),
        _around_one(options.saturation, draws[..., 26]),
        options.hue * (2 * draws[..., 27] - 1),
        np.floor(draws[..., 28] * len(ORDERS)),
        draws[..., 29] < options.grey,
        np.where(draws[..., 30] < blurs, sigma, 0),
        draws[..., 32] < solarized,
        turns(options, draws),
    ]
    return np.stack(columns, axis=-1).astype(np.float32)


def _around_one(strength: float, draws: np.ndarray) -> np.ndarray:
    least = max(0.0, 1 - strength)
    return least + (1 + strength - least) * draws
