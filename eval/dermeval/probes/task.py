"""One prediction task: the labelled images of an embeddings pool, their features, classes and patients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dermeval.features.pool import Pool, open_pool
from dermssl.dataset.targets import Target
from dermssl.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Task:
    """Row ``i`` of ``features`` (N, D), ``labels`` (N,; class indices) and ``frame`` is one labelled image."""

    pool: Pool
    name: str
    target: Target
    features: np.ndarray
    labels: np.ndarray
    frame: pd.DataFrame
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
    def groups(self) -> np.ndarray:
        """``group_id`` of each row: what folds and bootstrap keep whole."""
        return self.frame["group_id"].to_numpy(dtype=object)

    @property
    def unit(self) -> str:
        """What a group is, in the singular: ``patient`` only where the data has a patient key."""
        return " or ".join(dict.fromkeys(entry["group"] for entry in self.pool.datasets))

    @property
    def split_origin(self) -> str:
        """Where the split is from: ``official split``, ``split drawn by patient (seed 0)``, or just ``split``."""
        datasets = [dataset for part in self.pool.parts for dataset in part.datasets.values()]
        origins = {dataset.info.get("split") for dataset in datasets if dataset.info.get("split")}
        if len(origins) != 1:
            return "split"
        origin = origins.pop()
        return "official split" if origin == "official" else f"split {origin}"

    @property
    def where(self) -> str:
        """The embeddings folders, for messages."""
        return ", ".join(str(part.folder) for part in self.pool.parts)

    def subset(self, rows: np.ndarray, *notes: str) -> "Task":
        """The task on some of its rows (indices or mask), with ``notes`` on what was left out and why."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        frame = self.frame.iloc[rows].reset_index(drop=True)
        features, labels = self.features[rows], self.labels[rows]
        return replace(self, features=features, labels=labels, frame=frame, notes=self.notes + notes)


def open_task(folders: Sequence[str], name: str | None) -> Task:
    """The task ``name`` (None: the only one) on the labelled rows of ``folders``.

    Raises:
        InputError: no or unknown target, labels outside its classes, or labels that cannot be judged by patient.
    """
    pool = open_pool(folders)
    return task_of(pool, name)


def task_of(pool: Pool, name: str | None) -> Task:
    """`open_task` on a pool that is open already."""
    where = ", ".join(str(part.folder) for part in pool.parts)
    name = _choose(pool, name, where)
    target = _one_declaration(pool, name, where)
    values = pool.frame[target.column].where(pool.frame["dataset"].isin(list(pool.targets[name])))
    labelled = values.notna().to_numpy()
    _check_values(values[labelled], target, pool.frame["image_id"][labelled], where)
    labels = values[labelled].map(target.classes.index).to_numpy(dtype=np.int64)
    unlabelled = int((~labelled).sum())
    notes = (
        (f"{unlabelled} of {len(labelled)} images have no label of '{name}' and are left out",) if unlabelled else ()
    )
    frame = pool.frame[labelled].reset_index(drop=True)
    features = np.asarray(pool.features)[labelled]
    task = Task(pool, name, target, features, labels, frame, notes)
    return replace(task, notes=task.notes + tuple(_check_classes(task)))


def _choose(pool: Pool, name: str | None, where: str) -> str:
    if not pool.targets:
        raise InputError(f"{where}: the data declares no target, so there is nothing to predict")
    if name is None and len(pool.targets) > 1:
        raise InputError(f"{where} has several targets: give one with --target ({', '.join(pool.targets)})")
    name = name or next(iter(pool.targets))
    if name not in pool.targets:
        raise InputError(f"{where} has no target '{name}'; {did_you_mean(name, pool.targets)}")
    return name


def _one_declaration(pool: Pool, name: str, where: str) -> Target:
    declared = list(pool.targets[name].values())
    if any(other != declared[0] for other in declared):
        raise InputError(f"{where}: the data sets declare '{name}' with different classes, so they cannot be pooled")
    if declared[0].kind == "multilabel":
        raise InputError(f"{where}: '{name}' has several labels per image; the probes take one class per image")
    return declared[0]


def _check_values(values: pd.Series, target: Target, image_ids: pd.Series, where: str) -> None:
    if values.empty:
        raise InputError(f"{where}: no image has a label of '{target.column}'")
    unknown = ~values.isin(target.classes).to_numpy()
    if unknown.any():
        raise InputError(
            f"{where}: {image_ids[unknown].iloc[0]} has '{values[unknown].iloc[0]}' in {target.column}, which is "
            f"not among its declared classes ({', '.join(target.classes)}): run `dermssl prepare` again"
        )


def _check_classes(task: Task) -> list[str]:
    """Notes on classes too rare to judge; raises InputError where no class can be judged by patient."""
    patients = pd.Series(task.groups).groupby(task.labels).nunique()
    if len(patients) == 1:
        only = task.classes[patients.index[0]]
        raise InputError(f"{task.where}: every labelled image has '{task.name}' = {only}: there is nothing to learn")
    if (patients == 1).all():
        raise InputError(
            f"{task.where}: every class of '{task.name}' belongs to a single patient, like an identifier: "
            f"it cannot be predicted for new patients"
        )
    notes = []
    if len(patients) > 2 and patients.median() <= 2:
        notes.append(
            f"half of the {len(patients)} classes of '{task.name}' belong to at most 2 patients each, like an "
            "identifier: scores on new patients say little"
        )
    rare = [task.classes[index] for index in patients.index[patients == 1]]
    if rare:
        named = f"class {rare[0]} occurs" if len(rare) == 1 else f"classes {', '.join(rare)} each occur"
        notes.append(f"{named} in one patient only: its recall has no spread to estimate")
    return notes
