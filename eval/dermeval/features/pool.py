"""Pools several embeddings folders of one encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dermeval.features.embeddings import Embeddings, open_embeddings, pooled_rows, refuse_mixed
from dermeval.features.ledger import Seen, seen_images
from dermssl import licences
from dermssl.dataset.splits import join_copies
from dermssl.errors import InputError


@dataclass(frozen=True)
class PooledEmbeddings(Embeddings):
    """Several embeddings folders as one. ``folder`` names all of them, for messages."""

    @cached_property
    def groups(self) -> np.ndarray:
        """The group of each row ``(N,)``; groups that share an image are one. Folds and the bootstrap keep it whole."""
        return join_copies(self.frame["group_id"], self.frame["pixel_sha256"]).to_numpy(dtype=object)

    @cached_property
    def seen(self) -> Seen:
        """The images that the encoder saw in pretraining."""
        return seen_images(self.encoder, self.frame, self.datasets)


def open_pool(folders: Sequence[str]) -> PooledEmbeddings:
    """Open embeddings folders to pool. InputError: encoders differ, a folder is empty, or two hold one data set."""
    parts = [open_embeddings(folder) for folder in folders]
    refuse_mixed(parts, "embed both with one encoder in the same way, or compare results with `dermeval compare`")
    for part in (part for part in parts if not len(part)):
        raise InputError(f"{part.folder}: no images left, all were removed: make it again with other images")
    entries = [entry for part in parts for entry in part.info["datasets"]]
    names = [entry["name"] for entry in entries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"two of the embeddings folders hold data set '{twice[0]}': give one of them")
    notices = licences.merge(entry for part in parts for entry in part.info["licences"])
    info = {"encoder": parts[0].encoder, "datasets": entries, "licences": notices}
    info |= {"sha256": [part.info["sha256"] for part in parts]}
    features = parts[0].features if len(parts) == 1 else np.concatenate([part.features for part in parts])
    where = Path(", ".join(str(part.folder) for part in parts))
    return PooledEmbeddings(where, info, pooled_rows([part.table for part in parts]), features)
