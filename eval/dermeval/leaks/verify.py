"""Candidate pairs -> evidence: local features are matched, then the pictures are aligned, in several processes.

Every pair is compared twice: with the second picture as stored (upright) and mirrored. Results are saved in blocks, so
a killed command continues where it stopped.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.lib import recfunctions

from dermeval.features import alignment
from dermeval.leaks.local_features import Detail, describe_picture, record_type
from dermeval.leaks.matching import Local, consensus, local_of
from dermeval.leaks.overlays import unpacked, without_cells
from dermeval.leaks.pictures import Picture, content
from dermeval.leaks.work import Work
from dermssl import neighbours
from dermssl.atomic import atomic_file

IMAGES_PER_TASK, PAIRS_PER_TASK = 32, 1024
PAIRS_AT_ONCE = 16_384
FEW_POINTS = 400
"""Keypoints by which every pair is compared first. If enough of them agree, all keypoints are compared."""
LEAST_TO_GO_ON, LEAST_TO_ALIGN = 3, 4
APPEARANCE = ["thumbnail", "colour", "spread"]
WORLDS = 2
"""World 0: the second picture is upright; world 1: it is mirrored."""
EVIDENCE = np.dtype(
    [
        ("inliers", np.int16, WORLDS),
        ("matches", np.int16, WORLDS),
        ("correlation", np.float32, WORLDS),
        ("overlap", np.float32, WORLDS),
        ("colour", np.float32),
        ("matrix", np.float32, (WORLDS, 2, 3)),
    ]
)
"""Evidence of a pair, upright and mirrored. ``matrix`` maps pixels of pictures whose short side is 128; 0: not known.
``colour`` is the Bhattacharyya coefficient of the colour histograms, 0 to 1."""


class LocalStore(NamedTuple):
    """Descriptions of all images, in files of `IMAGES_PER_TASK` records. They are read, not mapped, to save memory."""

    folder: Path
    detail: Detail
    hidden: np.ndarray
    """The cells of each picture that are left out (`overlays.overlay_cells`), packed, ``(N, 32)``."""

    def path(self, block: int) -> Path:
        """The file of a block."""
        return self.folder / f"local-{block:06d}.bin"

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All descriptions (`local_features.record_type`), block by block, each with the row of its first image."""
        for block in range(-(-len(self.hidden) // IMAGES_PER_TASK)):
            described = np.fromfile(self.path(block), record_type(self.detail.points))
            yield block * IMAGES_PER_TASK, self._shown(described, block * IMAGES_PER_TASK)

    def record(self, row: int) -> np.ndarray:
        """The description of one image."""
        block, place = divmod(row, IMAGES_PER_TASK)
        kind = record_type(self.detail.points)
        found = np.fromfile(self.path(block), kind, count=1, offset=place * kind.itemsize)
        return self._shown(found, row)[0]

    def _shown(self, described: np.ndarray, first: int) -> np.ndarray:
        packed = self.hidden[first : first + len(described)]
        return without_cells(described, unpacked(packed)) if packed.any() else described

    def appearance(self) -> np.ndarray:
        """Thumbnail, colours and spread of all images, ``(N,)`` of the fields `APPEARANCE`."""
        return np.concatenate([recfunctions.repack_fields(block[APPEARANCE]) for _, block in self.blocks()])


def describe_images(pictures: Sequence[Picture], detail: Detail, work: Work) -> LocalStore:
    """Describe all images and save the blocks in the folder of ``work``; existing blocks are kept."""
    store = LocalStore(work.folder, detail, np.zeros((len(pictures), 32), np.uint8))
    parts = [pictures[start : start + IMAGES_PER_TASK] for start in range(0, len(pictures), IMAGES_PER_TASK)]
    tasks = [(store.path(number), part, detail) for number, part in enumerate(parts)]
    kind = record_type(detail.points)
    work.run(_describe_task, tasks, [len(part) for part in parts], kind, "describe images", "image")
    return store


def compare_pairs(pairs: pd.DataFrame, pictures: Sequence[Picture], store: LocalStore, work: Work) -> np.ndarray:
    """Evidence of each pair, ``(P,)`` of `EVIDENCE`, saved block by block in the folder of ``work``.

    ``pairs`` has the columns ``a``, ``b``, ``upright``, ``mirrored`` of `nominate.united` and is sorted by ``a``.
    """
    rows = pairs[["a", "b", "upright", "mirrored"]].to_numpy(np.int64)
    parts = [rows[start : start + PAIRS_PER_TASK] for start in range(0, len(rows), PAIRS_PER_TASK)]
    # A file is named by its pairs and by what is hidden, so a file of other pairs is never read by mistake.
    hidden = hashlib.sha256(store.hidden.tobytes()).digest()
    names = [hashlib.sha256(np.ascontiguousarray(part).tobytes() + hidden).hexdigest()[:16] for part in parts]
    paths = [work.folder / f"pairs-{name}.bin" for name in names]
    used = [{int(row): pictures[row] for row in np.unique(part[:, :2])} for part in parts]
    tasks = [(*one, store) for one in zip(paths, parts, used, strict=True)]
    work.run(_compare_task, tasks, [len(part) for part in parts], EVIDENCE, "compare pairs", "pair")
    return np.concatenate([np.zeros(0, EVIDENCE), *(np.fromfile(path, EVIDENCE) for path in paths)])


def compare_colours(evidence: np.ndarray, pairs: np.ndarray, appearance: np.ndarray) -> None:
    """Fill in the ``colour`` of the pairs ``(P, 2)`` from `LocalStore.appearance`."""
    colours = neighbours.normalise(appearance["colour"])
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        a, b = pairs[part].T
        evidence["colour"][part] = np.einsum("pd,pd->p", colours[a], colours[b])


def _describe_task(task: tuple[Path, Sequence[Picture], Detail]) -> None:
    cv2.setNumThreads(1)
    path, pictures, detail = task
    described = np.stack([describe_picture(content(picture), detail) for picture in pictures])
    with atomic_file(path) as temporary:
        described.tofile(temporary)


def _compare_task(task: tuple[Path, np.ndarray, dict[int, Picture], LocalStore]) -> None:
    """Compare sorted ``pairs`` (P, 4): rows a and b, upright and mirrored orientation."""
    cv2.setNumThreads(1)
    path, pairs, pictures, store = task
    found, last = np.zeros(len(pairs), EVIDENCE), -1
    for number, (a, b, *orientations) in enumerate(pairs.tolist()):
        if a != last:
            first, last = local_of(store.record(a)), a
        structures = [functools.partial(_structure, pictures[row], bytes(store.hidden[row])) for row in (a, b)]
        found[number] = compare_pictures(first, local_of(store.record(b)), structures, orientations)
    with atomic_file(path) as temporary:
        found.tofile(temporary)


def compare_pictures(
    first: Local, second: Local, structures: Sequence[Callable[[], np.ndarray]], orientations: Sequence[int] = (-1, -1)
) -> np.ndarray:
    """The evidence of one pair, a record of `EVIDENCE`; ``structures`` return `alignment.structure` of both pictures.

    The pictures are aligned only if enough local features agree or ``orientations`` (upright, mirrored; -1: none) name
    one of the 8 flips and turns to start from.
    """
    row, strongest = np.zeros((), EVIDENCE), first.strongest(FEW_POINTS)
    for world, orientation in enumerate(orientations):
        seen = (lambda local: local.mirrored()) if world else (lambda local: local)
        matched = consensus(strongest, seen(second.strongest(FEW_POINTS)))
        if matched.inliers >= LEAST_TO_GO_ON and max(len(first.points), len(second.points)) > FEW_POINTS:
            matched = max(matched, consensus(first, seen(second)), key=lambda found: found.inliers)
        row["inliers"][world], row["matches"][world] = matched.inliers, matched.matches
        told = matched.inliers >= LEAST_TO_ALIGN
        if not told and orientation < 0:
            continue
        fixed, moving = (structure() for structure in structures)
        starts = []
        if told:
            assert matched.matrix is not None
            # The map is rescaled from the pictures that were matched to those that are aligned.
            ours, theirs = fixed.shape[1] / first.size[0], moving.shape[1] / second.size[0]
            starts.append(np.column_stack([matched.matrix[:, :2] * (theirs / ours), matched.matrix[:, 2] * theirs]))
        if orientation >= 0:
            starts.append(alignment.oriented_start(orientation, fixed.shape, moving.shape))
        moving = np.ascontiguousarray(moving[:, ::-1]) if world else moving
        aligned = max((alignment.align(fixed, moving, start) for start in starts), key=lambda found: found.correlation)
        row["correlation"][world], row["overlap"][world] = aligned.correlation, aligned.overlap
        if aligned.matrix is not None:
            row["matrix"][world] = aligned.matrix
    return row


@functools.lru_cache(maxsize=512)
def _structure(picture: Picture, hidden: bytes) -> np.ndarray:
    return alignment.structure(content(picture), unpacked(np.frombuffer(hidden, np.uint8)[None])[0])
