"""How images find near ones before anything is compared closely: by thumbnail, by colours, and by votes.

Each of an image's strongest local features looks for the nearest features of other images and votes for them, the
more the nearer they are than the last one found (after Jegou et al. 2010, improving bag-of-features).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dermeval.leaks.local_features import MIRRORED_BINS
from dermssl.neighbours import build_cells, normalise, search_cells

FLAT_SPREAD = 2.0
"""Spread of the colour values, of 255, below which a picture is flat."""
FEATURES_FOUND = 16
BACKGROUND = 10
"""Neighbours after the nearest ones that are the image's background."""


class Signatures(NamedTuple):
    """Per image: ``thumbnail`` (N, 16, 16, 3) uint8 and ``colour`` (N, C) of length 1. ``flat`` (N,) are pictures
    without structure, such as placeholders, which would match all their like.
    """

    thumbnail: np.ndarray
    colour: np.ndarray
    flat: np.ndarray


def signatures(blocks: Sequence[np.ndarray]) -> Signatures:
    """The vectors of all images; ``blocks`` hold their records (`local_features.record_type`) in order."""
    return Signatures(
        np.concatenate([block["thumbnail"] for block in blocks]),
        normalise(np.concatenate([block["colour"] for block in blocks])),
        np.concatenate([block["spread"] for block in blocks]) < FLAT_SPREAD,
    )


def oriented(thumbnails: np.ndarray, orientation: int) -> np.ndarray:
    """Thumbnails in one of the 8 flips and turns, as flat unit vectors without their mean, ``(N, 768)``."""
    flipped, turns = divmod(orientation, 4)
    turned = np.rot90(thumbnails[:, :, ::-1] if flipped else thumbnails, turns, axes=(1, 2))
    flat = turned.reshape(len(thumbnails), -1).astype(np.float32)
    return normalise(flat - flat.mean(axis=1, keepdims=True))


class Votes:
    """The strongest ``per_image`` local features of all images, ready to be searched."""

    def __init__(self, blocks: Sequence[np.ndarray], per_image: int) -> None:
        self.blocks, self.per_image = blocks, per_image
        parts = [self._features(block) for block in blocks]
        counts = np.concatenate([np.minimum(block["count"], per_image) for block in blocks])
        self.image = np.repeat(np.arange(len(counts)), counts)
        self.cells = build_cells(parts)

    def _features(self, block: np.ndarray) -> np.ndarray:
        parts = [record["descriptors"][: min(int(record["count"]), self.per_image)] for record in block]
        return np.concatenate(parts)

    def pairs(self, groups: np.ndarray, nearest: int, mirrored: bool, rows: np.ndarray | None = None) -> pd.DataFrame:
        """The images of other records with most votes: columns ``a`` < ``b``, ``normalised``.

        Args:
            groups: integer record of each image, ``(N,)``.
            nearest: images that each image may name.
            mirrored: whether the image that looks for others is mirrored.
            rows: bool, the images that look for others (default: all).
        """
        tables, start = [], 0
        for block in self.blocks:
            asked = np.flatnonzero(rows[start : start + len(block)]) if rows is not None else np.arange(len(block))
            if len(asked):
                tables.append(self._block_pairs(block[asked], start + asked, groups, nearest, mirrored))
            start += len(block)
        both = pd.concat(tables) if tables else pd.DataFrame({"a": [], "b": [], "normalised": []})
        return both.groupby(["a", "b"], as_index=False)["normalised"].max()

    def _block_pairs(
        self, block: np.ndarray, images: np.ndarray, groups: np.ndarray, nearest: int, mirrored: bool
    ) -> pd.DataFrame:
        features = self._features(block)
        asking = np.repeat(images, np.minimum(block["count"], self.per_image))
        distance, found = search_cells(self.cells, features[:, MIRRORED_BINS] if mirrored else features, FEATURES_FOUND)
        distance = np.sqrt(np.maximum(distance, 0))
        weight = np.maximum(0, 1 - distance / np.maximum(distance[:, -1:], 1e-6))
        other = self.image[found]
        counted = (found >= 0) & (groups[other] != groups[asking][:, None])
        asking = np.broadcast_to(asking[:, None], other.shape)
        votes = pd.DataFrame({"image": asking[counted], "other": other[counted], "votes": weight[counted]})
        votes = votes.groupby(["image", "other"], as_index=False)["votes"].sum()
        votes = votes.sort_values(["image", "votes"], ascending=[True, False], kind="stable")
        rank = votes.groupby("image").cumcount()
        far = votes[(rank >= nearest) & (rank < nearest + BACKGROUND)].groupby("image")["votes"].mean()
        votes = votes[(rank < nearest) & (votes["votes"] > 0)]
        ends = votes[["image", "other"]].to_numpy(np.int64)
        above = votes["votes"].to_numpy() - far.reindex(votes["image"]).fillna(0).to_numpy()
        return pd.DataFrame({"a": ends.min(axis=1), "b": ends.max(axis=1), "normalised": above})
