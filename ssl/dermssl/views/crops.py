"""Cutting views out of a stored image: crop, antialiased resize, flip and turn, on the CPU in 8 bits."""

from PIL import Image

TURNS = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSVERSE,
)
"""The 8 symmetries of a square: quarter turns, and the same after a left-right flip."""


def cut(image: Image.Image, box: tuple[float, float, float, float], size: int, turn: int) -> Image.Image:
    """The crop ``box`` (left, top, right, bottom; pixels) as a ``size`` x ``size`` image, then one of `TURNS`.

    Bicubic with antialiasing, as torchvision's ``resized_crop`` on PIL images does.
    """
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    method = TURNS[turn]
    return view if method is None else view.transpose(method)
