"""Further views of an image for ``dermeval embed --views``; deterministic, and prepared like the image itself."""

from operator import methodcaller

from PIL import Image

from dermeval.features.options import View
from dermssl.backbone.embedding import Change

ZOOM = 0.7
"""Side of the central part that the view ``zoom`` keeps."""


def zoom(image: Image.Image) -> Image.Image:
    """The central 70% of each side."""
    width, height = (max(1, round(side * ZOOM)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


VIEWS: dict[View, Change] = {
    "flip": methodcaller("transpose", Image.Transpose.FLIP_LEFT_RIGHT),
    "turn90": methodcaller("transpose", Image.Transpose.ROTATE_90),
    "turn180": methodcaller("transpose", Image.Transpose.ROTATE_180),
    "turn270": methodcaller("transpose", Image.Transpose.ROTATE_270),
    "zoom": zoom,
}
"""Turns are counterclockwise, in degrees."""
