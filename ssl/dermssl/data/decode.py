"""One image file -> upright RGB pixels, whatever the camera, scanner or re-uploader made of it."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

MAX_PIXELS = 200_000_000
"""Larger images (a 14,000 x 14,000 photo) are refused as decompression bombs before they are decoded."""

ImageFile.LOAD_TRUNCATED_IMAGES = False


class DecodeError(Exception):
    """A file that cannot be used as an image; the message is the entry for ``problems.csv``."""


def read_bytes(path: Path, root: Path) -> bytes:
    """The file's bytes; refuses empty files and links that lead out of ``root`` without opening them."""
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            raise DecodeError("link out of the data folder")
        if path.stat().st_size == 0:
            raise DecodeError("empty file (0 bytes)")
        return path.read_bytes()
    except OSError as error:
        raise DecodeError(f"cannot be read ({error.strerror})") from None


def open_image(data: bytes) -> Image.Image:
    """Open without decoding, after the size check. Raises DecodeError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise DecodeError("decompression bomb: too many pixels") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DecodeError(f"not an image ({type(error).__name__})") from None
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError(f"decompression bomb: {image.width} x {image.height} pixels")
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode, apply the EXIF orientation, and convert any mode to 8-bit RGB (alpha over white)."""
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise DecodeError(f"truncated or damaged ({type(error).__name__}: {error})") from None
    if image.mode == "RGB":
        return image
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)
    top = 65535.0 if values.max(initial=0) > 255 else 255.0
    return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")


def is_upright(image: Image.Image) -> bool:
    """True where the EXIF orientation asks for no rotation."""
    return image.getexif().get(0x0112, 1) == 1
