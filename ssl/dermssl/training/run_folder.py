"""The run folder: what it is called, what its status says, and whether a run may go on in it."""

import dataclasses
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from dermssl.commandline import flatten, option_names
from dermssl.errors import InputError
from dermssl.files import TEMPORARY, read_json, read_yaml, write_json, write_yaml
from dermssl.training.options import DataOptions, PretrainOptions

MAY_DIFFER = (
    "out",
    "overwrite",
    "preset",  # what it chose is compared
    "data.workers",
    "training.keep_states",
    "training.state_every_epochs",
    "health.",
    "tracking.",
)
"""Keys that may differ when a run is resumed; a trailing dot names a whole section."""


def write_status(folder: Path, state: str, step: int, steps: int, message: str = "") -> None:
    """``status.json``: running, done, preempted, stopped (by the health check) or failed. Launchers hide exit codes."""
    write_json(
        folder / "status.json",
        {
            "status": state,
            "step": step,
            "steps": steps,
            "message": message,
            "host": socket.gethostname(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def read_status(folder: Path) -> str | None:
    """The run's last status, or None where it has none."""
    if not (folder / "status.json").exists():
        return None
    return read_json(folder / "status.json", "dermssl pretrain")["status"]


def step_of_best(folder: Path) -> int | None:
    """The step of the encoder in ``best/``, or None where there is none."""
    path = folder / "best" / "config.json"
    return read_json(path, "dermssl pretrain")["dermssl"]["step"] if path.exists() else None


def open_run_folder(options: PretrainOptions) -> None:
    """Make the folder, or check that the run in it is this one.

    Raises:
        InputError: the folder holds something else, or a run with another config (differing keys are named).
    """
    folder = Path(options.out)
    if folder.is_file():
        raise InputError(f"{folder} is a file: choose another --out")
    is_run = _holds_run(folder)
    if options.overwrite and is_run:
        shutil.rmtree(folder)
    config = dataclasses.asdict(options)
    if folder.exists() and is_run:
        _refuse_other_config(folder, config)
    elif folder.exists() and any(not path.name.endswith(TEMPORARY) for path in folder.iterdir()):
        raise InputError(f"{folder} is not empty and no run folder: choose another --out")
    else:
        write_yaml(folder / "config.yaml", config)
    for leftover in folder.rglob(f".*{TEMPORARY}"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _holds_run(folder: Path) -> bool:
    """Whether its config.yaml is one of `dermssl pretrain`, and not some other program's."""
    path = folder / "config.yaml"
    sections = {"method", "model", "views", "optim", "training"}
    return path.exists() and sections <= set(read_yaml(path))


def _refuse_other_config(folder: Path, config: dict[str, Any]) -> None:
    # An option that the run's dermssl did not have yet did what its default does.
    before = flatten(dataclasses.asdict(PretrainOptions("", DataOptions([])))) | flatten(
        read_yaml(folder / "config.yaml")
    )
    now = flatten(config)
    differing = [
        f"{key} ({before[key]} -> {now[key]})"
        for key in option_names(PretrainOptions)
        if before[key] != now[key] and not key.startswith(MAY_DIFFER)
    ]
    if differing:
        raise InputError(
            f"{folder} holds a run with another config: {', '.join(differing)}; "
            "choose another --out, or start anew with --overwrite"
        )
