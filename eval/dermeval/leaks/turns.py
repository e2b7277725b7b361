"""The coarse search for an alignment: all flips and quarter turns, small turns, sizes, and every shift (by FFT)."""

import functools
from typing import NamedTuple

import numpy as np
from scipy import fft, sparse

from dermeval.leaks.alignment import COARSE, Affine

ANGLES = np.deg2rad([-16.0, -8.0, 0.0, 8.0, 16.0])
SCALES = (0.75, 0.866, 1.0, 1.155, 1.333)
PADDED = 72
"""Side of the FFT: shifts up to half the picture are told apart."""
LEAST_OVERLAP = 0.4
PEAKS = 5


class Start(NamedTuple):
    """Where a refinement may begin, and the correlation of the coarse pictures there."""

    affine: Affine
    correlation: float


class Warps(NamedTuple):
    """The small turns and sizes as one sparse matrix ``(V*S*S, S*S)``, what each covers, and 1 / overlap by shift."""

    matrix: sparse.csr_matrix
    masks: np.ndarray
    per_overlap: np.ndarray
    linear: np.ndarray


class Turned(NamedTuple):
    """The moving picture as it is, in every orientation and warp ``(8, V, S, S)``, and their conjugate spectra."""

    plain: np.ndarray
    pictures: np.ndarray
    spectra: np.ndarray


def orientation(number: int) -> np.ndarray:
    """Linear map of one of the 8 flips and turns, in the order of `dermssl.dataset.hashes.perceptual_hashes`."""
    flipped, turns = divmod(number, 4)
    turn = np.linalg.matrix_power(np.array([[0.0, 1.0], [-1.0, 0.0]]), turns)
    return np.diag([1.0, -1.0]) @ turn if flipped else turn


def orient(picture: np.ndarray, number: int) -> np.ndarray:
    """A picture in one of the 8 orientations."""
    flipped, turns = divmod(number, 4)
    return np.rot90(picture[:, ::-1] if flipped else picture, turns)


@functools.cache
def warps() -> Warps:
    """Bilinear interpolation weights of every small turn and size; the same for all images."""
    linear = np.stack([_rotation(angle) / scale for angle in ANGLES for scale in SCALES])
    parts, masks = zip(*(_interpolation(one) for one in linear), strict=True)
    covered = np.stack(masks).astype(np.float32)
    full = fft.rfft2(np.ones((COARSE, COARSE), np.float32), (PADDED, PADDED))
    pixels = fft.irfft2(np.conj(fft.rfft2(covered, (PADDED, PADDED))) * full, (PADDED, PADDED))
    per_overlap = (pixels > LEAST_OVERLAP * COARSE**2) / np.maximum(pixels, 1)
    return Warps(sparse.vstack(parts, format="csr"), np.stack(masks), per_overlap.astype(np.float32), linear)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _interpolation(linear: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    middle = (COARSE - 1) / 2
    grid = np.stack(np.meshgrid(np.arange(COARSE), np.arange(COARSE), indexing="ij"), axis=-1) - middle
    points = (grid @ linear.T + middle).reshape(-1, 2)
    corner = np.floor(points).astype(int)
    inside = ((corner >= 0) & (corner < COARSE - 1)).all(axis=1)
    rows, share = np.flatnonzero(inside), (points - corner)[inside]
    matrix = sparse.csr_matrix((COARSE**2, COARSE**2), dtype=np.float32)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = np.where(down, share[:, 0], 1 - share[:, 0]) * np.where(right, share[:, 1], 1 - share[:, 1])
        columns = (corner[inside, 0] + down) * COARSE + corner[inside, 1] + right
        matrix += sparse.csr_matrix((weight.astype(np.float32), (rows, columns)), shape=matrix.shape)
    return matrix, inside.reshape(COARSE, COARSE)


def turned(moving: np.ndarray) -> Turned:
    """Prepare a moving picture ``(S, S)`` for `search`; worth keeping while it is compared with several others."""
    known = warps()
    views = np.stack([orient(moving, number) for number in range(8)])
    pictures = (known.matrix @ views.reshape(8, -1).T).T.reshape(8, len(known.masks), COARSE, COARSE)
    energy = np.sqrt((pictures**2).sum(axis=(2, 3)) / known.masks.sum(axis=(1, 2)))
    pictures = pictures / (energy[..., None, None] + 1e-6)
    return Turned(moving, pictures, np.conj(fft.rfft2(pictures, (PADDED, PADDED))))


def search(fixed: np.ndarray, moving: Turned) -> Start:
    """The alignment of the moving picture that correlates best with the fixed one ``(S, S)``.

    FFTs rank the warps by summed products. The best few, and the plain flips and quarter turns, are then compared by
    true correlation, since structure that lies in one place would let the sum exceed it.
    """
    spectrum = fft.rfft2(fixed, (PADDED, PADDED))
    scores = fft.irfft2(moving.spectra * spectrum, (PADDED, PADDED)) * warps().per_overlap
    flat = scores.reshape(-1, PADDED * PADDED)
    best = flat.argmax(axis=1)
    order = np.argsort(-flat[np.arange(len(flat)), best])[:PEAKS]
    starts = [_start(fixed, moving, int(warp), int(best[warp])) for warp in order]
    starts += [as_oriented(fixed, moving.plain, number) for number in range(8)]
    return max(starts, key=lambda start: start.correlation)


def _start(fixed: np.ndarray, moving: Turned, warp: int, peak: int) -> Start:
    number, variant = divmod(warp, len(warps().linear))
    shift = np.array([s - PADDED if s >= COARSE else s for s in divmod(peak, PADDED)])
    linear = orientation(number) @ warps().linear[variant]
    ours = tuple(slice(max(0, s), COARSE + min(0, s)) for s in shift)
    theirs = tuple(slice(max(0, -s), COARSE + min(0, -s)) for s in shift)
    both = warps().masks[variant][theirs]
    found = correlation(fixed[ours][both], moving.pictures[number, variant][theirs][both])
    return Start(Affine(linear, -linear @ shift / COARSE), found)


def as_oriented(fixed: np.ndarray, moving: np.ndarray, number: int) -> Start:
    """The alignment by one known orientation alone, as a perceptual hash gives it."""
    return Start(Affine(orientation(number), np.zeros(2)), correlation(fixed, orient(moving, number)))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two pictures of one shape; 0 where either is flat."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    return float(a @ b / (np.sqrt((a @ a) * (b @ b)) + 1e-6))
