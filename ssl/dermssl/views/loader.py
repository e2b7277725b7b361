"""From pooled dataset folders to batches of views. Data workers make whole views in uint8; the device normalises."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dermssl.data_workers import make_data_loader
from dermssl.dataset.store import ImageStore
from dermssl.errors import shortened
from dermssl.parallel import available_cores
from dermssl.views import colour, draws
from dermssl.views.crops import cut, decode, turn
from dermssl.views.positives import Partners
from dermssl.views.recipe import ViewOptions, group_views
from dermssl.views.sampler import Item, RankBatches

CACHED = 2**17
"""Values that a CPU normalises at a time, few enough for its cache. A GPU takes all at once."""


@dataclass(frozen=True)
class Pool:
    """The training rows of all image stores: pooled row ``i`` is row ``row[i]`` of ``stores[store[i]]``.

    ``partners`` says which rows are positives of each other; None if all views of an image show this image.
    """

    stores: Sequence[ImageStore]
    store: np.ndarray
    row: np.ndarray
    partners: Partners | None = None

    def image(self, row: int) -> np.ndarray:
        """The decoded image of a pooled row: ``(H, W, 3)`` uint8. Raises DamagedImage."""
        store, own = self.stores[self.store[row]], int(self.row[row])
        try:
            return decode(store.jpeg(own))
        except (ValueError, cv2.error) as error:
            raise store.unusable(own, f"is damaged ({shortened(error)})") from None


class ViewDataset(Dataset):
    """Makes the views of whole micro-batches. Random numbers depend on the item, not on the worker."""

    def __init__(self, pool: Pool, options: ViewOptions, seed: int) -> None:
        self.pool, self.options, self.seed = pool, options, seed
        self.groups = group_views(options)

    def __getitems__(self, items: list[Item]) -> list[Tensor]:
        """The views of a micro-batch: ``(V, B, S, S, 3)`` uint8 RGB of the global crops, then of the local ones."""
        every = list(itertools.chain(*self.groups))
        numbers = np.stack([draws.uniforms(self.seed, item.epoch, item.position, len(every)) for item in items])
        changes = draws.changes(self.options, every, numbers)
        matrices = colour.matrices(changes)
        shapes = [(len(views), len(items), views[0].size, views[0].size, 3) for views in self.groups]
        batch = [np.empty(shape, np.uint8) for shape in shapes]
        outs = [out for group in batch for out in group]
        seconds = [number % 2 for views in self.groups for number in range(len(views))]
        for index, item in enumerate(items):
            image, partner = self.pool.image(item.row), item.row
            if self.pool.partners:
                partner = self.pool.partners.partner(item.row, self.options.positive_share, numbers[index, 0])
            images = image, image if partner == item.row else self.pool.image(partner)
            for number, view in enumerate(every):
                at, image = (index, number), images[seconds[number]]
                box = draws.crop_box(view.scale, image.shape[1], image.shape[0], numbers[at].tolist())
                made = cut(image, box, view.size)
                if changes.coloured[at]:
                    made = colour.recolour(made, matrices[at])
                if changes.sigma[at]:
                    made = colour.blur(made, float(changes.sigma[at]))
                if changes.solarize[at]:
                    made = colour.solarize(made)
                turn(made, int(changes.turn[at]), out=outs[number][index])
        return [torch.from_numpy(group) for group in batch]


def make_loader(dataset: ViewDataset, batches: RankBatches, workers: int, pin: bool) -> DataLoader:
    """One pass over ``batches``. The number of ``workers`` changes no view; ``pin`` is for a GPU."""
    size = batches.images * sum(3 * view.size**2 for views in dataset.groups for view in views)
    return make_data_loader(dataset, batches, workers, pin, size, collate_fn=list)  # the batch is made already


def default_workers() -> int:
    """Data workers of a rank by default: its share of this machine's cores, less one for training."""
    return max(1, available_cores(per_rank=True) - 1)


def to_views(
    crops: list[Tensor], device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]
) -> list[Tensor]:
    """Move ``crops`` (V, B, S, S, 3) to ``device`` and normalise them: ``(V, B, 3, S, S)`` float32.

    ``mean`` and ``std`` of the channels are for values from 0 to 1. The channels of a pixel stay side by side in
    memory, so ``flatten(0, 1)`` of the result has the channels_last layout.
    """
    views = []
    for pixels in crops:
        size = pixels.shape[2]
        # Whole rows of pixels, because PyTorch is slow when it broadcasts over three numbers.
        scale, shift = ((value / torch.tensor(std)).repeat(size).to(device) for value in (1 / 255, -torch.tensor(mean)))
        rows = pixels.to(device, non_blocking=True).flatten(0, 1).flatten(2)
        made = torch.empty(rows.shape, device=device)
        few = max(1, CACHED // rows[0].numel()) if device.type == "cpu" else len(rows)
        for images, out in zip(rows.split(few), made.split(few), strict=True):
            torch.addcmul(shift, out.copy_(images), scale, out=out)
        views.append(made.unflatten(0, pixels.shape[:2]).unflatten(3, (size, 3)).movedim(4, 2))
    return views
