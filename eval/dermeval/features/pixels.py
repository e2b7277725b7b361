"""The baseline that every encoder should beat: principal components of the raw pixels."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

from dermssl.errors import InputError

MAX_FIT_ROWS = 20_000
"""The largest number of images to fit the components on; more would change them little and cost memory."""


class PixelPCA(nn.Module):
    """Images ``(B, 3, S, S)`` with values 0-1 -> their first D = ``components`` principal components ``(B, D)``."""

    mean: torch.Tensor
    directions: torch.Tensor

    def __init__(self, components: int, image_size: int, seed: int) -> None:
        super().__init__()
        self.num_features, self.seed = components, seed
        self.register_buffer("mean", torch.zeros(3 * image_size**2))
        self.register_buffer("directions", torch.zeros(3 * image_size**2, components))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Project images, always in float32, because differences of pixels are small."""
        with torch.autocast(images.device.type, enabled=False):
            return (images.float().flatten(1) - self.mean) @ self.directions

    def fit(self, pixels: np.ndarray) -> None:
        """Fit on ``pixels`` ``(N, 3*S*S)`` with values 0-1 by seeded randomized SVD (Halko et al. 2011).

        Raises InputError: there is no image, or there are fewer images or pixels than components.
        """
        if not len(pixels):
            raise InputError(
                f"pixels:{self.num_features} is fitted on train images, but there are none: split the data"
            )
        if min(pixels.shape) < self.num_features:
            raise InputError(
                f"pixels:{self.num_features} needs at least {self.num_features} train images and pixel values, but "
                f"there are {pixels.shape[0]} images of {pixels.shape[1]} values: ask for fewer components"
            )
        pca = PCA(self.num_features, svd_solver="randomized", random_state=self.seed).fit(pixels)
        self.mean.copy_(torch.from_numpy(pca.mean_))
        self.directions.copy_(torch.from_numpy(pca.components_.T.copy()))


def fit_rows(splits: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The rows to fit on: those of train and without a split, or a seeded sample of `MAX_FIT_ROWS` of them.

    Images without a split whose group is in test are left out, as in pretraining.
    """
    fitted = [split is None or split == "train" for split in splits]
    rows = np.flatnonzero(fitted & ~np.isin(groups, groups[splits == "test"]))
    if len(rows) > MAX_FIT_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_FIT_ROWS, replace=False))
    return rows
