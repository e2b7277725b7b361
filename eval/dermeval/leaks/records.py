"""All images under audit as one table, with their features and where their pixels are stored."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dermeval.features.embeddings import Embeddings, open_embeddings, refuse_mixed
from dermeval.leaks.verify import Picture
from dermssl import licences
from dermssl.errors import InputError


class Records(NamedTuple):
    """Row ``i`` of ``frame`` has ``features[i]`` and lies at ``pictures[i]``; ``groups`` are integer ``group_id``.

    ``views`` are features of further views of the same rows, of those views that every folder has.
    """

    frame: pd.DataFrame
    features: np.ndarray
    views: dict[str, np.ndarray]
    pictures: list[Picture]
    groups: np.ndarray
    labels: list[str]
    datasets: list[dict[str, Any]]
    licences: list[dict[str, Any]]
    encoder: dict[str, Any]


def open_records(folders: Sequence[str]) -> Records:
    """Open embeddings folders to be audited together.

    Raises:
        InputError: different encoders, an image that comes twice, or a dataset folder out of reach.
    """
    sets = [open_embeddings(folder) for folder in folders]
    refuse_mixed(sets, "embed both alike with one")
    frame = pd.concat([one.frame for one in sets], ignore_index=True)
    twice = frame["image_id"][frame["image_id"].duplicated()]
    if len(twice):
        raise InputError(f"{len(twice)} images (first {twice.iloc[0]}) are in two of the folders: give each set once")
    return Records(
        frame,
        _joined([one.features for one in sets]),
        {name: _joined([one.views[name] for one in sets]) for name in _shared_views(sets)},
        [picture for one in sets for picture in _pictures(one)],
        pd.factorize(frame["group_id"])[0],
        sorted({target.column for one in sets for target in one.targets.values()} & set(frame.columns)),
        [entry for one in sets for entry in one.info["datasets"]],
        licences.merge(entry for one in sets for entry in one.licences),
        sets[0].encoder,
    )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _shared_views(sets: Sequence[Embeddings]) -> list[str]:
    return [name for name in sets[0].views if all(name in one.views for one in sets)]


def _pictures(embeddings: Embeddings) -> list[Picture]:
    for entry in embeddings.info["datasets"]:
        if entry["name"] not in embeddings.datasets:
            raise InputError(f"{entry['path']} is out of reach: the audit compares stored pixels, so put it back there")
    rows = {
        image_id: Picture(dataset.folder, row)
        for dataset in embeddings.datasets.values()
        for row, image_id in enumerate(dataset.column("image_id"))
    }
    return [rows[image_id] for image_id in embeddings.table["image_id"].to_pylist()]
