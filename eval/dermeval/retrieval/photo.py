"""A query photo: read as ``dermssl prepare`` would, then encoded by the encoder that made the index."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dermssl.errors import InputError
from dermssl.prepare.decode import MAX_PIXELS
from dermssl.prepare.measure import decode_one


@dataclass(frozen=True)
class Photo:
    """One image file, upright and shrunk (RGB), with the hashes that tell whether it is in the index already."""

    image: Image.Image
    sha256: str
    pixel_sha256: str


def read_photo(path: Path, short_side: int | None) -> Photo:
    """Read a photo exactly as ``dermssl prepare --short-side`` stores one; None: not shrunk.

    Raises:
        InputError: there is no such file, or it is no image that can be decoded.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file: give an image file to search for")
    real = path.resolve()
    measured, jpeg = decode_one(real.name, real.parent, short_side or MAX_PIXELS)
    if jpeg is None:
        raise InputError(f"{path}: {measured['problem']}: give a readable image file")
    return Photo(Image.open(io.BytesIO(jpeg)), measured["sha256"], measured["pixel_sha256"])


def open_photo_encoder(recorded: dict[str, Any]) -> Callable[[Photo], np.ndarray]:
    """The encoder that an index records, as a function from a photo to its feature ``(D,)``.

    Raises:
        InputError: the encoder is out of reach, no longer the one that made the index, or fitted to its data.
    """
    # torch and timm are imported only where a photo has to be encoded.
    import torch

    from dermeval.features.encoders import open_encoder
    from dermssl.backbone.embedding import Pictures, encode_batch

    if "fit" in recorded:
        raise InputError(f"{recorded['path']} was fitted to the indexed data and is not kept: search by --image-id")
    encoder = open_encoder(
        recorded["path"], recorded["preprocessing"]["input_size"][-1], recorded.get("features", "cls")
    )
    if encoder.record()["fingerprint"] != recorded["fingerprint"]:
        raise InputError(
            f"{recorded['path']} has changed since the index was made, so its features do not fit: "
            "run `dermeval embed` and `dermeval index` again"
        )
    pictures = Pictures([], encoder.preprocessing)

    def encode(photo: Photo) -> np.ndarray:
        image = pictures.prepare(photo.image)[None]
        return encode_batch(encoder, image, encoder.preprocessing, torch.device("cpu"))[0, 0]

    return encode
