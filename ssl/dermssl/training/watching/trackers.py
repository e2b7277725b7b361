"""Trackers beside TensorBoard, through Accelerate's classes (``--tracking.with wandb``): scalars always, pictures only
where every licence lets images leave the machine, and never an image id, a file name or a path. What a service's own
client takes beside that (TensorBoard's pictures, what is printed, the command line, source code) is switched off for
wandb, ClearML and Comet; the others take what they take."""

import importlib
import logging
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

from dermssl.errors import InputError, did_you_mean
from dermssl.files import read_json, write_json
from dermssl.training.options import LOCAL_KEYS

log = logging.getLogger("dermssl")

OWN = "tensorboard"
"""Written by `dermssl.training.watching.tracking.Tracker` in every run."""

IDENTITIES = "tracking.json"


class Service(NamedTuple):
    """How a service's tracker is started and gone on with.

    ``keywords``: of Accelerate's class, by the id of the service's run and our run folder. The id is one that we make
    up, or, where ``made_up`` reads it from a started tracker, the service's own, None at first. ``quieten`` switches
    off what the client of a started tracker takes by itself.
    """

    keywords: Callable[[str | None, Path], dict[str, Any]]
    made_up: Callable[[Any], str] | None = None
    quieten: Callable[[Any], Any] = lambda _: None


def _wandb(identity: str | None, folder: Path) -> dict[str, Any]:
    settings = {"console": "off", "save_code": False, "x_disable_meta": True, "disable_git": True}
    return {"name": folder.name, "id": identity, "resume": "allow", "settings": settings}


def _comet(identity: str | None, folder: Path) -> dict[str, Any]:
    off = dict.fromkeys(("log_code", "log_git_patch", "log_git_metadata", "parse_args", "log_env_host"), False)
    config = importlib.import_module("comet_ml").ExperimentConfig(name=folder.name, auto_output_logging=False, **off)
    return {"experiment_key": identity, "experiment_config": config}


CLEARML_TAKES = (
    "tensorboard",
    "matplotlib",
    "detect_repository",
    "pytorch",
    "tensorflow",
    "tfdefines",
    "scikit",
    "joblib",
    "xgboost",
    "lightgbm",
    "catboost",
    "fastai",
    "megengine",
    "hydra",
    "gradio",
)
"""What ClearML follows by itself where it is not told otherwise, name by name."""


def _clearml(identity: str | None, folder: Path) -> dict[str, Any]:
    return {
        "task_name": folder.name,
        # The run of this id from its beginning, and not the one that last had this name.
        "reuse_last_task_id": identity or False,
        "continue_last_task": 0 if identity else False,
        "auto_connect_frameworks": dict.fromkeys(CLEARML_TAKES, False),
        "auto_connect_streams": False,
        "auto_connect_arg_parser": False,
    }


SERVICES: dict[str, Service] = {
    "wandb": Service(_wandb),
    "swanlab": Service(
        lambda identity, folder: {"experiment_name": folder.name, "id": str(identity)[:21], "resume": "allow"}
    ),
    "comet_ml": Service(_comet, quieten=lambda tracker: tracker.tracker.disable_mp()),
    "trackio": Service(lambda identity, folder: {"name": f"{folder.name}-{str(identity)[:8]}", "resume": "allow"}),
    "dvclive": Service(lambda identity, folder: {"dir": str(folder / "dvclive"), "resume": True}),
    "mlflow": Service(
        lambda identity, folder: {"run_name": folder.name, "run_id": identity},
        made_up=lambda tracker: tracker.tracker.info.run_id,
    ),
    "aim": Service(
        lambda identity, folder: {"experiment": folder.name, "run_hash": identity},
        made_up=lambda tracker: tracker.tracker.hash,
    ),
    "clearml": Service(_clearml, made_up=lambda tracker: tracker.tracker.id),
}
"""By Accelerate's name."""


def check_trackers(names: Iterable[str]) -> None:
    """Raise InputError for a tracker that Accelerate does not know or whose package is not installed."""
    available = {str(name) for name in get_available_trackers()}
    services = {str(name) for name in LoggerType}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(f"--tracking.with {name}: unknown tracker; {did_you_mean(name, LOGGER_TYPE_TO_CLASS)}")
        if name in services and name not in available:
            raise InputError(f"--tracking.with {name}: its package is not installed: install it, or leave it out")


class OtherTrackers:
    """The trackers that were asked for beside TensorBoard. Make it on rank 0 only.

    A run that is resumed goes on in the same runs of the services (ids in ``tracking.json``). Points after the restored
    step are sent again; services keep or drop them as is their way.

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
        """Scalars, to all of them."""
        for name in list(self.running):
            self._send(name, lambda tracker: tracker.log(values, step=step))

    def image(self, title: str, pixels: np.ndarray, step: int) -> None:
        """An ``(H, W, 3)`` uint8 picture, to those that take pictures, unless the licence withholds it."""
        if not self.images_may_leave:
            return
        for name in list(self.running):
            if hasattr(self.running[name], "log_images"):
                values = {title: pixels if name in ("aim", "clearml") else [pixels]}
                self._send(name, partial(_send_images, values=values, step=step))

    def close(self) -> None:
        """Let the services write what they hold."""
        for name in list(self.running):
            self._send(name, lambda tracker: tracker.finish())

    def _send(self, name: str, message: Callable[[Any], Any]) -> None:
        try:
            message(self.running[name])
        except Exception as error:  # whatever a service's client raises, it must not cost the run
            log.warning("warning: %s is left out from here on (%s); the run folder has all curves", name, error)
            del self.running[name]


def _send_images(tracker: Any, values: dict[str, Any], step: int) -> None:
    tracker.log_images(values, step=step)


def _start(name: str, folder: Path, project: str, identity: str | None) -> tuple[GeneralTracker, str]:
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    service = SERVICES.get(name, Service(lambda *_: {}))
    identity = identity or (None if service.made_up else uuid.uuid4().hex)
    try:
        keywords = service.keywords(identity, folder.resolve())
        tracker = kind(project, *([str(folder)] if kind.requires_logging_directory else []), **keywords)
        tracker.start()
        service.quieten(tracker)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--tracking.with {name} does not start ({reason}): log in to it, or leave it out") from None
    return tracker, service.made_up(tracker) if service.made_up else str(identity)


def _simple(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (str, int, float, bool)) else str(value)
