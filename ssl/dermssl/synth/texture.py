"""Each patient's own noise, in seamless tiles, and the plane of skin under a camera, which samples it."""

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Literal, get_args

import numpy as np

TILE = 512
"""Side of a tile in samples."""

Texture = Literal["clouds", "grain", "lines"]
TEXTURES: tuple[Texture, ...] = get_args(Texture)


@lru_cache(3)
def tile(texture: Texture, origin: tuple[float, float]) -> np.ndarray:
    """The noise tile ``(TILE, TILE)`` float32 of the patient at ``origin``, with mean 0 and standard deviation 1.

    Patients share no tile, because the leak audit would find the same skin in their photos.
    """
    random = np.random.default_rng([TEXTURES.index(texture), *(int(2**32 * part) for part in origin)])
    noise = np.fft.irfft2(np.fft.rfft2(random.standard_normal((TILE, TILE))) * _amplitude(texture), s=(TILE, TILE))
    return (noise / noise.std()).astype(np.float32)


@cache
def _amplitude(texture: Texture) -> np.ndarray:
    """The amplitude of each frequency: ``clouds`` is fractal, ``grain`` fine and blotchy, ``lines`` has furrows."""
    fy, fx = np.meshgrid(np.fft.fftfreq(TILE) * TILE, np.fft.rfftfreq(TILE) * TILE, indexing="ij")
    frequency, direction = np.hypot(fx, fy), np.arctan2(fy, fx)
    if texture == "clouds":
        amplitude = 1 / np.maximum(frequency, 1) ** 1.7
    elif texture == "grain":
        amplitude = np.exp(-(((frequency - 45) / 30) ** 2))
    else:
        lobes = sum(np.exp(-((np.sin(direction - angle) / 0.16) ** 2)) for angle in (0.5, 1.9))
        amplitude = lobes * np.exp(-(((frequency - 40) / 20) ** 2))
    amplitude[0, 0] = 0
    return amplitude


@dataclass(frozen=True)
class Plane:
    """The place on a patient's skin under each pixel of a photo.

    ``x`` and ``y`` are ``(H, W)`` float32 in cm. ``pixel`` is a pixel's width in cm. ``origin`` identifies the patient.
    """

    x: np.ndarray
    y: np.ndarray
    pixel: float
    centre: tuple[float, float]
    angle: float
    origin: tuple[float, float]

    @staticmethod
    def under_camera(
        shape: tuple[int, int], width: float, centre: tuple[float, float], angle: float, origin: tuple[float, float]
    ) -> "Plane":
        """The plane in view of a camera whose long side sees ``width`` cm, turned by ``angle`` radians."""
        rows, columns = shape
        pixel = width / max(shape)
        v, u = np.meshgrid(np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2, indexing="ij")
        cos, sin = np.cos(angle) * pixel, np.sin(angle) * pixel
        x = (centre[0] + u * cos - v * sin).astype(np.float32)
        y = (centre[1] + u * sin + v * cos).astype(np.float32)
        return Plane(x, y, pixel, centre, angle, origin)

    def noise(self, texture: Texture, size: float, layer: int = 0) -> np.ndarray:
        """Noise ``(H, W)`` from tiles ``size`` cm wide. Each ``layer`` samples another part of the tile."""
        shift = 0.37 * layer + self.origin[0], 0.61 * layer + self.origin[1]
        return _bilinear(tile(texture, self.origin), self.x / size + shift[0], self.y / size + shift[1])

    def warped(self, amount: float) -> "Plane":
        """The plane distorted by up to about ``amount`` cm, so that drawn outlines are irregular."""
        x = self.x + amount * self.noise("clouds", 9, layer=7)
        y = self.y + amount * self.noise("clouds", 9, layer=8)
        return replace(self, x=x, y=y)

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """The rows and columns within ``reach`` cm of a point, empty if the photo does not show it."""
        rows, columns = self.x.shape
        dx, dy = (x - self.centre[0]) / self.pixel, (y - self.centre[1]) / self.pixel
        u = dx * np.cos(self.angle) + dy * np.sin(self.angle) + (columns - 1) / 2
        v = dy * np.cos(self.angle) - dx * np.sin(self.angle) + (rows - 1) / 2
        half = reach / self.pixel + 1
        return _span(v, half, rows), _span(u, half, columns)


def _span(middle: float, half: float, size: int) -> slice:
    low, high = np.clip([np.floor(middle - half), np.ceil(middle + half) + 1], 0, size).astype(int)
    return slice(low, high)


def _bilinear(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Sample a tile at ``u``, ``v`` in tile widths; the tile repeats."""
    u, v = u * TILE, v * TILE
    left, top = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    right_share, bottom_share = u - left, v - top
    flat, mask = image.ravel(), TILE - 1
    upper, lower = (top & mask) * TILE, ((top + 1) & mask) * TILE
    left, right = left & mask, (left + 1) & mask
    above = flat[upper + left] * (1 - right_share) + flat[upper + right] * right_share
    below = flat[lower + left] * (1 - right_share) + flat[lower + right] * right_share
    return above * (1 - bottom_share) + below * bottom_share
