"""Curves: ``metrics.jsonl`` for programs, TensorBoard for people, other trackers where asked, and a progress bar."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dermssl.files import write_text
from dermssl.training.watching.pictures import save_picture
from dermssl.training.watching.trackers import Services


class Tracker:
    """Writes on rank 0 only. Lines and events after ``last_step`` are dropped, so a resumed run's curves are one."""

    def __init__(self, folder: Path, last_step: int, services: Services) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= last_step]
            write_text(self.path, "".join(line + "\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)
        self.services = services

    def log(self, step: int, values: dict[str, float]) -> None:
        """One line of ``metrics.jsonl`` (null where not finite: JSON has no NaN), one point per scalar elsewhere."""
        rounded = {name: float(f"{v:.6g}") if math.isfinite(v) else None for name, v in values.items()}
        line = {"step": step} | rounded
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        self.services.log(values, step)

    def log_step(self, step: int, values: dict[str, float], batches: "Waiting", micro_batch: int) -> str:
        """Log a step with its speed; returns the words for the progress bar. ``batches`` counts micro-batches."""
        rate, waiting = batches.read()
        speed = rate * micro_batch
        self.log(step, values | {"images_per_second": speed, "data_wait_share": waiting})
        return f"loss {values['loss']:.3f}, {speed:.0f} images/s, waiting {waiting:.0%}"

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """An ``(H, W, 3)`` uint8 picture: in TensorBoard, as the newest ``<name>.png``, and where else it may go."""
        self.board.add_image(name, pixels, step, dataformats="HWC")
        save_picture(self.folder / f"{name}.png", pixels)
        self.services.image(name, pixels, step)

    def projector(self, features: np.ndarray, labels: list[list[str]], header: list[str], images: np.ndarray) -> None:
        """Points for TensorBoard's embedding projector; they stay in the run folder.

        ``features`` (N, D); ``labels`` N lists, one value per column of ``header``; ``images`` (N, S, S, 3) uint8.
        """
        thumbnails = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        self.board.add_embedding(features, labels, thumbnails, tag="features", metadata_header=header)

    def close(self) -> None:
        """Flush events to disk, and let the services send what they hold."""
        self.board.close()
        self.services.close()


def _whole_lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield line.rstrip("\n")


class Waiting:
    """Wraps a loader and measures the share of time that training waited for it."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.waited, self.batches = 0.0, 0
        self.since = time.perf_counter()

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.loader)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            self.batches += 1
            yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside, on an evaluation or a state, does not count as training time."""
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


def progress_bar(start: int, steps: int, show: bool) -> tqdm:
    """A progress bar over optimizer steps, silent when not a terminal."""
    return tqdm(initial=start, total=steps, desc="pretrain", unit="step", disable=None if show else True)
