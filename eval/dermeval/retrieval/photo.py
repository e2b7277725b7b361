"""A query photo: read as ``dermssl prepare`` reads it, then encoded by the encoder that made the index."""

import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dermssl.dataset.store import shrink
from dermssl.errors import InputError
from dermssl.neighbours import normalise
from dermssl.prepare.decode import MAX_PIXELS, DecodeError, read_bytes
from dermssl.prepare.measure import measure

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".heic", ".heif", ".avif")
MAX_CROPS = 10


@dataclass(frozen=True)
class Photo:
    """A photo, upright and shrunk (RGB), and the hashes by which it is recognised as an image of the index."""

    image: Image.Image
    sha256: str
    pixel_sha256: str


Encoder = Callable[[list[Image.Image]], np.ndarray]
"""RGB images -> features ``(B, D)``."""


def photo_files(given: str) -> list[Path]:
    """The photo, or all photos of a folder, sorted; raises InputError if the folder holds none."""
    path = Path(given)
    if not given:
        raise InputError("an image file has an empty name: give one to search for")
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in PHOTO_ENDINGS and file.is_file())
    if not found:
        raise InputError(f"{path} holds no image file ({', '.join(PHOTO_ENDINGS)})")
    return found


def read_photo(path: Path, short_side: int | None) -> Photo:
    """Read a photo as ``dermssl prepare --short-side`` stores it (None: not shrunk); InputError if that fails."""
    if not path.is_file():
        raise InputError(f"{path} is no file: give an image file to search for")
    try:
        real = path.resolve()
        return decode_photo(read_bytes(real, [real.parent]), short_side)
    except DecodeError as error:
        raise InputError(f"{path} cannot be searched for: {error}") from None


Box = tuple[float, float, float, float]
"""A part of a photo: left, top, right and bottom, from 0 to 1."""


def decode_photo(data: bytes, short_side: int | None, box: Box | None = None) -> Photo:
    """Decode a photo or its part ``box``; raises DecodeError, for more than `MAX_PIXELS` pixels before decoding."""
    # A part is cut from a larger copy, so that it has as many pixels as a whole photo would have.
    larger = 1 / min(box[2] - box[0], box[3] - box[1]) if box else 1
    measured, jpeg = measure(data, min(MAX_PIXELS, round((short_side or MAX_PIXELS) * larger)))
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    if box:
        sides = np.array([*image.size, *image.size])
        left, top, right, bottom = (np.array(box) * sides).round().astype(int).tolist()
        image = image.crop((left, top, max(left + 1, right), max(top + 1, bottom)))
        image = shrink(image, short_side) if short_side else image
    return Photo(image, measured["sha256"], measured["pixel_sha256"])


def crops(image: Image.Image, number: int) -> Iterator[Image.Image]:
    """The first ``number`` of: the photo, its mirror image, its middle 80%, its corners of 80%, these five mirrored."""
    width, height = image.size
    left, top = width // 5, height // 5
    corners = [(left // 2, top // 2), (0, 0), (left, 0), (0, top), (left, top)]
    parts = [image.crop((x, y, x + width - left, y + height - top)) for x, y in corners]
    every = [image, ImageOps.mirror(image), *parts, *(ImageOps.mirror(part) for part in parts)]
    yield from every[:number]


def photo_feature(encode: Encoder, photo: Photo, number: int = 1) -> np.ndarray:
    """The feature ``(D,)`` of a photo: the mean of the unit features of its crops.

    Its cosine ranks indexed images by their mean similarity to the crops, and is a little above this mean.
    """
    return normalise(encode(list(crops(photo.image, number)))).mean(0)


def open_photo_encoder(recorded: dict[str, Any], path: str | None = None) -> Encoder:
    """The encoder that an index records, or the one at ``path``.

    Raises InputError if the encoder is out of reach, did not make the index, or was fitted to the indexed data.
    """
    # torch and timm are imported only where a photo has to be encoded.
    import torch

    from dermeval.features.encoders import open_encoder
    from dermssl.backbone.embedding import Pictures, encode_batch
    from dermssl.backbone.pretrained import hub_unasked

    if recorded["path"].startswith("imported:"):
        raise InputError(f"{recorded['path']}: another program made the features: search by --image-id")
    if "fit" in recorded:
        raise InputError(f"{recorded['path']} was fitted to the indexed data and is not kept: search by --image-id")
    # An index may come from somebody else, so no hub is asked for weights that only its record names.
    with nullcontext() if path else hub_unasked():
        path = path or recorded["path"]
        encoder = open_encoder(path, recorded["preprocessing"]["input_size"][-1], recorded.get("features", "cls"))
    made = encoder.record()
    now, then = made["preprocessing"], recorded["preprocessing"]
    # One file of weights may be read as two networks that prepare their images differently.
    if made["fingerprint"] != recorded["fingerprint"] or any(now[key] != then[key] for key in now.keys() & then.keys()):
        raise InputError(
            f"{path} is not, or is no longer, the encoder that made the index: name that one with --encoder, or run "
            "`dermeval embed` and `dermeval index` again"
        )
    encoder.model.to(memory_format=torch.channels_last)
    pictures = Pictures([], encoder.preprocessing)

    def encode(images: list[Image.Image]) -> np.ndarray:
        prepared = torch.stack([pictures.prepare(image) for image in images])
        return encode_batch(encoder, prepared, encoder.preprocessing, torch.device("cpu"))[:, 0]

    return encode
