"""Further views of an image for ``dermeval embed --views``; deterministic, and prepared like the image itself."""

from collections.abc import Callable

from PIL import Image

from dermeval.features.options import View

ZOOM = 0.7
"""Side of the central part that the view ``zoom`` keeps."""


def zoom(image: Image.Image) -> Image.Image:
    """The central 70% of each side."""
    width, height = round(image.width * ZOOM), round(image.height * ZOOM)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


VIEWS: dict[View, Callable[[Image.Image], Image.Image]] = {
    "flip": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turn90": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turn180": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turn270": lambda image: image.transpose(Image.Transpose.ROTATE_270),
    "zoom": zoom,
}
"""Turns are counterclockwise, in degrees."""
