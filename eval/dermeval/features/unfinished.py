"""Keeps finished rows of `dermeval embed` beside the output, so that the command can continue after a kill."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dermssl.atomic import atomic_folder, remove_folder
from dermssl.errors import InputError
from dermssl.files import read_json, read_npy, write_json, write_npy
from dermssl.paths import require_new_folder

MARK = "plan.json"
log = logging.getLogger("dermssl")


def unfinished_folder(out: Path, mark: str = MARK) -> Path:
    """The folder ``<out>.unfinished`` for rows of features or fits of probes. InputError if it is something else."""
    path = out.resolve()
    return require_new_folder(path.with_name(f"{path.name}.unfinished"), True, (mark, "rows-*.npy", "fit-*.parquet"))


class Unfinished:
    """Finished blocks of rows, ``rows-<first row>.npy`` ``(b, V, D)``, and the plan by which they were made.

    Blocks do not depend on the number of ranks or the batch, so another number can continue them.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder, self.plan = folder, plan
        self.is_ours = False

    def begin(self) -> int:
        """The number of finished rows; 0 with a warning if they were made by another plan."""
        if (self.folder / MARK).is_file():
            before = read_json(self.folder / MARK, "dermeval embed")
            differing = [key for key in self.plan if before.get(key) != self.plan[key]]
            if differing:
                log.warning("%s was begun with different %s: starting again", self.folder, ", ".join(differing))
            self.is_ours = not differing
        return sum(len(block) for block in self._blocks()) if self.is_ours else 0

    def add(self, start: int, features: np.ndarray) -> None:
        """Write the finished rows ``(b, V, D)`` from row ``start`` on. The first ones replace rows of another plan."""
        if not self.is_ours:
            # Atomic, because a folder without a plan would be refused as another program's.
            with atomic_folder(self.folder) as temporary:
                write_json(temporary / MARK, self.plan)
            self.is_ours = True
        write_npy(self._path(start), features)

    def features(self, view: int) -> np.ndarray:
        """All finished rows of one view, ``(N, D)``."""
        return np.concatenate([block[:, view] for block in self._blocks()])

    def remove(self) -> None:
        """Delete the folder."""
        remove_folder(self.folder)

    def _path(self, start: int) -> Path:
        return self.folder / f"rows-{start:09d}.npy"

    def _blocks(self) -> Iterator[np.ndarray]:
        """The blocks from row 0 on up to the first gap."""
        done = 0
        while (path := self._path(done)).is_file():
            try:
                block = read_npy(path, "dermeval embed")
            except InputError:
                log.warning("%s is damaged: its rows are embedded again", path)
                path.unlink()
                return
            yield block
            done += len(block)
