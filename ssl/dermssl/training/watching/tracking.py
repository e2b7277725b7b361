"""Curves and pictures of a run, in its folder, in TensorBoard, and in the trackers of Accelerate that the user names.

Trackers get all curves. They get pictures only if the licences let images leave, and never an image id or a path. The
clients of trackers other than wandb and mlflow may send more by themselves (printed lines, the command line, pictures
of TensorBoard), so they are refused for images that must stay here.
"""

import json
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from dermssl import log
from dermssl.atomic import atomic_file, remove_folder
from dermssl.errors import InputError, did_you_mean, shortened
from dermssl.files import read_json, write_json, write_text
from dermssl.training.options import LOCAL_KEYS, TrackingOptions
from dermssl.training.run_folder import IDENTITIES

KNOWN = ("tensorboard", "wandb", "mlflow")
"""Trackers whose clients, with the settings below, send only what dermssl gives them. Every run has the first."""
MLFLOW = {"mlflow.source.name": "dermssl pretrain"}
"""Tags. By default mlflow sends the path of the program."""
WANDB = {"console": "off", "save_code": False, "x_disable_meta": True, "disable_git": True}


def check_trackers(names: Iterable[str], closed: Sequence[str]) -> None:
    """Raise InputError for a tracker that is unknown, not installed, or refused for the data sets in ``closed``."""
    available = {str(name) for name in get_available_trackers()}
    services = {str(name) for name in LoggerType}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(f"--tracking.with {name}: unknown tracker; {did_you_mean(name, LOGGER_TYPE_TO_CLASS)}")
        if name in services and name not in available:
            raise InputError(f"--tracking.with {name}: its package is not installed: install it, or leave it out")
        if name not in KNOWN and closed:
            raise InputError(
                f"--tracking.with {name}: its client may send pictures by itself, but the licence of "
                f"{', '.join(closed)} keeps them here: use {', '.join(KNOWN)}"
            )


def _step_of(line: str) -> float:
    """The step of a line of ``metrics.jsonl``, infinite if a kill or a crash has damaged the line."""
    with suppress(ValueError, KeyError, TypeError):
        return float(json.loads(line)["step"])
    return math.inf


