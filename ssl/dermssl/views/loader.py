"""From pooled dataset folders to batches of views. Workers make whole views in 8 bits; the device only normalises."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dermssl.data_workers import make_data_loader
from dermssl.dataset.store import ImageStore
from dermssl.parallel import available_cores
from dermssl.views import colour, draws
from dermssl.views.crops import cut, decode, turn
from dermssl.views.positives import Partners
from dermssl.views.recipe import ViewOptions, group_views
from dermssl.views.sampler import Item, RankBatches


@dataclass(frozen=True)
class Pool:
    """Training rows of several stores: pooled row ``i`` is row ``row[i]`` of ``stores[store[i]]``.

    ``partners`` says which rows are positives of each other; None where all views of an image show that image.
    """

    stores: Sequence[ImageStore]
    store: np.ndarray
    row: np.ndarray
    partners: Partners | None = None

    def image(self, row: int) -> np.ndarray:
        """The decoded image of a pooled row: ``(H, W, 3)`` uint8."""
        return decode(self.stores[self.store[row]].jpeg(int(self.row[row])))

    def __len__(self) -> int:
        return len(self.row)


class ViewDataset(Dataset):
    """Makes the views of whole batches; every random number is a function of the item, not of the worker."""

    def __init__(self, pool: Pool, options: ViewOptions, seed: int) -> None:
        self.pool, self.options, self.seed = pool, options, seed
        self.groups = group_views(options)

    def __len__(self) -> int:
        return len(self.pool)

    def __getitems__(self, items: list[Item]) -> list[Tensor]:
        """The views of one micro-batch: for global and for local crops ``(V, B, S, S, 3)`` uint8, RGB."""
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
    """One pass over ``batches``; the number of workers changes no view."""
    sampler = batches.sampler
    images = sampler.batch // (batches.ranks * batches.accumulation)
    size = images * sum(3 * view.size**2 for views in dataset.groups for view in views)
    return make_data_loader(dataset, batches, workers, pin, size, collate_fn=list)  # the batch is made already


def default_workers() -> int:
    """Data workers per rank by default: this machine's cores, shared by its ranks, less one for training."""
    return max(1, available_cores(per_rank=True) - 1)


def to_views(
    crops: list[Tensor], device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]
) -> list[Tensor]:
    """Move to ``device`` and normalise: for global and local crops a tensor ``(V, B, 3, S, S)`` float32.

    ``mean`` and ``std`` are those of the channels for values 0 to 1. The channels of a pixel lie side by side, so that
    ``flatten(0, 1)`` is in channels_last layout.
    """
    views = []
    for pixels in crops:
        size = pixels.shape[2]
        # Whole rows of pixels, since PyTorch is slow where it broadcasts over three numbers.
        scale, shift = ((value / torch.tensor(std)).repeat(size).to(device) for value in (1 / 255, -torch.tensor(mean)))
        rows = pixels.to(device, non_blocking=True).flatten(3).float()
        views.append(torch.addcmul(shift, rows, scale).unflatten(3, (size, 3)).movedim(4, 2))
    return views
