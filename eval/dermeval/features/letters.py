"""Watermarks: letters hide the local features of a picture, and two pictures with one watermark would look alike."""

import functools
from typing import Any

import cv2
import numpy as np

STROKE, LEAST_LETTERS = 0.02, 0.02
"""Width of the strokes as a share of the short side, and the least share of the picture that letters cover."""
LEAST_OPACITY, USUAL_OPACITY, CLEAR_OPACITY, SPREAD, LEAST_ALIKE = 0.35, 0.45, 0.55, 0.08, 0.6
"""Opacity of letters: the least of a pixel; the least median; the median from which the tint does not matter; the
largest distance of a usual pixel from the median; the least share of usual pixels."""
ROOM = 48
"""A channel shows how opaque letters are where the surroundings are at least so many grey levels below white. On light
skin red is not, and its noise would hide the letters."""
MOST_TINT, USUAL_TINT = 0.1, 0.04
"""Largest difference between the opacities of red, green and blue: of a pixel, and the median in faint letters."""


def without_letters(rgb: np.ndarray) -> np.ndarray:
    """The picture ``(H, W, 3)`` uint8 with white letters filled in from their surroundings; ``rgb`` if it has none.

    White of one opacity lies over the picture (the model of Dekel et al. 2017), so the opacity is the same in all
    colours and in all letters. This distinguishes letters from bright skin. Dark and coloured letters are not found.
    """
    side, channels = min(rgb.shape[:2]), cv2.split(rgb)
    stroke = np.ones((max(2, round(STROKE * side)),) * 2, np.uint8)
    # The darkest colour gives at least the opacity of the three colours, so it quickly excludes most pictures.
    some = _opacity(functools.reduce(np.minimum, channels), side) > LEAST_OPACITY
    if cv2.morphologyEx(some.astype(np.uint8), cv2.MORPH_OPEN, stroke).mean() < LEAST_LETTERS:
        return rgb
    opacities = np.stack([_opacity(channel, side, ROOM) for channel in channels])
    opacity, most = np.fmin.reduce(opacities), np.fmax.reduce(opacities)
    white = (opacity > LEAST_OPACITY) & (most - opacity < MOST_TINT)
    letters = cv2.morphologyEx(white.astype(np.uint8), cv2.MORPH_OPEN, stroke)
    if letters.mean() < LEAST_LETTERS:
        return rgb
    found, tint = opacity[letters > 0], (most - opacity)[letters > 0]
    usual = np.median(found)
    faint = usual < USUAL_OPACITY or (usual < CLEAR_OPACITY and np.median(tint) > USUAL_TINT)
    if faint or (np.abs(found - usual) < SPREAD).mean() < LEAST_ALIKE:
        return rgb
    edge = np.ones((side // 23 | 1,) * 2, np.uint8)
    return cv2.inpaint(np.ascontiguousarray(rgb), cv2.dilate(letters, edge), 3, cv2.INPAINT_TELEA)


def _opacity(channel: Any, side: int, room: int = 0) -> np.ndarray:
    """The opacity, 0 to 1, of white that would explain a channel ``(H, W)`` uint8 against its surroundings.

    It is NaN where the surroundings are less than ``room`` grey levels below white.
    """
    behind = cv2.morphologyEx(channel, cv2.MORPH_OPEN, np.ones((side // 14 * 2 + 1,) * 2, np.uint8))
    below = np.float32(256) - behind
    return np.where(below < room, np.float32(np.nan), (channel - behind) / below)
