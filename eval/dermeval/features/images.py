"""Stored images of dataset folders as batches for an encoder."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import timm.data
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dermeval.features.options import View
from dermeval.features.views import VIEWS
from dermssl.dataset.dataset import Dataset

MAX_WORKERS = 8


class StoredImages(TorchDataset):
    """Item ``row`` is ``(row, uint8 (V, 3, S, S))``: the image, then its further ``views``.

    Rows count through the pooled datasets in order.
    """

    def __init__(self, datasets: Sequence[Dataset], preprocessing: dict[str, Any], views: Sequence[View] = ()) -> None:
        self.stores = [dataset.images for dataset in datasets]
        self.starts = np.cumsum([0, *map(len, datasets)])
        self.views = tuple(views)
        # Normalisation is left to the device: bytes are a quarter of the floats to hand over.
        self.transform = timm.data.create_transform(**preprocessing, is_training=False, normalize=False)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> tuple[int, torch.Tensor]:
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        image = self.stores[part].image(row - int(self.starts[part]))
        seen = [image, *(VIEWS[view](image) for view in self.views)]
        return row, torch.stack([self.transform(one) for one in seen])


def chunks(rows: Sequence[int] | np.ndarray, batch: int) -> list[list[int]]:
    """``rows`` cut into lists of at most ``batch``."""
    return [[int(row) for row in rows[start : start + batch]] for start in range(0, len(rows), batch)]


def batches(images: StoredImages, rows: Sequence[list[int]], workers: int | None, ranks: int = 1) -> DataLoader:
    """``(rows (B,), images (B, V, 3, S, S) uint8)`` for each list of ``rows``, in order.

    ``workers`` None: by cores and ``ranks``.
    """
    if workers is None:
        workers = min(MAX_WORKERS, max(1, (os.cpu_count() or 1) // ranks))
    return DataLoader(images, batch_sampler=rows, num_workers=workers, pin_memory=torch.cuda.is_available())


def normalised(images: torch.Tensor, preprocessing: dict[str, Any], device: torch.device) -> torch.Tensor:
    """uint8 ``(B, 3, S, S)`` -> float32 on ``device``, channels last, with the encoder's mean and std."""
    mean = torch.tensor(preprocessing["mean"], device=device).view(3, 1, 1)
    std = torch.tensor(preprocessing["std"], device=device).view(3, 1, 1)
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return (images.float() / 255 - mean) / std
