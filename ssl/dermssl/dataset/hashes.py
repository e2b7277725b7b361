"""Three ways two files can be the same picture: same bytes, same pixels, nearly the same pixels."""

import hashlib

import numpy as np
from PIL import Image
from scipy.fft import dctn

PHASH_SIZE = 32
PHASH_LOW = 8
STRIP = 64


def pixel_hash(image: Image.Image) -> str:
    """Hex SHA-256 of size and decoded, oriented RGB pixels: equal for re-wrapped or metadata-stripped copies."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    # In strips that fit the cache: twice as fast as one copy of a 12-megapixel photo, and the same bytes.
    for top in range(0, image.height, STRIP):
        digest.update(image.crop((0, top, image.width, min(top + STRIP, image.height))).tobytes())
    return digest.hexdigest()


def perceptual_hashes(image: Image.Image) -> np.ndarray:
    """DCT hashes of the 8 flips and quarter turns, ``(8,)`` uint64; entry 0 is the image as it stands.

    A re-saved, resized, flipped or turned copy has entry 0 within a few bits of one of the other image's eight.
    This is the pHash of Zauner (2010): a 32x32 grey picture, DCT-II, and the 8x8 lowest frequencies after the constant
    row and column, each compared with their median.
    """
    grey = image.convert("L").resize((PHASH_SIZE, PHASH_SIZE), Image.Resampling.BOX, reducing_gap=2.0)
    pixels = np.asarray(grey, dtype=np.float64)
    views = [np.rot90(base, turns) for base in (pixels, pixels[:, ::-1]) for turns in range(4)]
    low = dctn(np.stack(views), axes=(1, 2), norm="ortho")[:, 1 : PHASH_LOW + 1, 1 : PHASH_LOW + 1]
    flat = low.reshape(8, -1)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel()
