"""The run folder: its status, whether a run may resume in it, and the lock that lets one process write to it."""

import dataclasses
import os
import shutil
import socket
import time
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from dermssl import log
from dermssl.atomic import TEMPORARY, remove_leftovers, take_lock
from dermssl.backbone.pretrained import LEDGER, find_ledger
from dermssl.errors import InputError
from dermssl.files import read_parquet, read_yaml, write_json, write_parquet, write_yaml
from dermssl.parser import flatten
from dermssl.paths import json_object, refuse_within_dataset, require_new_folder
from dermssl.training.options import PretrainOptions
from dermssl.training.pool import COLUMNS

MAY_DIFFER = (
    "out",
    "overwrite",
    "data.folders",  # data sets are compared by their fingerprints
    "data.workers",
    "training.keep_states",
    "training.state_every_epochs",
    "health.",
    "tracking.",
)
"""Keys that may differ when a run resumes; a trailing dot stands for a whole section."""
CONFIG, LOCK, START_LEDGER, CARD = "config.yaml", ".lock", "start_ledger.parquet", "MODEL_CARD.md"
IDENTITIES = "tracking.json"
"""File with the id of the run in each tracker."""
WRITTEN = (
    *(CONFIG, LOCK, "status.json", "metrics.jsonl", IDENTITIES, LEDGER, START_LEDGER, CARD),
    *("views.png", "neighbours.png", "patch_components.png"),
    *("state/step_*/*", "best/*", "encoder/*", "tensorboard/*"),
    "tensorboard",  # as a link to a folder elsewhere
)
"""Files of a run folder, as patterns."""
TRACKER_FILES = {
    "wandb": ("wandb/*",),
    "mlflow": ("mlruns/*", "mlartifacts/*", "mlflow.db"),
    "aim": (".aim/*",),
    "dvclive": ("dvclive/*",),
    "swanlab": ("swanlog/*",),
}
"""Files that trackers write if the run folder is the working directory, or if they are told to write there."""


def write_status(folder: Path, state: str, step: int, steps: int, message: str = "") -> None:
    """Write ``status.json``: running, done, preempted, stopped (by the health check) or failed."""
    now = {"host": socket.gethostname(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(folder / "status.json", {"status": state, "step": step, "steps": steps, "message": message} | now)


def read_status(folder: Path) -> str | None:
    """The last status of the run, None if there is none that can be read: the run goes on without it."""
    return json_object(folder / "status.json").get("status")


def open_run_folder(options: PretrainOptions) -> IO[str] | None:
    """Make the folder, or check that it holds this run. Returns the open file that locks it until it is closed.

    Raises InputError: the folder lies in a dataset folder, or holds something else, a run with another config (the
    differing keys are named), or a run that another process is training.
    """
    folder, config = Path(options.out), dataclasses.asdict(options)
    if folder.is_file():
        raise InputError(f"{folder} is a file: choose another --out")
    refuse_within_dataset(folder)
    is_run = holds_run(folder)
    if is_run and options.overwrite:
        written = (*WRITTEN, *_tracker_files(folder))
        require_new_folder(folder, True, written, [*options.data.folders, options.model.init])
    elif is_run:
        _refuse_other_config(folder, config)
    elif folder.exists():
        names = {path.name for path in folder.iterdir()} - {LOCK, START_LEDGER}  # a start that was killed left these
        if not all(name.endswith(TEMPORARY) for name in names):
            raise InputError(f"{folder} is not empty and no run folder: choose another --out")
    is_new = options.overwrite or not is_run
    before = _ledger_before(options.model.init) if is_new else None
    folder.mkdir(parents=True, exist_ok=True)
    lock = take_lock(folder / LOCK, folder)
    if options.overwrite:
        # All but the lock. config.yaml goes last, so that the folder still counts as a run if this is killed.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if is_new:
        (folder / START_LEDGER).unlink(missing_ok=True)  # a start that was killed may have had other weights
        if before is not None:
            write_parquet(folder / START_LEDGER, before)
        write_yaml(folder / CONFIG, config)
    elif not any((folder / "state").glob("step_*")):
        log.info("the run in %s was interrupted before its first state: it starts from step 0", folder)
    remove_leftovers(folder)
    return lock


def _tracker_files(folder: Path) -> list[str]:
    """Patterns of the files of the trackers that the run's config or its ``tracking.json`` names."""
    settings = read_yaml(folder / CONFIG).get("tracking")
    asked = settings.get("trackers") if isinstance(settings, dict) else None
    names = {*json_object(folder / IDENTITIES), *(asked if isinstance(asked, list) else [])}
    return [pattern for name, patterns in TRACKER_FILES.items() if name in names for pattern in patterns]


def _ledger_before(init: str | None) -> pa.Table | None:
    """The ledger of the encoder ``init`` that a run starts from, None if there is none."""
    if init is None or not Path(init).is_dir():
        return None
    path = find_ledger(Path(init))
    if path is None:
        log.warning("warning: model.init %s has no %s: its training images will not be known later", init, LEDGER)
        return None
    table, names = read_parquet(path, "dermssl pretrain"), [*COLUMNS, "times_seen"]
    if not set(names) <= set(table.column_names):
        raise InputError(f"{path} is no ledger of `dermssl pretrain`: restore it, or move it away")
    return table.select(names)


def holds_run(folder: Path) -> bool:
    """Whether ``folder`` holds a config.yaml of `dermssl pretrain`, not one of another program."""
    path = folder / CONFIG
    sections = {"method", "model", "views", "optim", "training"}
    return path.exists() and sections <= set(read_yaml(path))


def _refuse_other_config(folder: Path, config: dict[str, Any]) -> None:
    before = flatten(read_yaml(folder / CONFIG))
    differing = [
        f"{key} ({before.get(key)} -> {value})"
        for key, value in flatten(config).items()
        if before.get(key) != value and not key.startswith(MAY_DIFFER) and not _is_one_file(before.get(key), value)
    ]
    if differing:
        raise InputError(
            f"{folder} holds a run with another config: {', '.join(differing)}; "
            "choose another --out, or delete this run and start anew with --overwrite"
        )


def _is_one_file(one: Any, other: Any) -> bool:
    """Whether two values are paths of the same file or folder, for instance ``x`` and ``./x``."""
    are_text = isinstance(one, str) and isinstance(other, str)
    return are_text and Path(one).exists() and os.path.realpath(one) == os.path.realpath(other)
