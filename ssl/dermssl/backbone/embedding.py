"""Embeds images: stored images -> timm's transform -> device -> features. All commands embed by this module."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dermssl.backbone.build import IMAGENET, Normalisation
from dermssl.data_workers import make_data_loader, read_batches

BATCH = 128
MAX_ASPECT = 8
"""The ratio of long to short side up to which a whole image is resized before its centre is cropped."""

Encode = Callable[[Tensor], Tensor]
"""Normalised images ``(B, 3, S, S)`` -> features ``(B, D)``."""
Change = Callable[[Image.Image], Image.Image]
"""A function that makes a further view of an image."""


def preprocessing_at(image_size: int, normalisation: Normalisation = IMAGENET) -> dict[str, Any]:
    """The preprocessing of images for encoders that are trained here, as a timm data config."""
    crop = {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    return {"input_size": (3, image_size, image_size), **crop, **normalisation._asdict()}


class Pictures(TorchDataset):
    """Preprocessed images: item ``row`` is ``(row, images)``, uint8 ``(V, 3, S, S)``: the image and its further views.

    Rows are numbered through all ``stores``, which give an RGB image by ``image(row)``. ``preprocessing`` is a timm
    data config (``input_size``, ``interpolation``, ``crop_pct``, ``crop_mode``, ``mean``, ``std``).
    """

    def __init__(
        self, stores: Sequence[Any], preprocessing: dict[str, Any], further_views: Sequence[Change] = ()
    ) -> None:
        self.stores, self.preprocessing, self.further_views = stores, preprocessing, tuple(further_views)
        self.starts = np.cumsum([0, *map(len, stores)])
        # The device normalises, because bytes are a quarter of the size of floats.
        self.transform = timm.data.create_transform(**preprocessing, is_training=False, normalize=False)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> tuple[int, Tensor]:
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return row, self.prepare(self.stores[part].image(row - int(self.starts[part])))

    def prepare(self, image: Image.Image) -> Tensor:
        """One image and its further views, resized and cropped: uint8 ``(V, 3, S, S)``."""
        seen = [image, *(change(image) for change in self.further_views)]
        return torch.stack([self.transform(self._without_ends(one)) for one in seen])

    def _without_ends(self, image: Image.Image) -> Image.Image:
        """The middle of a very long image. Its ends would be resized at a high cost and then cropped away."""
        short = min(image.size)
        if max(image.size) <= MAX_ASPECT * short or self.preprocessing.get("crop_mode", "center") != "center":
            return image
        width, height = (min(side, MAX_ASPECT * short) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


def in_batches(rows: Sequence[int] | np.ndarray, size: int = BATCH) -> list[list[int]]:
    """``rows`` cut into lists of at most ``size``."""
    return [[int(row) for row in rows[start : start + size]] for start in range(0, len(rows), size)]


def batches_of_pictures(
    pictures: Pictures, batches: Sequence[list[int]], workers: int = 0, pin: bool = False
) -> DataLoader:
    """A loader of rows ``(B,)`` and their images uint8 ``(B, V, 3, S, S)``, one batch per list of rows, in order."""
    views, (_, height, width) = 1 + len(pictures.further_views), pictures.preprocessing["input_size"]
    size = max(map(len, batches), default=0) * views * 3 * height * width
    return make_data_loader(pictures, batches, workers, pin, size)


def embed_batches(
    encode: Encode,
    pictures: Pictures,
    batches: Sequence[list[int]],
    device: torch.device,
    precision: str = "fp32",
    workers: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows ``(b,)`` and their features ``(b, V, D)`` float32, one batch per list of rows, in order.

    ``precision`` is ``fp32`` or ``bf16`` (autocast). The features of a row depend on its image, the encoder and the
    device, and within float tolerance on the other rows of its batch. Nothing is random.
    """
    for rows, images in read_batches(batches_of_pictures(pictures, batches, workers, device.type == "cuda")):
        yield rows.numpy(), encode_batch(encode, images, pictures.preprocessing, device, precision)


@torch.no_grad()
def encode_batch(
    encode: Encode, images: Tensor, preprocessing: dict[str, Any], device: torch.device, precision: str = "fp32"
) -> np.ndarray:
    """Prepared images, uint8 ``(B, V, 3, S, S)`` -> features ``(B, V, D)`` float32, one view at a time."""
    features = []
    for view in images.unbind(1):
        pixels = normalise_pixels(view, preprocessing, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            features.append(encode(pixels).float().cpu())
    return torch.stack(features, dim=1).numpy()


def normalise_pixels(images: Tensor, preprocessing: dict[str, Any], device: torch.device) -> Tensor:
    """uint8 ``(B, 3, S, S)`` -> float32 on ``device``, channels last, normalised by the encoder's mean and std."""
    mean, std = (torch.tensor(preprocessing[name], device=device).view(3, 1, 1) for name in ("mean", "std"))
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return (images.float() / 255 - mean) / std
