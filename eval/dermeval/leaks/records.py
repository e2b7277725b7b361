"""The audited images as one table, the place of their pixels, and their embeddings."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dermeval.features.embeddings import Embeddings, dataset_entry, how_made, open_embeddings
from dermeval.leaks.pictures import Picture
from dermssl import licences
from dermssl.dataset.dataset import Dataset, open_dataset
from dermssl.errors import InputError


class Embedded(NamedTuple):
    """Features ``(n, D)`` of the images ``rows`` (n,) by one encoder, and the features of further views."""

    name: str
    encoder: dict[str, Any]
    rows: np.ndarray
    features: np.ndarray
    views: dict[str, np.ndarray]

    def digest(self) -> str:
        """A hash of the features and of the rows that they belong to."""
        found = hashlib.sha256()
        for array in (self.rows, self.features, *self.views.values()):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


class AuditedImages(NamedTuple):
    """The audited images: ``pictures[i]`` and the integer record ``groups[i]`` belong to row ``i`` of ``frame``."""

    frame: pd.DataFrame
    pictures: list[Picture]
    groups: np.ndarray
    labels: list[str]
    embedded: list[Embedded]
    datasets: list[dict[str, Any]]
    licences: list[dict[str, Any]]

    def rows_of(self, image_ids: Sequence[str] | pd.Series) -> np.ndarray:
        """The rows of images; -1 where an image is not among the audited ones."""
        return pd.Index(self.frame["image_id"]).get_indexer(image_ids)


def open_audited(folders: Sequence[str], every_image: bool = False) -> AuditedImages:
    """Open dataset folders and embeddings folders to be audited together.

    A data set and any number of its embeddings may be given. ``every_image`` counts each image as a record of its own.
    Raises InputError if a folder is of another kind, a dataset folder is out of reach, or two data sets have one name.
    """
    if not folders:
        raise InputError("FOLDERS is missing: give dataset folders (`dermssl prepare`) or embeddings folders")
    datasets: dict[str, Dataset] = {}
    embeddings: list[Embeddings] = []
    for folder in map(Path, folders):
        if (folder / "embedding.json").is_file():
            embeddings.append(open_embeddings(folder))
            found = list(embeddings[-1].datasets.values())
            for entry in embeddings[-1].info["datasets"]:
                if entry["name"] not in embeddings[-1].datasets:
                    raise InputError(
                        f"{entry['path']} is out of reach, but the audit compares its stored images: put it back there"
                    )
        else:
            found = [open_dataset(folder)]
        for dataset in found:
            other = datasets.setdefault(dataset.name, dataset)
            if other.folder.resolve() != dataset.folder.resolve():
                raise InputError(
                    f"{other.folder} and {dataset.folder} are both named '{dataset.name}': prepare one of them again "
                    "with another --name"
                )
    # The score of a pair depends a little on which picture is the first; the order of the folders must not decide it.
    datasets = dict(sorted(datasets.items()))
    frame = pd.concat([dataset.frame() for dataset in datasets.values()], ignore_index=True)
    if not len(frame):
        raise InputError(f"{', '.join(folders)}: no images left, all were removed: prepare the data set again")
    if every_image:
        frame["group_id"] = frame["image_id"]
    targets = {target.column for dataset in datasets.values() for target in dataset.targets.values()}
    return AuditedImages(
        frame,
        [Picture(one.folder, row, one.images.version) for one in datasets.values() for row in range(len(one))],
        pd.factorize(frame["group_id"])[0],
        sorted(targets & set(frame.columns)),
        _embedded(embeddings, frame),
        [{key: value for key, value in dataset_entry(one).items() if key != "targets"} for one in datasets.values()],
        licences.merge(
            [dataset.licence for dataset in datasets.values()]
            + [entry for one in embeddings for entry in one.info["licences"]]
        ),
    )


def _embedded(folders: Sequence[Embeddings], frame: pd.DataFrame) -> list[Embedded]:
    """The embeddings of each encoder and kind of features; several folders of one kind are joined."""
    rows, pixels = pd.Index(frame["image_id"]), frame["pixel_sha256"].to_numpy()
    by_encoder: dict[str, list[Embeddings]] = {}
    for one in folders:
        for lost in set(one.table["image_id"].to_pylist()) - set(rows):
            raise InputError(f"{one.folder}: image {lost} is no longer in its data set: run `dermeval embed` again")
        ids, embedded = (one.table[name].to_numpy() for name in ("image_id", "pixel_sha256"))
        for changed in ids[pixels[rows.get_indexer(ids)] != embedded]:
            raise InputError(f"{one.folder}: image {changed} changed after embedding: run `dermeval embed` again")
        by_encoder.setdefault(str(how_made(one) | {"dtype": "any"}), []).append(one)
    found = []
    for number, sets in enumerate(by_encoder.values(), 1):
        inside = np.concatenate([rows.get_indexer(one.table["image_id"].to_pylist()) for one in sets])
        order = np.argsort(inside)
        if len(np.unique(inside)) < len(inside):
            raise InputError(f"{sets[-1].folder} and another folder of its encoder share images: give each image once")
        name = "embedding" if len(by_encoder) == 1 else f"embedding {number}"
        names = [view for view in sets[0].views if all(view in one.views for one in sets)]
        views = {view: np.concatenate([one.views[view] for one in sets])[order] for view in names}
        features = np.concatenate([one.features for one in sets])[order]
        found.append(Embedded(name, sets[0].encoder, inside[order], features, views))
    return found


def closed_sets(notices: list[dict[str, Any]]) -> set[str]:
    """The data sets whose licence, by ``notices``, forbids re-linking."""
    return {entry["dataset"] for entry in notices if not entry["relinking"]}


def pools(images: AuditedImages) -> np.ndarray:
    """The pool of each image ``(N,)``: only images of one pool are compared by more than file, pixels and hash.

    Each data set whose licence forbids re-linking is a pool of its own.
    """
    closed = closed_sets(images.licences)
    return pd.factorize(images.frame["dataset"].where(images.frame["dataset"].isin(closed), ""))[0]
