"""Overlays: rulers, date stamps, frames and watermarks that stand at the same place in pictures of many records.

Two photographs with one overlay agree there as if they were copies, and not when one is mirrored, so the background
does not show it (Weyand et al. 2015, on matches by watermarks, timestamps and frames). Overlays are found in the
pictures themselves and left out of every comparison.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from dermeval.leaks.local_features import THUMBNAIL, layout_vectors

SAMPLE = 600
"""Overlays are looked for in as many images, which are spread over the whole set."""
SAME_PLACE, SAME_SIZE, SAME_TURN = 0.01, 0.3, 0.2
"""Largest differences of two features at one place: share of width and height, log2 of the sizes, turn (radians)."""
ALIKE = 0.9
"""Least cosine of the descriptors of one detail. In 400 photographs of PAD-UFES-20, 2 in 100,000 features resemble
those of two others at their place so much, upright as mirrored."""
LEAST_RECORDS, LEAST_CELLS = 4, 3
"""A feature that stands at one place in its own record and so many others belongs to an overlay. In a picture with
such features in fewer cells nothing is hidden: round lesions in the middle resemble each other in one or two."""
COPY = 0.9
"""Two pictures whose layouts outside the shared features correlate so much are copies. They show no overlay."""
LEAST_REST = 0.1
"""Least share of a picture that must lie outside the shared features, to tell an overlay from a copy."""
SHARED_BY_COPIES = 0.5
"""Two pictures whose shared features cover so much are copies, one of which may be lit otherwise or partly covered."""
COMPARED_AT_ONE_PLACE, TEMPLATES_AT_ONE_PLACE = 32, 8
"""Of the features at one place, so many are compared with all others: identical pictures would give pairs without
number. So many templates of one place are kept."""
FEATURES_AT_ONCE = 5_000
ONE_COLOUR = 5.0
"""Grey levels by which a thumbnail's cell of one colour differs: between two pictures, and as a standard deviation."""


class Features(NamedTuple):
    """Features of several images: ``image`` (M,), ``place`` (M, 5), unit ``descriptor`` (M, 128), ``cell`` (M,).

    Places closer than 1 in every coordinate are the same. Cells number the squares of the thumbnail, row by row.
    """

    image: np.ndarray
    place: np.ndarray
    descriptor: np.ndarray
    cell: np.ndarray

    def part(self, chosen: np.ndarray) -> "Features":
        """The chosen features."""
        return Features(*(values[chosen] for values in self))


def features_of(block: np.ndarray, most: int, first: int = 0) -> Features:
    """The ``most`` strongest features of each description ``(B,)`` (`record_type`) of the images from ``first`` on."""
    image, number = np.nonzero(np.arange(most) < block["count"][:, None])
    points, size = block["points"][image, number], block["size"][image]
    sizes = np.log2(points[:, 2] / size.min(axis=1))
    turn = np.column_stack([np.cos(points[:, 3]), np.sin(points[:, 3])])
    place = np.column_stack([points[:, :2] / size / SAME_PLACE, sizes / SAME_SIZE, turn / SAME_TURN])
    descriptor = block["descriptors"][image, number].astype(np.float32)
    descriptor /= np.linalg.norm(descriptor, axis=1, keepdims=True) + 1e-6
    return Features(image + first, place, descriptor, cell_numbers(points, size))


def cell_numbers(points: np.ndarray, size: np.ndarray | tuple[float, float]) -> np.ndarray:
    """The cell of the thumbnail, counted row by row, in which each of the keypoints ``(M, 4)`` lies, ``(M,)``."""
    column, row = np.clip((points[:, :2] / size * THUMBNAIL).astype(np.int64), 0, THUMBNAIL - 1).T
    return row * THUMBNAIL + column


