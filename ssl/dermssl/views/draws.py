"""Every random decision about a view, drawn from (seed, epoch, position, view) and nothing else."""

import itertools

import numpy as np

from dermssl.views.recipe import View, ViewOptions
from dermssl.views.sampler import philox

VIEW_STREAM = 3
DRAWS_PER_VIEW = 48
"""Uniform numbers reserved per view, so that adding a view or an effect does not move the numbers of others."""

TRIES = 10
RATIO = (3 / 4, 4 / 3)
PHOTOMETRIC = ("jitter", "brightness", "contrast", "saturation", "hue", "order", "grey", "sigma", "solarize")
ORDERS = np.array(list(itertools.permutations(range(4))))
"""The 24 orders of brightness (0), contrast (1), saturation (2), hue (3)."""


def uniforms(seed: int, epoch: int, position: int, views: int) -> np.ndarray:
    """``(views, DRAWS_PER_VIEW)`` numbers in [0, 1) for one image of one epoch."""
    return philox(seed, VIEW_STREAM, position, epoch).random((views, DRAWS_PER_VIEW))


def crop_box(view: View, width: int, height: int, draws: np.ndarray) -> tuple[int, int, int, int]:
    """Random resized crop as torchvision draws it: area share, log-uniform ratio, ten tries, else a centre crop.

    Args:
        view: gives the area range.
        width, height: of the stored image, pixels.
        draws: ``(DRAWS_PER_VIEW,)`` uniform numbers; the first 22 are used.

    Returns:
        left, top, right, bottom in pixels.
    """
    area = width * height * (view.scale[0] + (view.scale[1] - view.scale[0]) * draws[:TRIES])
    low, high = np.log(RATIO)
    ratio = np.exp(low + (high - low) * draws[TRIES : 2 * TRIES])
    widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = np.flatnonzero((widths > 0) & (widths <= width) & (heights > 0) & (heights <= height))
    if len(fits):
        crop_width, crop_height = widths[fits[0]], heights[fits[0]]
        left = np.floor(draws[20] * (width - crop_width + 1))
        top = np.floor(draws[21] * (height - crop_height + 1))
    else:
        crop_width, crop_height = _nearest_ratio(width, height)
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return int(left), int(top), int(left + crop_width), int(top + crop_height)


def _nearest_ratio(width: int, height: int) -> tuple[float, float]:
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    return min(width, round(height * ratio)), min(height, round(width / ratio))


def turn(options: ViewOptions, draws: np.ndarray) -> int:
    """Which of the 8 flips and quarter turns: 0-3 quarter turns, 4-7 the same after a left-right flip."""
    if options.turns:
        return int(draws[22] * 8)
    return 4 if draws[22] < 0.5 else 0


def photometric(options: ViewOptions, view: View, draws: np.ndarray) -> np.ndarray:
    """The view's photometric parameters in the order of `PHOTOMETRIC`, ``(9,)`` float32.

    ``sigma`` is 0 where there is no blur; it is given in pixels of this view.
    """

    def around_one(strength: float, draw: float) -> float:
        return max(0.0, 1 - strength) + (1 + strength - max(0.0, 1 - strength)) * draw

    low, high = options.blur_sigma
    sigma = (low + (high - low) * draws[31]) * view.size / 224 if draws[30] < view.blur else 0.0
    return np.array(
        [
            draws[23] < options.jitter,
            around_one(options.brightness, draws[24]),
            around_one(options.contrast, draws[25]),
            around_one(options.saturation, draws[26]),
            options.hue * (2 * draws[27] - 1),
            int(draws[28] * len(ORDERS)),
            draws[29] < options.grey,
            sigma,
            draws[32] < view.solarize,
        ],
        dtype=np.float32,
    )
