"""Pools several embeddings folders of one encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from dermeval.features.embeddings import Embeddings, open_embeddings, refuse_mixed
from dermeval.features.ledger import Seen, seen_images
from dermssl import licences
from dermssl.dataset.splits import join_copies
from dermssl.dataset.targets import Target
from dermssl.errors import InputError


@dataclass(frozen=True)
class PooledEmbeddings:
    """Row ``i`` of ``features`` (N, D; not normalised) is row ``i`` of ``frame``."""

    parts: list[Embeddings]
    features: np.ndarray
    frame: pd.DataFrame

    @property
    def encoder(self) -> dict[str, Any]:
        """The record of the encoder that made all features."""
        return self.parts[0].encoder

    @property
    def datasets(self) -> list[dict[str, Any]]:
        """The records of the pooled data sets, see `dermeval.features.embeddings.EmbeddedRows.present_datasets`."""
        return [entry for part in self.parts for entry in part.present_datasets]

    @property
    def where(self) -> str:
        """The embeddings folders, for messages."""
        return ", ".join(str(part.folder) for part in self.parts)

    @property
    def licences(self) -> list[dict[str, Any]]:
        """The licence notices of everything that went into the features."""
        return licences.merge(entry for part in self.parts for entry in part.notices)

    @cached_property
    def groups(self) -> np.ndarray:
        """The group of each row ``(N,)``; groups that share an image are one. Folds and the bootstrap keep it whole."""
        return join_copies(self.frame["group_id"], self.frame["pixel_sha256"]).to_numpy(dtype=object)

    @cached_property
    def seen(self) -> Seen:
        """The images that the encoder saw in pretraining."""
        datasets = {name: dataset for part in self.parts for name, dataset in part.datasets.items()}
        return seen_images(self.encoder, self.frame, datasets)

    @cached_property
    def targets(self) -> dict[str, dict[str, Target]]:
        """For each name of a target, the target of each data set that has one."""
        found: dict[str, dict[str, Target]] = {}
        for part in self.parts:
            for dataset, targets in part.targets_by_dataset.items():
                for name, target in targets.items():
                    found.setdefault(name, {})[dataset] = target
        return found


def open_pool(folders: Sequence[str]) -> PooledEmbeddings:
    """Open embeddings folders to pool. Raises InputError if encoders differ or one data set is in two folders."""
    parts = [open_embeddings(folder) for folder in folders]
    refuse_mixed(parts, "embed both with one encoder in the same way, or compare results with `dermeval compare`")
    names = [entry["name"] for part in parts for entry in part.info["datasets"]]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"two of the embeddings folders hold data set '{twice[0]}': give one of them")
    features = parts[0].features if len(parts) == 1 else np.concatenate([part.features for part in parts])
    return PooledEmbeddings(parts, features, pd.concat([part.frame for part in parts], ignore_index=True))
