"""Pictures of the views, nearest neighbours and patch features of a run, as ``(H, W, 3)`` uint8 arrays."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

SIDE, FRAME, LINE = 96, 4, 24
GREY, GREEN, RED = (150, 150, 150), (0, 158, 115), (213, 94, 0)
"""Frames: query, same label, other label. Colour-blind readers can tell bluish green from vermilion."""


def view_grid(pixels: list[Tensor], images: int = 8) -> np.ndarray:
    """A column per image, a row per view. ``pixels`` holds ``(V, B, 3, S, S)`` for each crop size, from 0 to 1."""
    rows = []
    for group in pixels:
        for view in (group[:, :images].clamp(0, 1) * 255).byte().permute(0, 1, 3, 4, 2).cpu().numpy():
            scaled = [_scale(image, Image.Resampling.NEAREST) for image in view]
            rows.append(np.concatenate([np.pad(image, ((1, 1), (1, 1), (0, 0))) for image in scaled], axis=1))
    return np.concatenate(rows)


def neighbour_grid(
    queries: Sequence[np.ndarray], nearest: Sequence[Sequence[np.ndarray]], agree: np.ndarray | None
) -> np.ndarray:
    """A row per query: the query in a grey frame, then its ``nearest`` images, most similar first; above, a legend.

    ``agree`` (Q, k) is True if the neighbour has the query's label (green frame, else red); None gives grey frames.
    """
    rows = []
    for index, (query, found) in enumerate(zip(queries, nearest, strict=True)):
        colours = [GREY] * len(found) if agree is None else [GREEN if same else RED for same in agree[index]]
        cells = [_framed(image, colour) for image, colour in zip(found, colours, strict=True)]
        gap = np.full((cells[0].shape[0], 3 * FRAME, 3), 255, np.uint8)
        rows.append(np.concatenate([_framed(query, GREY), gap, *cells], axis=1))
    grid = np.concatenate(rows)
    entries = [(GREY, "first column: query; then its nearest images, most similar first")]
    if agree is not None:
        entries += [(GREEN, "same label"), (RED, "another label")]
    return np.concatenate([_legend(entries, grid.shape[1]), grid])


def _legend(entries: Sequence[tuple[tuple[int, int, int], str]], width: int) -> np.ndarray:
    """A white strip with a line for each entry: a coloured frame and its meaning."""
    strip = Image.new("RGB", (width, LINE * len(entries)), "white")
    draw = ImageDraw.Draw(strip)
    for top, (colour, text) in zip(range(0, strip.height, LINE), entries, strict=True):
        draw.rectangle((6, top + 6, 18, top + 18), outline=colour, width=FRAME)
        draw.text((24, top + 4), text, "black", ImageFont.load_default(14))
    return np.asarray(strip)


def component_grid(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """A row of ``images`` (B, S, S, 3) uint8 above a row of their patch ``maps`` (B, h, w, 3), from 0 to 1."""
    above = [_scale(image, Image.Resampling.BICUBIC) for image in images]
    below = [_scale((image * 255).astype(np.uint8), Image.Resampling.NEAREST) for image in maps]
    return np.concatenate([np.concatenate(above, axis=1), np.concatenate(below, axis=1)])


def _scale(pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), how))


def _framed(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    cell = ImageOps.expand(Image.fromarray(_scale(pixels, Image.Resampling.BICUBIC)), FRAME, colour)
    return np.asarray(ImageOps.expand(cell, 1, "white"))