class Tracker:
    """Writes ``metrics.jsonl`` and TensorBoard's files, and sends to the trackers that were named. Only for rank 0.

    A resumed run continues the same curves: lines and events after ``last_step`` (-1 for a new run) are dropped, and
    wandb and mlflow get the ids in ``tracking.json``. ``config`` holds settings by dotted key; those of `LOCAL_KEYS`
    are not sent. If not ``images_may_leave``, trackers get no pictures.
    Raises InputError: a tracker does not start.
    """

    def __init__(
        self, folder: Path, last_step: int, options: TrackingOptions, config: dict[str, Any], images_may_leave: bool
    ) -> None:
        self.folder, self.path = folder, folder / "metrics.jsonl"
        self.images_may_leave = images_may_leave
        self.running: dict[str, GeneralTracker] = {}
        file, plain = folder / IDENTITIES, (str, int, float, bool)
        identities = read_json(file, "dermssl pretrain") if file.exists() else {}
        settings = {k: v if isinstance(v, plain) else str(v) for k, v in config.items() if k not in LOCAL_KEYS}
        for name in dict.fromkeys(name for name in options.trackers if name != KNOWN[0]):
            self.running[name], identities[name] = _start(name, folder, options.project, identities.get(name))
            self._send(name, lambda tracker: tracker.store_init_configuration(settings))
        if self.running:
            write_json(file, identities)
            if not images_may_leave:
                names = ", ".join(self.running)
                log.info("pictures are withheld from %s: a licence keeps the images here", names)
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(self.path, "".join(f"{line}\n" for line in lines if _step_of(line) <= last_step))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write a line of ``metrics.jsonl`` (null if not finite, since JSON has no NaN), and a point of each curve."""
        rounded = {name: float(f"{v:.6g}") if math.isfinite(v) else None for name, v in values.items()}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step} | rounded) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        for name in list(self.running):
            self._send(name, lambda tracker: tracker.log(values, step=step))

    def log_step(self, step: int, values: dict[str, float], batches: "Waiting", micro_batch: int) -> str:
        """Log a step with its speed. Returns the text for the progress bar. ``batches`` counts micro-batches."""
        rate, waiting = batches.read()
        speed = rate * micro_batch
        self.log(step, values | {"images_per_second": speed, "data_wait_share": waiting})
        return f"loss {values['loss']:.3f}, {speed:.0f} images/s, waiting {waiting:.0%}"

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write a picture ``(H, W, 3)`` uint8 to TensorBoard and ``<name>.png``, and to trackers if it may leave."""
        self.board.add_image(name, pixels, step, dataformats="HWC")
        with atomic_file(self.folder / f"{name}.png") as temporary:
            Image.fromarray(pixels).save(temporary, "PNG")
        for service in list(self.running) if self.images_may_leave else []:
            if hasattr(self.running[service], "log_images"):
                self._send(service, lambda tracker: tracker.log_images({name: [pixels]}, step=step))

    def projector(self, features: np.ndarray, labels: list[list[str]], header: list[str], images: np.ndarray) -> None:
        """Write points for TensorBoard's projector: ``features`` (N, D), ``images`` (N, S, S, 3) uint8, ``labels``."""
        thumbnails = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        remove_folder(self.folder / "tensorboard" / "00000")  # add_embedding warns of its folder, as after a resume
        self.board.add_embedding(features, labels, thumbnails, tag="features", metadata_header=header)

    def close(self) -> None:
        """Write the last events to disk, and let the trackers send the rest."""
        self.board.close()
        for name in list(self.running):
            self._send(name, lambda tracker: tracker.finish())

    def _send(self, name: str, message: Callable[[Any], Any]) -> None:
        try:
            message(self.running[name])
        except Exception as error:  # an error of a service must not end the run
            log.warning("warning: %s is left out from now on (%s); the run folder has all curves", name, error)
            del self.running[name]


def _start(name: str, folder: Path, project: str, identity: str | None) -> tuple[GeneralTracker, str]:
    """A started tracker and the id of its run; mlflow chooses the id by itself."""
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    keywords: dict[str, Any] = {}
    if name == "wandb":
        identity = identity or uuid.uuid4().hex
        keywords = {"name": folder.name, "id": identity, "resume": "allow", "settings": WANDB}
    elif name == "mlflow":
        keywords = {"run_name": folder.name, "run_id": identity, "tags": MLFLOW}
    try:
        tracker = kind(project, *([str(folder)] if kind.requires_logging_directory else []), **keywords)
        tracker.start()
    except Exception as error:
        reason = shortened(error, 200)
        raise InputError(f"--tracking.with {name} does not start ({reason}): log in to it, or leave it out") from None
    return tracker, tracker.tracker.info.run_id if name == "mlflow" else identity or name


class Waiting:
    """Wraps a loader, and measures its speed and the share of time that training waits for it."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.waited, self.batches = 0.0, 0
        self.since = time.perf_counter()

    def __iter__(self) -> Iterator[Any]:
        start = time.perf_counter()
        for batch in self.loader:
            self.waited += time.perf_counter() - start
            self.batches += 1
            yield batch
            start = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside, for an evaluation or a state, does not count as training time."""
        start = time.perf_counter()
        yield
        self.since += time.perf_counter() - start

    def read(self) -> tuple[float, float]:
        """Batches per second of training since the last call, and the share of that time spent waiting."""
        now = time.perf_counter()
        elapsed = max(now - self.since, 1e-9)
        speed, share = self.batches / elapsed, self.waited / elapsed
        self.since, self.waited, self.batches = now, 0.0, 0
        return speed, share
