"""Local features of a picture: SIFT keypoints with RootSIFT descriptors (Lowe 2004; Arandjelovic & Zisserman 2012).

Skin has little contrast, so each picture is first resized and its local contrast equalised.
"""

from typing import NamedTuple

import cv2
import numpy as np

from dermeval.features.alignment import grey_picture
from dermeval.features.letters import without_letters

ENLARGED_TO = 160
"""Pictures with a shorter short side (pixels) are enlarged before keypoints are detected."""
CONTRAST, EDGE = 0.02, 12.0
THUMBNAIL = 16
COLOUR_BINS = (8, 12, 12)


class Detail(NamedTuple):
    """How finely pictures are described: keypoints kept, keypoints that vote, and the largest short side in pixels.

    ``share`` scales the number of candidates of each image; for ``scanned`` see `neighbours.build_cells`.
    """

    points: int
    voting: int
    short_side: int
    share: float
    scanned: bool


FINE, COARSE = Detail(1200, 400, 224, 1.0, False), Detail(300, 200, 160, 0.5, True)
_LAYOUT = np.arange(128).reshape(4, 4, 8)
MIRRORED_BINS = _LAYOUT[::-1][:, :, -np.arange(8) % 8].ravel()
"""``descriptor[MIRRORED_BINS]`` describes the same point in the mirrored picture."""


def record_type(points: int) -> np.dtype:
    """The stored description of one image: local features, thumbnail and colours."""
    return np.dtype(
        [
            ("count", np.int16),
            ("size", np.float32, 2),
            ("points", np.float32, (points, 4)),
            ("descriptors", np.uint8, (points, 128)),
            ("thumbnail", np.uint8, (THUMBNAIL, THUMBNAIL, 3)),
            ("colour", np.uint8, int(np.prod(COLOUR_BINS))),
            ("spread", np.float32),
        ]
    )


def describe_picture(rgb: np.ndarray, detail: Detail = FINE) -> np.ndarray:
    """The description of a picture ``(H, W, 3)`` uint8, one `record_type`, for candidates and matching."""
    record, rgb = np.zeros((), record_type(detail.points)), without_letters(rgb)
    grey = grey_picture(rgb, min(detail.short_side, max(ENLARGED_TO, min(rgb.shape[:2]))))
    record["size"] = grey.shape[1], grey.shape[0]
    found, descriptors = keypoints(grey, detail.points)
    record["count"] = len(found)
    record["points"][: len(found)], record["descriptors"][: len(found)] = found, descriptors
    small = cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_AREA)
    record["thumbnail"] = cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    record["colour"] = colour_histogram(small)
    record["spread"] = cv2.meanStdDev(small)[1].max()
    return record


def keypoints(grey: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints ``(K, 4)`` (x, y, size in pixels, angle in radians) and RootSIFT descriptors ``(K, 128)`` uint8."""
    even = cv2.createCLAHE(2.0, (8, 8)).apply(grey)
    sift = cv2.SIFT.create(most, contrastThreshold=CONTRAST, edgeThreshold=EDGE, enable_precise_upscale=True)
    found, raw = sift.detectAndCompute(even, None)
    if raw is None:
        return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8)
    order = np.argsort([-point.response for point in found], kind="stable")[:most]
    chosen = [found[i] for i in order]
    points = np.array([(*point.pt, point.size, np.deg2rad(point.angle)) for point in chosen], np.float32)
    root = np.sqrt(raw[order] / (raw[order].sum(axis=1, keepdims=True) + 1e-9))
    return points, np.rint(root * 255).astype(np.uint8)


def mirrored_points(points: np.ndarray, width: float) -> np.ndarray:
    """Keypoints ``(K, 4)`` of the picture mirrored left to right."""
    moved = points.copy()
    moved[:, 0] = width - 1 - points[:, 0]
    moved[:, 3] = np.pi - points[:, 3]
    return moved


def colour_histogram(rgb: np.ndarray) -> np.ndarray:
    """Square roots of the Lab histogram, ``(1152,)`` uint8; their dot product is the Bhattacharyya coefficient."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    # The a and b channels of skin and its surroundings lie near the middle of their range.
    counts = cv2.calcHist([lab], [0, 1, 2], None, list(COLOUR_BINS), [0, 256, 96, 192, 96, 192]).ravel()
    return np.rint(255 * np.sqrt(counts / max(counts.sum(), 1.0))).astype(np.uint8)


def layout_vectors(thumbnails: np.ndarray) -> np.ndarray:
    """The layout of light and colour: unit vectors ``(N, 768)`` of thumbnails ``(N, 16, 16, 3)``.

    Each Lab channel has its mean subtracted, so that the lighting does not count.
    """
    lab = np.stack([cv2.cvtColor(one.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for one in thumbnails])
    flat = (lab - lab.mean(axis=(1, 2), keepdims=True)).reshape(len(lab), -1)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-3)
