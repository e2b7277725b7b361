"""One image file -> upright RGB pixels, whatever the camera, scanner or re-uploader made of it."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

MAX_PIXELS = 150_000_000
"""Larger images (beyond a 14,000 x 10,700 photo) are refused as decompression bombs before they are decoded."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""Pillow would open more by content, whatever the file's name; its EPS reader runs an outside program."""

ImageFile.LOAD_TRUNCATED_IMAGES = False


class DecodeError(Exception):
    """A file that cannot be used as an image; the message is the entry for ``problems.csv``."""


def read_bytes(path: Path, root: Path) -> bytes:
    """The file's bytes; refuses empty files and links that lead out of ``root`` without opening them."""
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            raise DecodeError("link out of the data folder")
        if path.exists() and not path.is_file():
            raise DecodeError("not a file")
        if path.stat().st_size == 0:
            raise DecodeError("empty file (0 bytes)")
        return path.read_bytes()
    except OSError as error:
        raise DecodeError(f"cannot be read ({error.strerror})") from None
    except RuntimeError:
        raise DecodeError("link to itself") from None


def open_image(data: bytes) -> Image.Image:
    """Open without decoding, after the size check. Raises DecodeError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DecodeError("decompression bomb: too many pixels") from None
    except UnidentifiedImageError:
        raise DecodeError("not an image of a known format") from None
    # Damaged headers make Pillow's format readers raise almost anything; none of it may end the whole run.
    except Exception as error:
        raise DecodeError(f"not an image ({type(error).__name__})") from None
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError(f"decompression bomb: {image.width} x {image.height} pixels")
    return image


def reduction(image: Image.Image, short_side: int) -> int:
    """By how much the decoder itself shrinks a JPEG (1, 2, 4 or 8) and still leaves ``short_side`` pixels.

    libjpeg then skips the detail that would be thrown away: most of the time of a large photo. 1 for other formats.
    """
    room = min(image.size) // short_side if isinstance(image, JpegImageFile) else 1
    return max(scale for scale in (1, 2, 4, 8) if scale <= max(room, 1))


def decode_rgb(image: Image.Image, scale: int = 1) -> Image.Image:
    """Decode at 1/``scale`` (see `reduction`) and convert any mode to 8-bit RGB (alpha over white); not yet upright.

    Where the sides are no multiple of ``scale``, the last column and row are partly filled: the picture ends at
    width / ``scale`` and height / ``scale`` of the file's size.

    Raises:
        DecodeError: the file is truncated or damaged, or holds NaN or infinite pixels.
    """
    try:
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        return _as_rgb(image)
    except DecodeError:
        raise
    # As above: whatever a damaged file provokes is that file's problem.
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise DecodeError(f"truncated or damaged ({type(error).__name__}: {reason})") from None


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8; 1 (as stored) where there is none or the EXIF block is broken."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """``image`` as EXIF orientation ``turn`` says it is to be seen; itself where it stands upright."""
    return image.transpose(_UNDO[turn]) if turn in _UNDO else image


_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled by the smallest range that holds it: 0-1 (floats), 8 or 16 bits."""
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise DecodeError(f"{np.count_nonzero(~np.isfinite(values)):,} pixels are NaN or infinite")
    highest = values.max(initial=0)
    top = 1.0 if image.mode == "F" and highest <= 1 else 255.0 if highest <= 255 else 65535.0
    return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
