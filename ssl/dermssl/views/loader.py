"""From pooled dataset folders to batches of views: stored JPEG -> crops in workers -> all else on the device."""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dermssl.dataset.store import ImageStore
from dermssl.views import draws, photometric
from dermssl.views.crops import cut, decode
from dermssl.views.recipe import ViewOptions, group_views
from dermssl.views.sampler import Item, RankBatches


@dataclass(frozen=True)
class Pool:
    """Training rows of several stores: pooled row ``i`` is row ``row[i]`` of ``stores[store[i]]``."""

    stores: Sequence[ImageStore]
    store: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


class Crops(NamedTuple):
    """One batch as workers hand it over: for global and for local crops, pixels and photometric parameters by view.

    ``pixels[s]`` is ``(V, B, 3, S, S)`` uint8 and ``parameters[s]`` ``(V, B, 10)`` float32.
    """

    pixels: list[Tensor]
    parameters: list[Tensor]


class ViewDataset(Dataset):
    """Cuts the views of whole batches; every random number is a function of the item, not of the worker."""

    def __init__(self, pool: Pool, options: ViewOptions, seed: int) -> None:
        self.pool = pool
        self.options = options
        self.seed = seed
        self.groups = group_views(options)

    def __len__(self) -> int:
        return len(self.pool)

    def __getitems__(self, items: list[Item]) -> Crops:
        """The crops of one micro-batch."""
        every = [view for views in self.groups for view in views]
        numbers = np.stack([draws.uniforms(self.seed, item.epoch, item.position, len(every)) for item in items])
        parameters = draws.photometric(self.options, every, numbers)
        shapes = [(len(views), len(items), 3, views[0].size, views[0].size) for views in self.groups]
        pixels = [np.empty(shape, np.uint8) for shape in shapes]
        places = [place for group in pixels for place in group]
        for index, item in enumerate(items):
            image = decode(self.pool.stores[self.pool.store[item.row]].jpeg(int(self.pool.row[item.row])))
            boxes = draws.crop_boxes(every, image.shape[2], image.shape[1], numbers[index])
            for place, view, box in zip(places, every, boxes.tolist(), strict=True):
                place[index] = cut(image, box, view.size)
        starts = np.cumsum([len(views) for views in self.groups])[:-1]
        by_view = np.split(parameters.swapaxes(0, 1), starts)
        return Crops([torch.from_numpy(p) for p in pixels], [torch.from_numpy(p) for p in by_view])


def make_loader(dataset: ViewDataset, batches: RankBatches, workers: int, pin: bool) -> DataLoader:
    """One pass over ``batches``; workers inherit nothing random and may be any number."""
    atexit.register(_end_workers)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_is,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_settle_worker,
    )


def _as_is(crops: Any) -> Any:
    return crops


def _settle_worker(_: int) -> None:
    torch.set_num_threads(1)
    # Schedulers send SIGTERM to every process of a job; training needs its workers until it has saved.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_workers() -> None:
    """Python would wait for ever for workers that an error has left behind, since they ignore SIGTERM."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def default_workers() -> int:
    """Decoding workers per rank when none are asked for: this machine's cores, shared by its ranks, one for training.

    Cores are those that the scheduler gave to this process; torchrun and Accelerate tell a machine's number of ranks.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)


def to_views(
    crops: Crops,
    device: torch.device,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    used: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Crops -> normalised views on ``device``: for global and local crops a tensor ``(V, B, 3, S, S)`` float32.

    ``used`` are views of equal shapes that are needed no more; their memory is used again.
    """
    views = []
    for number, (pixels, parameters) in enumerate(zip(crops.pixels, crops.parameters, strict=True)):
        count, batch = pixels.shape[:2]
        flat = pixels.flatten(0, 1).to(device, non_blocking=True)
        out = used[number].flatten(0, 1) if used else None
        finished = photometric.finish(flat, parameters.flatten(0, 1).numpy(), mean, std, out)
        views.append(finished.unflatten(0, (count, batch)))
    return views