def overlay_cells(
    blocks: Callable[[], Iterable[tuple[int, np.ndarray]]], groups: np.ndarray, pool: np.ndarray, most: int
) -> np.ndarray:
    """Which cells of each picture an overlay covers, ``(N, 16, 16)`` bool.

    ``blocks`` gives the descriptions of all images (`verify.LocalStore.blocks`), whose ``most`` strongest features are
    used. ``groups`` (N,) are the integer records. Images of different ``pool`` (N,) are not compared (`records.pools`).
    """
    step = -(-len(groups) // SAMPLE)
    sample, thumbnails = [], []
    for start, block in blocks():
        rows = np.flatnonzero((start + np.arange(len(block))) % step == 0)
        found = features_of(block[rows], most)
        sample.append(found._replace(image=start + rows[found.image]))
        thumbnails.append(block["thumbnail"][rows])
    features = Features(*map(np.concatenate, zip(*sample, strict=True)))
    small = np.concatenate(thumbnails)
    templates = overlay_features(features, groups, pool, small, step)
    hidden = np.zeros((len(groups), THUMBNAIL * THUMBNAIL), bool)
    if not len(templates.image):
        return hidden.reshape(-1, THUMBNAIL, THUMBNAIL)
    templates = _thinned(templates, TEMPLATES_AT_ONE_PLACE)
    for start, block in blocks():
        features = features_of(block, most, start)
        kept = same_details(features, templates, groups, pool)[0]
        hidden[features.image[kept], features.cell[kept]] = True
    hidden[hidden.sum(axis=1) < LEAST_CELLS] = False
    cells = with_neighbours(hidden)
    marked = np.asarray(cells.any(axis=(1, 2)))
    # A frame is mostly even, without features: its cells have one colour in all pictures that show it.
    shown = small[marked[::step]]
    even = shown.std(axis=0).max(axis=-1) < ONE_COLOUR if len(shown) > LEAST_RECORDS else False
    return cells | (marked[:, None, None] & even)


def overlay_features(
    features: Features, groups: np.ndarray, pool: np.ndarray, thumbnails: np.ndarray, step: int
) -> Features:
    """The features that stand at the same place in `LEAST_RECORDS` other records, whose pictures differ otherwise.

    ``thumbnails`` are those of every ``step``-th image.
    """
    others = _thinned(features, COMPARED_AT_ONE_PLACE)
    one, other = same_details(features, others, groups, pool)
    pair = features.image[one] * len(groups) + others.image[other]
    pairs, which = np.unique(pair, return_inverse=True)
    shared = np.zeros((len(pairs), THUMBNAIL * THUMBNAIL), bool)
    shared[which, features.cell[one]] = shared[which, others.cell[other]] = True
    a, b = np.divmod(pairs, len(groups))
    differ = _rest_differs(shared, thumbnails[a // step], thumbnails[b // step])
    one, other = one[differ[which]], other[differ[which]]
    seen = np.unique(one * len(groups) + groups[others.image[other]]) // len(groups)
    return features.part(np.bincount(seen, minlength=len(features.image)) >= LEAST_RECORDS)


def same_details(
    first: Features, second: Features, groups: np.ndarray, pool: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of features at the same place with the same descriptor, of two records: two arrays of positions."""
    tree, found = cKDTree(second.place), [np.zeros((2, 0), np.int64)]
    for start in range(0, len(first.place), FEATURES_AT_ONCE):
        places = cKDTree(first.place[start : start + FEATURES_AT_ONCE])
        near = places.sparse_distance_matrix(tree, 1.0, p=np.inf, output_type="ndarray")
        one, other = near["i"] + start, near["j"]
        ours, theirs = first.image[one], second.image[other]
        compared = np.flatnonzero((groups[ours] != groups[theirs]) & (pool[ours] == pool[theirs]))
        for part in np.split(compared, range(100_000, len(compared), 100_000)):
            cosine = np.einsum("pd,pd->p", first.descriptor[one[part]], second.descriptor[other[part]])
            found.append(np.stack([one[part], other[part]])[:, cosine >= ALIKE])
    one, other = np.concatenate(found, axis=1)
    return one, other


def _rest_differs(shared: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """For pairs of thumbnails whether they differ outside the ``shared`` cells ``(P, 256)``."""
    differ = np.zeros(len(shared), bool)
    for start in range(0, len(shared), 10_000):
        part = slice(start, start + 10_000)
        ours, theirs = first[part].astype(np.int16), second[part].astype(np.int16)
        # Cells of the same colour are left out too: an even frame is alike in all pictures, as a copy is.
        covered = with_neighbours(shared[part])
        cells = covered | (np.abs(ours - theirs).max(axis=-1) < ONE_COLOUR)
        ours, theirs = (layout_vectors(_covered(images[part], cells)) for images in (first, second))
        rest = 1 - cells.mean(axis=(1, 2))
        copies = (covered.mean(axis=(1, 2)) >= SHARED_BY_COPIES) | (np.einsum("pd,pd->p", ours, theirs) >= COPY)
        differ[part] = (rest >= LEAST_REST) & ~copies
    return differ


def _covered(thumbnails: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Thumbnails ``(P, 16, 16, 3)`` whose ``cells`` get the mean colour of the others: no weight in a layout."""
    seen = ~cells[..., None]
    mean = (thumbnails * seen).sum(axis=(1, 2)) / np.maximum(seen.sum(axis=(1, 2)), 1)
    return np.where(seen, thumbnails, np.rint(mean)[:, None, None]).astype(np.uint8)


def with_neighbours(cells: np.ndarray) -> np.ndarray:
    """The cells ``(P, 256)`` and the 8 around each, ``(P, 16, 16)`` bool."""
    padded = np.pad(cells.reshape(-1, THUMBNAIL, THUMBNAIL), ((0, 0), (1, 1), (1, 1)))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)).max(axis=(3, 4)))


def _thinned(features: Features, most: int) -> Features:
    """The ``most`` features of each place, by one random order of the images, so a pair of images keeps all or none."""
    turn = np.random.default_rng(0).permutation(features.image.max(initial=0) + 1)[features.image]
    _, place = np.unique(np.floor(features.place), axis=0, return_inverse=True)
    order = np.lexsort((turn, place))
    number = np.arange(len(order)) - np.searchsorted(place[order], place[order])
    return features.part(np.sort(order[number < most]))


def without_cells(block: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Descriptions ``(B,)`` without the features in their ``cells`` ``(B, 16, 16)``, now weightless in layouts."""
    block, changed = block.copy(), np.flatnonzero(cells.any(axis=(1, 2)))
    for number in changed:
        one, points = block[number], block["points"][number]
        covered = cells[number].ravel()[cell_numbers(points, one["size"])]
        kept = np.flatnonzero((np.arange(len(points)) < one["count"]) & ~covered)
        for name in ("points", "descriptors"):
            block[name][number, : len(kept)] = block[name][number, kept]
        block["count"][number] = len(kept)
    block["thumbnail"][changed] = _covered(block["thumbnail"][changed], cells[changed])
    return block


def packed(cells: np.ndarray) -> np.ndarray:
    """Cells ``(N, 16, 16)`` bool as bits, ``(N, 32)`` uint8."""
    return np.packbits(cells.reshape(len(cells), -1), axis=1)


def unpacked(bits: np.ndarray) -> np.ndarray:
    """The opposite of `packed`."""
    return np.unpackbits(bits, axis=1).reshape(-1, THUMBNAIL, THUMBNAIL).astype(bool)
