"""Decodes an image file of any kind to upright sRGB pixels.

An image with a colour profile (Display P3, Adobe RGB, a printer's CMYK) is converted to sRGB by Pillow's ImageCms. An
image without a profile, or with one that is damaged or of another colour space, keeps its values.
"""

import contextlib
import functools
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

MAX_BYTES = 2**30
"""Larger files are refused unread."""
MAX_PIXELS = 150_000_000
"""Images with more pixels (about 14,000 x 10,700) are refused undecoded as decompression bombs."""
MAX_ASPECT = 20
"""Images with a larger ratio of long to short side are refused: no photo of skin has such a shape."""

FORMATS = ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", *["AVIF"] * bool(features.check("avif"))]
"""Pillow opens no other format here, whatever the file's name: its EPS reader would run an outside program."""
with contextlib.suppress(ImportError):  # the extra `heif`
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS.append("HEIF")
SAME_COLOURS = 3
"""A profile that changes no colour by more than this (of 255) counts as sRGB, and the pixels keep their values."""

HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""The brands after ``ftyp`` in the first bytes of HEIC photos."""

ImageFile.LOAD_TRUNCATED_IMAGES = False


class DecodeError(Exception):
    """A file cannot be used as an image. The message is the problem for ``problems.csv``."""


def read_bytes(path: Path, roots: Sequence[Path]) -> bytes:
    """The bytes of a file. Raises DecodeError for empty and huge files and links out of ``roots``, without opening."""
    try:
        if not any(path.resolve().is_relative_to(root.resolve()) for root in roots):
            raise DecodeError("link out of the data folder: allow the folder it points to with --follow")
        if path.exists() and not path.is_file():
            raise DecodeError("not a file")
        size = path.stat().st_size
        if size == 0:
            raise DecodeError("empty file (0 bytes)")
        if size > MAX_BYTES:
            raise DecodeError(f"file too large: {size / 2**30:,.1f} GiB, {MAX_BYTES / 2**30:g} GiB are allowed")
        return path.read_bytes()
    except OSError as error:
        raise DecodeError(f"cannot be read ({error.strerror})") from None
    except RuntimeError:
        raise DecodeError("link to itself") from None


def open_image(data: bytes) -> Image.Image:
    """Open an image, not decoded. Raises DecodeError for a file that is no image, too large, or too long and narrow."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DecodeError("decompression bomb: too many pixels") from None
    except UnidentifiedImageError:
        raise DecodeError(_instead_of_an_image(data)) from None
    # Damaged headers make Pillow's format readers raise almost any exception, and none may end the run.
    except Exception as error:
        raise DecodeError(f"not an image ({type(error).__name__})") from None
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError(f"decompression bomb: {image.width} x {image.height} pixels")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise DecodeError(f"too long and narrow: {image.width} x {image.height} pixels")
    if image.format == "PNG":
        _check_sums(data)
    return image


def _instead_of_an_image(data: bytes) -> str:
    """What the file holds if Pillow does not know it, and the remedy."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIC:
        return "HEIC photo: install the extra heif (pip install 'dermssl[heif]') or save it as JPEG"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "AVIF photo: install a Pillow with AVIF or save it as JPEG"
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the image: fetch it with `git lfs pull`"
    if data.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page, not an image: download it again"
    return "not an image of a known format"


def further_frames(image: Image.Image) -> bool:
    """Whether the file holds further pages or frames. The ones behind a phone's photo (MPO) do not count."""
    try:
        return not isinstance(image, JpegImageFile) and getattr(image, "is_animated", False)
    except Exception:  # a damaged second page
        return True


def _check_sums(png: bytes) -> None:
    """Raise DecodeError if a checksum is wrong; decoding does not check the one of the last pixels."""
    try:
        Image.open(io.BytesIO(png)).verify()
    except SyntaxError:
        raise DecodeError("truncated or damaged") from None
    except Exception:  # decoding reports anything else that is wrong
        return


def reduction(image: Image.Image, short_side: int) -> int:
    """The largest factor (1, 2, 4 or 8) by which libjpeg can shrink the image and leave ``short_side`` pixels.

    libjpeg then skips the finer detail, which takes most of the time of a large photo. 1 for other formats.
    """
    room = min(image.size) // short_side if isinstance(image, JpegImageFile) else 1
    return max(scale for scale in (1, 2, 4, 8) if scale <= max(room, 1))


def decode_rgb(image: Image.Image, scale: int = 1) -> Image.Image:
    """Decode at 1/``scale`` (see `reduction`) and convert any mode to 8-bit sRGB (alpha over white), not yet upright.

    Returns ``image`` itself if its pixels need no conversion. If a side is no multiple of ``scale``, the last column or
    row is partly filled: the content ends at width / ``scale`` and height / ``scale``.
    Raises DecodeError: the file is truncated or damaged, or holds NaN or infinite pixels.
    """
    try:
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        return _as_srgb(image)
    except DecodeError:
        raise
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:100]
        raise DecodeError(f"truncated or damaged ({type(error).__name__}: {reason})") from None


def orientation(image: Image.Image) -> int:
    """The EXIF orientation 1-8 of a decoded image; 1 (upright) if it has none or the EXIF block is damaged.

    Call it after `decode_rgb`: reading the EXIF block of a PNG decodes the image and would hide an error in its pixels,
    and Pillow turns a TIFF upright while decoding and only then updates the block.
    """
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """``image`` turned upright from EXIF orientation ``turn``; ``image`` itself if it is upright."""
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


def _as_srgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return _from_deep_grey(image)
    profile = image.info.get("icc_profile") or b""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        coloured = _convert(image.convert("RGB"), profile)
        coloured.putalpha(image.getchannel("A"))
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    if image.mode not in _SPACES:
        image = image.convert("RGB")
    return _convert(image, profile)


_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
"""The modes that a profile can describe, with the name of their colour space in profiles."""


def _convert(image: Image.Image, profile: bytes) -> Image.Image:
    transform = _srgb_transform(profile, image.mode)
    if transform:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from ``profile`` to sRGB; None for no profile, one of another mode, or one of sRGB itself."""
    lab = mode == "LAB"  # its colours are absolute, so it needs no profile
    if not profile and not lab:
        return None
    try:
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB") if lab else io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:
        return None
    if mode not in ("RGB", "L"):
        return transform
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(64, 64, 3) if mode == "RGB" else steps[None]
    before = Image.fromarray(colours)
    after = transform.apply(before)
    change = np.abs(np.asarray(after).astype(int) - np.asarray(before.convert("RGB"))).max()
    return transform if change > SAME_COLOURS else None


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """8-bit RGB from grey of more bits. The range is the smallest that holds all values: 0-1 (floats), 8 or 16 bits."""
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise DecodeError(f"{np.count_nonzero(~np.isfinite(values)):,} pixels are NaN or infinite")
    highest = values.max(initial=0)
    top = 1.0 if image.mode == "F" and highest <= 1 else 255.0 if highest <= 255 else 65535.0
    return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
