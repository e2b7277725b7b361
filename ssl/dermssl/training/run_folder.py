"""The run folder: what its status says, whether a run may go on in it, and that only one process writes to it."""

import dataclasses
import logging
import os
import shutil
import socket
import time
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from dermssl.atomic import TEMPORARY, remove_leftovers, take_lock
from dermssl.backbone.pretrained import LEDGER, find_ledger
from dermssl.errors import InputError
from dermssl.files import read_json, read_parquet, read_yaml, write_json, write_parquet, write_yaml
from dermssl.parser import flatten
from dermssl.paths import json_object, require_new_folder
from dermssl.training.options import DataOptions, PretrainOptions
from dermssl.training.pool import COLUMNS

log = logging.getLogger("dermssl")

MAY_DIFFER = (
    "out",
    "overwrite",
    "data.folders",  # the data are compared by fingerprint
    "data.workers",
    "training.keep_states",
    "training.state_every_epochs",
    "health.",
    "tracking.",
)
"""Keys that may differ when a run is resumed; a trailing dot names a whole section."""
CONFIG, LOCK, START_LEDGER = "config.yaml", ".lock", "start_ledger.parquet"
IDENTITIES = "tracking.json"
"""What the trackers of a run call it."""
WRITTEN = (
    *(CONFIG, LOCK, "status.json", "metrics.jsonl", IDENTITIES, LEDGER, START_LEDGER, "MODEL_CARD.md"),
    *("views.png", "neighbours.png", "patch_components.png"),
    *("state/step_*/*", "best/*", "encoder/*", "tensorboard/*"),
    "tensorboard",  # as a link to a folder elsewhere
)
"""Files of a run folder."""
TRACKER_FILES = {
    "wandb": ("wandb/*",),
    "mlflow": ("mlruns/*", "mlartifacts/*", "mlflow.db"),
    "aim": (".aim/*",),
    "dvclive": ("dvclive/*",),
    "swanlab": ("swanlog/*",),
}
"""Files that the trackers of a run put into its folder where it is the working directory, or where they are sent."""


def write_status(folder: Path, state: str, step: int, steps: int, message: str = "") -> None:
    """``status.json``: running, done, preempted, stopped (by the health check) or failed. Launchers hide exit codes."""
    now = {"host": socket.gethostname(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_json(folder / "status.json", {"status": state, "step": step, "steps": steps, "message": message} | now)


def read_status(folder: Path) -> str | None:
    """The run's last status, or None where it has none."""
    if not (folder / "status.json").exists():
        return None
    return read_json(folder / "status.json", "dermssl pretrain")["status"]


def step_of_best(folder: Path) -> int | None:
    """The step of the encoder in ``best/``, or None where there is none that can be read."""
    return json_object(folder / "best" / "config.json", "dermssl").get("step")


def open_run_folder(options: PretrainOptions) -> IO[str] | None:
    """Make the folder, or check that the run in it is this one. Returns the lock on it, held while it stays open.

    Raises InputError: the folder holds something else, a run with another config (differing keys are named), or one
    that another process is training.
    """
    folder = Path(options.out)
    if folder.is_file():
        raise InputError(f"{folder} is a file: choose another --out")
    is_run, config = holds_run(folder), dataclasses.asdict(options)
    if is_run and not options.overwrite:
        _refuse_other_config(folder, config)
    elif folder.exists() and not is_run:
        names = {path.name for path in folder.iterdir()} - {LOCK, START_LEDGER}  # a start that was killed left these
        if not all(name.endswith(TEMPORARY) for name in names):
            raise InputError(f"{folder} is not empty and no run folder: choose another --out")
    if options.overwrite and is_run:
        written = (*WRITTEN, *_tracker_files(folder))
        require_new_folder(folder, True, written, [*options.data.folders, options.model.init])
    before = _ledger_before(options.model.init) if options.overwrite or not is_run else None
    folder.mkdir(parents=True, exist_ok=True)
    lock = take_lock(folder / LOCK, folder)
    if options.overwrite:
        # All but the lock; config.yaml last, so that the folder stays a run's if this is killed.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if options.overwrite or not is_run:
        if before is not None:
            write_parquet(folder / START_LEDGER, before)
        write_yaml(folder / CONFIG, config)
    elif not any((folder / "state").glob("step_*")):
        log.info("the run in %s was interrupted before its first state: it starts from step 0", folder)
    remove_leftovers(folder)
    return lock


def _tracker_files(folder: Path) -> list[str]:
    """Patterns of the files of those trackers that the run's config or its ``tracking.json`` names."""
    settings = read_yaml(folder / CONFIG).get("tracking")
    asked = settings.get("trackers") if isinstance(settings, dict) else None
    names = {*json_object(folder / IDENTITIES), *(asked if isinstance(asked, list) else [])}
    return [pattern for name, patterns in TRACKER_FILES.items() if name in names for pattern in patterns]


def _ledger_before(init: str | None) -> pa.Table | None:
    """The ledger of the encoder that the run starts from, which has seen those images too.

    Raises InputError: it cannot be read.
    """
    if init is None or not Path(init).is_dir():
        return None
    path = find_ledger(Path(init))
    if path is None:
        log.warning("warning: model.init %s has no %s: which images it has seen will not be known later", init, LEDGER)
        return None
    table, names = read_parquet(path, "dermssl pretrain"), [*COLUMNS, "times_seen"]
    if not set(names) <= set(table.column_names):
        raise InputError(f"{path} is no ledger of `dermssl pretrain`: restore it, or move it away")
    return table.select(names)


def holds_run(folder: Path) -> bool:
    """Whether its config.yaml is one of `dermssl pretrain`, and not some other program's."""
    path = folder / CONFIG
    sections = {"method", "model", "views", "optim", "training"}
    return path.exists() and sections <= set(read_yaml(path))


def _refuse_other_config(folder: Path, config: dict[str, Any]) -> None:
    # An option that the run's version of dermssl did not have yet counts as its default.
    before = flatten(dataclasses.asdict(PretrainOptions("", DataOptions([])))) | flatten(read_yaml(folder / CONFIG))
    now = flatten(config)
    differing = [
        f"{key} ({before[key]} -> {now[key]})"
        for key in now
        if before[key] != now[key] and not key.startswith(MAY_DIFFER) and not _is_one_file(before[key], now[key])
    ]
    if differing:
        raise InputError(
            f"{folder} holds a run with another config: {', '.join(differing)}; "
            "choose another --out, or delete this run and start anew with --overwrite"
        )


def _is_one_file(one: Any, other: Any) -> bool:
    """Whether two values are paths of the same file or folder, such as ``x`` and ``./x``."""
    are_text = isinstance(one, str) and isinstance(other, str)
    return are_text and Path(one).exists() and os.path.realpath(one) == os.path.realpath(other)
