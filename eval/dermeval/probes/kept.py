"""The finished fits of a command, kept beside its output until that is written, so that a killed command can go on."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dermeval.features.unfinished import unfinished_folder
from dermeval.probes.folds import Fold
from dermeval.probes.judge import Fitted, Probe
from dermeval.probes.predictions import collect
from dermeval.probes.task import Task
from dermssl import __version__
from dermssl.atomic import atomic_folder, remove_folder
from dermssl.errors import InputError
from dermssl.files import read_parquet, write_json, write_parquet

MARK = "fits.json"
FREE = ("embeddings", "data", "encoder", "out", "overwrite", "draws", "shots", "workers")
"""Options that `fit_key` leaves out: they change no fit, or the key has them through the task."""
log = logging.getLogger("dermssl")


class KeptFits:
    """Fits in ``<out>.unfinished``: probabilities ``(N, C)`` and a dictionary each. Without ``out`` none are kept."""

    def __init__(self, out: str | None = None) -> None:
        """InputError where ``<out>.unfinished`` is something else."""
        self.folder = unfinished_folder(Path(out), MARK) if out else None

    def get(self, key: str, make: Callable[[], tuple[np.ndarray, dict[str, Any]]]) -> tuple[np.ndarray, dict[str, Any]]:
        """What was kept under ``key`` (see `fit_key`), else what ``make`` returns, which is then kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"fit-{key}.parquet"
        if path.is_file():
            try:
                table = read_parquet(path, "dermeval evaluate")
                said = json.loads(table.schema.metadata[b"said"])
                return np.column_stack([column.to_numpy() for column in table.columns]), said
            except (InputError, KeyError, ValueError):
                log.warning("%s is damaged, so this fit is made again", path)
        array, said = make()
        if not self.folder.is_dir():
            # Whole or not at all: a folder without its mark would be refused as somebody else's.
            with atomic_folder(self.folder) as temporary:
                write_json(temporary / MARK, {})
        table = pa.table({str(number): column for number, column in enumerate(array.T)})
        write_parquet(path, table.replace_schema_metadata({"said": json.dumps(said)}))
        return array, said

    def remove(self) -> None:
        """Delete all that was kept, once the result is written."""
        if self.folder:
            remove_folder(self.folder)


def fit_key(probe: Probe, task: Task, folds: Sequence[Fold], shots: int | None = None) -> str:
    """A hash of all that a fit depends on: probe and options, features, labels, groups, and the rows of the folds."""
    options = {name: value for name, value in vars(probe.options).items() if name not in FREE}
    rows = [part.tolist() for fold in folds for part in (fold.train, fold.test)]
    what = [__version__, probe.name, options, shots, task.name, task.classes, task.pool.info, rows]
    what += [task.frame["image_id"].tolist(), task.groups.tolist(), task.labels.tolist()]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


class KeptProbe:
    """A probe whose finished fits are kept, and read back where a killed command has made them."""

    def __init__(self, probe: Probe, kept: KeptFits) -> None:
        self.probe, self.kept = probe, kept
        self.name, self.options = probe.name, probe.options

    def fit(self, task: Task, folds: Sequence[Fold], shots: int | None = None) -> Fitted:
        """See `Probe.fit`."""

        def make() -> tuple[np.ndarray, dict[str, Any]]:
            fitted = self.probe.fit(task, folds, shots)
            said = {name: held for name, held in vars(fitted).items() if name != "predictions"}
            return fitted.predictions.probabilities, said

        probabilities, said = self.kept.get(fit_key(self.probe, task, folds, shots), make)
        blank = [np.zeros((len(fold.test), len(task.classes))) for fold in folds]
        predictions = replace(collect(task, folds, blank, self.options.seed), probabilities=probabilities)
        return Fitted(predictions, **said)
