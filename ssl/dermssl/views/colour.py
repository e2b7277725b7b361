"""Colour and blur of a view (uint8), by OpenCV. All colour changes together are one affine map of a pixel.

In YIQ, brightness b and contrast c scale luma and chroma, saturation s scales the chroma, and hue h rotates it:

    Y' = b (c Y + (1 - c) mean(Y))        (I', Q')' = b c s R(2 pi HUE h) (I, Q)'

where mean(Y) is the mean grey value of the crop. A grey view has s = 0. NVIDIA DALI rotates the hue in the same way, by
an angle without the factor `HUE`.

Differences from torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation` and `adjust_hue`:

- Values are clipped and rounded once, at the end; torchvision does both after each operation. So the four changes
  commute, and no order is drawn.
- The hue rotates in YIQ, which keeps luma. torchvision rotates in HSV, which keeps the largest channel. `HUE` makes
  both rotations equally strong.
- Luma weights are (0.299, 0.587, 0.114), which add up to 1. torchvision uses 0.2989 for red.

Mean difference from torchvision, of 255 grey levels: 0.3 on HAM10000 for brightness and contrast of 0.6 to 1.4 and
saturation of 0.8 to 1.2, by rounding alone. A hue of 0.02 changes pixels of HAM10000 by 2.4 in both, those of
PAD-UFES-20 by 2.1 in torchvision and 2.0 here. The two results differ from each other by 2.1 and 3.1.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

HUE = 0.62
"""A rotation by `HUE` in YIQ changes skin images as much as a rotation by 1 in HSV (torchvision's `adjust_hue`).

Equal mean change needs 0.60 on HAM10000 and 0.64 on PAD-UFES-20 (120,000 pixels each, hues of 0.005 to 0.1).
"""
LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
QUARTER = np.linalg.solve(YIQ, np.array([[0, 0, 0], [0, 0, 1], [0, -1, 0]]) @ YIQ)
"""Removes luma and rotates chroma by a quarter of the colour circle. A positive hue turns red to yellow."""


class Changes(NamedTuple):
    """The changes of each view: arrays of one shape, one entry per view.

    ``coloured`` is False if the colours do not change. ``brightness``, ``contrast`` and ``saturation`` are factors.
    ``hue`` is a share of the colour circle, as in torchvision. ``sigma`` is the standard deviation of the blur in
    pixels, 0 for no blur. ``solarize`` is bool. ``turn`` is one of the 8 of `dermssl.views.draws.turns`.
    """

    coloured: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray
    sigma: np.ndarray
    solarize: np.ndarray
    turn: np.ndarray


def matrices(changes: Changes) -> np.ndarray:
    """Affine colour matrices ``(..., 3, 4)`` float64. The last column is for a crop whose mean grey value is 1."""
    scale = changes.brightness * changes.contrast
    angle = 2 * np.pi * HUE * changes.hue
    kept, turned = (scale * changes.saturation * part(angle) for part in (np.cos, np.sin))
    luma = np.ones((3, 1)) * LUMA
    linear = (
        scale[..., None, None] * luma + kept[..., None, None] * (np.eye(3) - luma) + turned[..., None, None] * QUARTER
    )
    offset = changes.brightness * (1 - changes.contrast)
    return np.concatenate([linear, np.broadcast_to(offset[..., None, None], (*offset.shape, 3, 1))], axis=-1)


def recolour(view: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``view`` (H, W, 3) uint8 after a ``(3, 4)`` matrix of `matrices`, rounded and clipped."""
    red, green, blue, _ = cv2.mean(view)
    return cv2.transform(view, matrix * (1, 1, 1, LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue))


def solarize(view: np.ndarray) -> np.ndarray:
    """``view`` with all values of 128 and more inverted."""
    return cv2.min(view, cv2.bitwise_not(view))


def blur(view: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with reflecting borders: ``cv2.GaussianBlur`` up to rounding, in half its time.

    The kernel is cut at 3 ``sigma``. Its weights are multiples of 1/256 that add up to 1: a flat area keeps its value.
    """
    radius = math.ceil(3 * sigma)
    weights = [round(256 * weight) for weight in cv2.getGaussianKernel(2 * radius + 1, sigma)[:, 0].tolist()]
    weights[radius] += 256 - sum(weights)
    if weights[radius] == 256:
        return view
    kernel = np.array(weights) / 256
    return cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
