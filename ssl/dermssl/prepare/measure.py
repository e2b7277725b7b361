"""Measures an image file and makes the JPEG to store. Worker processes import only this module: keep it light."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

from PIL.JpegImagePlugin import JpegImageFile

from dermssl.dataset import hashes, store
from dermssl.prepare import decode

HASHED_SIDE = 512
"""``pixel_sha256`` is of a JPEG decoded at the smallest scale that leaves this short side, in pixels."""
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


def decode_one(
    file: str, root: Path, short_side: int, follow: Path | None = None
) -> tuple[dict[str, Any], bytes | None]:
    """The measurements of one file below ``root`` and the JPEG to store; on failure ``{"problem": ...}`` and None."""
    try:
        data = decode.read_bytes(root / file, [root, follow] if follow else [root])
        with warnings.catch_warnings():
            # Pillow warns of odd metadata without naming the file; metadata is dropped anyway.
            warnings.simplefilter("ignore")
            return measure(data, short_side)
    except decode.DecodeError as error:
        return {"problem": str(error)}, None


def measure(data: bytes, short_side: int) -> tuple[dict[str, Any], bytes]:
    """The measurements of a file from its bytes, and the JPEG to store. Raises DecodeError."""
    file = decode.open_image(data)
    width, height = file.size
    note = "further pages or frames in the file" if decode.further_frames(file) else None
    # The hash must not depend on short_side, so a larger stored image needs a second decode at a larger scale.
    hashed_scale, scale = decode.reduction(file, HASHED_SIDE), decode.reduction(file, max(HASHED_SIDE, short_side))
    hashed = decode.decode_rgb(file, hashed_scale)
    turn = decode.orientation(file)
    if scale == hashed_scale:
        raster = hashed
    else:
        file = decode.open_image(data)
        raster = decode.decode_rgb(file, scale)
    small = decode.upright(store.shrink(raster, short_side, (width / scale, height / scale)), turn)
    if turn in SIDEWAYS:
        width, height = height, width
    measured = {
        "note": note,
        "width": width,
        "height": height,
        "stored_width": small.width,
        "stored_height": small.height,
        "sha256": hashlib.sha256(data).hexdigest(),
        "pixel_sha256": hashes.pixel_hash(decode.upright(hashed, turn)),
        "phash": hashes.perceptual_hashes(small),
    }
    # If no pixel was changed, the file's own compressed bytes are stored, also of an MPO, which is a JPEG and more.
    kept = isinstance(file, JpegImageFile) and scale == 1 and small is file
    return measured, store.strip_metadata(data) if kept else store.encode(small)
