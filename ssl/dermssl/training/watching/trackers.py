"""wandb, mlflow and other trackers, through Accelerate: scalars always, pictures only where licences let images leave.

No image id, file name or path is sent. The clients of other trackers take what they take (prints, the command line,
TensorBoard's pictures), so they are refused for data that must stay here.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

from dermssl.errors import InputError, did_you_mean
from dermssl.files import read_json, write_json
from dermssl.training.options import LOCAL_KEYS
from dermssl.training.run_folder import IDENTITIES

log = logging.getLogger("dermssl")

OWN = "tensorboard"
"""Every run writes it by itself (`dermssl.training.watching.tracking.Tracker`)."""
KNOWN = ("tensorboard", "wandb", "mlflow")
"""Trackers whose clients send nothing but what they are given, with the settings below."""
WANDB = {"console": "off", "save_code": False, "x_disable_meta": True, "disable_git": True}


def check_trackers(names: Iterable[str], closed: Sequence[str]) -> None:
    """Raise InputError for a tracker that cannot be had, or that may not be used for this data.

    ``closed`` are the data sets whose licence keeps their images here.
    """
    available = {str(name) for name in get_available_trackers()}
    services = {str(name) for name in LoggerType}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(f"--tracking.with {name}: unknown tracker; {did_you_mean(name, LOGGER_TYPE_TO_CLASS)}")
        if name in services and name not in available:
            raise InputError(f"--tracking.with {name}: its package is not installed: install it, or leave it out")
        if name not in KNOWN and closed:
            raise InputError(
                f"--tracking.with {name}: its client may send pictures by itself, and the licence of "
                f"{', '.join(closed)} keeps them here: use {', '.join(KNOWN)}"
            )


class Services:
    """The trackers that were asked for beside TensorBoard. Make it on rank 0 only.

    A resumed run goes on in the same runs of wandb and mlflow (ids in ``tracking.json``).

    Args:
        names: as Accelerate calls them.
        folder: run folder, whose name the run gets.
        project: where the services file the run.
        config: settings by dotted key; those of `LOCAL_KEYS` stay here.
        images_may_leave: False where the licence of a pooled set forbids it: pictures are then withheld.

    Raises:
        InputError: a tracker does not start.
    """

    def __init__(
        self, names: Iterable[str], folder: Path, project: str, config: dict[str, Any], images_may_leave: bool
    ) -> None:
        path = folder / IDENTITIES
        identities = read_json(path, "dermssl pretrain") if path.exists() else {}
        self.images_may_leave = images_may_leave
        self.running: dict[str, GeneralTracker] = {}
        settings = {key: _simple(value) for key, value in config.items() if key not in LOCAL_KEYS}
        for name in dict.fromkeys(name for name in names if name != OWN):
            self.running[name], identities[name] = _start(name, folder, project, identities.get(name))
            self._send(name, lambda tracker: tracker.store_init_configuration(settings))
        if self.running:
            write_json(path, identities)
            if not images_may_leave:
                log.info(
                    "pictures are withheld from %s: the licence of the images keeps them here", ", ".join(self.running)
                )

    def log(self, values: dict[str, float], step: int) -> None:
        """Send scalars to all of them."""
        for name in list(self.running):
            self._send(name, lambda tracker: tracker.log(values, step=step))

    def image(self, title: str, pixels: np.ndarray, step: int) -> None:
        """Send an ``(H, W, 3)`` uint8 picture to those that take pictures, unless the licence withholds it."""
        for name in list(self.running) if self.images_may_leave else []:
            if hasattr(self.running[name], "log_images"):
                self._send(name, lambda tracker: tracker.log_images({title: [pixels]}, step=step))

    def close(self) -> None:
        """Let the services write what they hold."""
        for name in list(self.running):
            self._send(name, lambda tracker: tracker.finish())

    def _send(self, name: str, message: Callable[[Any], Any]) -> None:
        try:
            message(self.running[name])
        except Exception as error:  # whatever a service's client raises must not cost the run
            log.warning("warning: %s is left out from now on (%s); the run folder has all curves", name, error)
            del self.running[name]


def _start(name: str, folder: Path, project: str, identity: str | None) -> tuple[GeneralTracker, str]:
    """A started tracker and the id of its run, which mlflow makes up itself."""
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    keywords: dict[str, Any] = {}
    if name == "wandb":
        identity = identity or uuid.uuid4().hex
        keywords = {"name": folder.name, "id": identity, "resume": "allow", "settings": WANDB}
    elif name == "mlflow":
        keywords = {"run_name": folder.name, "run_id": identity}
    try:
        tracker = kind(project, *([str(folder)] if kind.requires_logging_directory else []), **keywords)
        tracker.start()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--tracking.with {name} does not start ({reason}): log in to it, or leave it out") from None
    return tracker, tracker.tracker.info.run_id if name == "mlflow" else identity or name


def _simple(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (str, int, float, bool)) else str(value)
