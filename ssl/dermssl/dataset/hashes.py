"""Hashes that are equal or close for images with the same or nearly the same pixels."""

import hashlib

import numpy as np
from PIL import Image
from scipy.fft import dctn

PHASH_SIZE = 32
PHASH_LOW = 8
STRIP = 64


def pixel_hash(image: Image.Image) -> str:
    """Hex SHA-256 of the size and pixels of an upright RGB image; copies with other metadata have the same."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    # Strips that fit the cache take half the time of one copy of a 12-megapixel photo, and give the same bytes.
    for top in range(0, image.height, STRIP):
        digest.update(image.crop((0, top, image.width, min(top + STRIP, image.height))).tobytes())
    return digest.hexdigest()


def perceptual_hashes(image: Image.Image) -> np.ndarray:
    """DCT hashes ``(8,)`` uint64 of an image (entry 0) and of its other flips and quarter turns.

    If one image is a re-saved, resized, flipped or turned copy of another, its entry 0 differs by a few bits from one
    of the other's eight. This is the pHash of Zauner (2010): the image in grey at 32x32, its DCT-II, and the 8x8 lowest
    frequencies after the constant row and column, each compared with their median.
    """
    grey = image.convert("L").resize((PHASH_SIZE, PHASH_SIZE), Image.Resampling.BOX, reducing_gap=2.0)
    pixels = np.asarray(grey, dtype=np.float64)
    views = [np.rot90(base, turns) for base in (pixels, pixels[:, ::-1]) for turns in range(4)]
    low = dctn(np.stack(views), axes=(1, 2), norm="ortho")[:, 1 : PHASH_LOW + 1, 1 : PHASH_LOW + 1]
    flat = low.reshape(8, -1)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel()
