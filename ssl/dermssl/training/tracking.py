"""Curves: ``metrics.jsonl`` for programs, TensorBoard for people, a progress bar for whoever waits."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dermssl.files import atomic_file, write_text


class Tracker:
    """Writes on rank 0 only. Lines and events after ``last_step`` are dropped, so a resumed run's curves are one."""

    def __init__(self, folder: Path, last_step: int) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= last_step]
            write_text(self.path, "".join(line + "\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """One line of ``metrics.jsonl`` and one point per TensorBoard scalar."""
        line = {"step": step} | {name: float(f"{value:.6g}") for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """An ``(H, W, 3)`` uint8 picture; it stays in the run folder."""
        self.board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush events to disk."""
        self.board.close()


def _whole_lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield line.rstrip("\n")


def view_grid(pixels: list[Tensor], images: int = 8, side: int = 96) -> np.ndarray:
    """The views of the first images as one picture: a row per image, a column per view, ``(H, W, 3)`` uint8.

    ``pixels``: per crop size ``(V, B, 3, S, S)`` values 0 to 1.
    """
    columns = []
    for group in pixels:
        views = (group[:, :images].clamp(0, 1) * 255).byte().permute(0, 1, 3, 4, 2).cpu().numpy()
        for view in views:
            scaled = [
                np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)) for image in view
            ]
            columns.append(np.concatenate([np.pad(image, ((1, 1), (1, 1), (0, 0))) for image in scaled]))
    return np.concatenate(columns, axis=1)


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """Write an ``(H, W, 3)`` uint8 picture as PNG, atomically."""
    with atomic_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")


class Waiting:
    """Wraps a loader and measures the share of time that training waited for it."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.waited = 0.0
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
            yield batch

    def read(self) -> tuple[float, float]:
        """Seconds since the last call, and the share of them spent waiting."""
        now = time.perf_counter()
        elapsed, waited = now - self.since, self.waited
        self.since, self.waited = now, 0.0
        return elapsed, waited / max(elapsed, 1e-9)


def progress(start: int, steps: int, show: bool) -> tqdm:
    """A progress bar over optimizer steps, silent when not a terminal."""
    return tqdm(initial=start, total=steps, desc="pretrain", unit="step", disable=None if show else True)
