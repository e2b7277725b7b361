"""One prediction task: the labelled images of an embeddings pool, their features, classes and patients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dermeval.features.pool import PooledEmbeddings, open_pool
from dermssl.dataset.targets import Target
from dermssl.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Task:
    """Row ``i`` of ``features`` ``(N, D)``, ``labels`` ``(N,)`` (class indices) and ``frame`` is one labelled image.

    ``groups`` ``(N,)`` are those of `PooledEmbeddings.groups`.
    """

    pool: PooledEmbeddings
    name: str
    target: Target
    features: np.ndarray
    labels: np.ndarray
    frame: pd.DataFrame
    groups: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in their declared order."""
        return self.target.classes

    @property
    def positive(self) -> int | None:
        """Index of the positive class of a binary target."""
        return None if self.target.positive is None else self.classes.index(self.target.positive)

    @property
    def unit(self) -> str:
        """See `unit_of`."""
        return unit_of(self.pool.present_datasets)

    @property
    def split_origin(self) -> str:
        """Where the split comes from: ``official split``, ``split drawn by patient (seed 0)``, or just ``split``."""
        origins = {dataset.info.get("split") for dataset in self.pool.datasets.values()} - {None}
        origin = origins.pop() if len(origins) == 1 else ""
        return "official split" if origin == "official" else f"split {origin}".rstrip()

    @property
    def where(self) -> str:
        """The embeddings folders, for messages."""
        return str(self.pool.folder)


def unit_of(datasets: Sequence[dict]) -> str:
    """What a ``group_id`` of ``datasets`` (in ``embedding.json``) is, such as ``patient``; ``group`` if they differ."""
    units = {entry["group"] for entry in datasets}
    return units.pop() if len(units) == 1 else "group"


def open_task(folders: Sequence[str], name: str | None) -> Task:
    """`task_of` the embeddings in ``folders``."""
    return task_of(open_pool(folders), name)


def task_of(pool: PooledEmbeddings, name: str | None) -> Task:
    """The task ``name`` (None: the only one) on the labelled rows of ``pool``.

    InputError: there is no such target, a label is not among its classes, or no class can be judged by patient.
    """
    where = pool.folder
    if not pool.targets:
        raise InputError(f"{where}: the data declares no target, so there is nothing to predict")
    if name is None and len(pool.targets) > 1:
        raise InputError(f"{where} has several targets: give one with --target ({', '.join(pool.targets)})")
    name = name or next(iter(pool.targets))
    if name not in pool.targets:
        raise InputError(f"{where} has no target '{name}'; {did_you_mean(name, pool.targets)}")
    declared = {dataset: own[name] for dataset, own in pool.targets_by_dataset.items() if name in own}
    target = _pooled_target(pool, name, declared)
    values = pool.frame[target.column].where(pool.frame["dataset"].isin(list(declared)))
    labelled = values.notna().to_numpy()
    if not labelled.any():
        raise InputError(f"{where}: no image has a label of '{target.column}'")
    unknown = np.flatnonzero(labelled & ~values.isin(target.classes).to_numpy())
    if len(unknown):
        raise InputError(
            f"{where}: {pool.frame['image_id'][unknown[0]]} has '{values[unknown[0]]}' in {target.column}, which is "
            f"not among its declared classes ({', '.join(target.classes)}): run `dermssl prepare` again"
        )
    left = int((~labelled).sum())
    notes = [f"{left} of {len(labelled)} images have no label of '{name}' and are left out"] if left else []
    for dataset, own in declared.items():
        if lacking := [label for label in target.classes if label not in own.classes]:
            notes.append(f"{dataset} has no class {', '.join(lacking)}, which other pooled data sets have")
    labels = values[labelled].map(target.classes.index).to_numpy(dtype=np.int64)
    frame = pool.frame[labelled].reset_index(drop=True)
    task = Task(pool, name, target, np.asarray(pool.features)[labelled], labels, frame, pool.groups[labelled])
    return replace(task, notes=(*notes, *_check_classes(task)))


def _pooled_target(pool: PooledEmbeddings, name: str, declared: dict[str, Target]) -> Target:
    """The target ``name`` with the classes of all data sets, in the order of the one with the most, or of the alphabet.

    InputError where the data sets have no class in common, or declare more than the classes differently.
    """
    targets = sorted(declared.values(), key=lambda target: -len(target.classes))
    classes = list(dict.fromkeys(label for target in targets for label in target.classes))
    if all(sorted(target.classes) == list(target.classes) for target in targets):
        classes.sort()
    first, *others = (replace(target, classes=tuple(classes)) for target in targets)
    if any(other != first for other in others):
        told = "; ".join(
            f"{dataset}: {target.kind}, of the {target.level}, positive class {target.positive or 'not named'}"
            for dataset, target in declared.items()
        )
        why = f"the data sets declare '{name}' differently ({told}): prepare them in one way, or judge each alone"
        raise InputError(f"{pool.folder}: {why}")
    if not set.intersection(*(set(target.classes) for target in targets)):
        why = f"the data sets declare '{name}' with no class in common"
        raise InputError(f"{pool.folder}: {why}: prepare them with the same class names, or judge each alone")
    return first


def constant_features(features: np.ndarray) -> list[str]:
    """A note where ``features`` ``(N, D)`` are the same for all images."""
    same = bool((features == features[:1]).all())
    return ["all images have the same features, so these cannot tell classes apart: check the encoder"] * same


def _check_classes(task: Task) -> list[str]:
    """Notes on classes too rare to judge; InputError where no class can be judged by patient."""
    patients = pd.Series(task.groups).groupby(task.labels).nunique()
    if len(patients) == 1:
        only = task.classes[patients.index[0]]
        raise InputError(f"{task.where}: every labelled image has '{task.name}' = {only}, so there is nothing to learn")
    if (patients == 1).all():
        raise InputError(
            f"{task.where}: every class of '{task.name}' belongs to a single {task.unit}, like an identifier, so it "
            f"cannot be predicted for new {task.unit}s"
        )
    notes = []
    if len(patients) > 2 and patients.median() <= 2:
        notes.append(
            f"half of the {len(patients)} classes of '{task.name}' belong to at most 2 {task.unit}s each, like an "
            f"identifier, so scores on new {task.unit}s say little"
        )
    if rare := [task.classes[index] for index in patients.index[patients == 1]]:
        named = f"class {rare[0]} occurs" if len(rare) == 1 else f"classes {', '.join(rare)} each occur"
        notes.append(f"{named} in one {task.unit} only: the spread of its recall cannot be measured")
    return notes
