"""The finished work of an audit, which a command that follows a kill takes over, and the ranks that share the rest."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from dermeval.leaks.earlier import VERSION
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.records import AuditedImages
from dermssl.atomic import remove_folder
from dermssl.commandline import launched_ranks
from dermssl.errors import InputError
from dermssl.files import read_parquet, write_json, write_parquet
from dermssl.parallel import available_cores, process_map
from dermssl.paths import json_object, require_new_folder

log = logging.getLogger("dermssl")
PLAN = "plan.json"
FILES = (PLAN, "local-*", "hidden-*", "candidates-*", "pairs-*")
PATIENCE = timedelta(days=7)
"""How long a rank waits for the others, since rank 0 alone nominates the pairs."""


class Work(NamedTuple):
    """The ``folder`` of finished work, the ``workers`` of this rank (0: one per core), and the ranks that share it.

    ``exchange`` waits for all ranks and returns their lists, joined.
    """

    folder: Path
    workers: int = 0
    rank: int = 0
    ranks: int = 1
    exchange: Callable[[list[Any]], list[Any]] = list

    def run(
        self, function: Callable, tasks: Sequence[tuple], sizes: Sequence[int], record: np.dtype, label: str, unit: str
    ) -> None:
        """Run the tasks whose output file, their first entry, is missing or cut off; each rank runs its share.

        Task ``i`` writes ``sizes[i]`` records into its file. A file of another size counts as cut off.
        Every rank returns when all tasks are done. An InputError of one rank is raised on all ranks.
        """
        mine = range(self.rank, len(tasks), self.ranks)
        files = [tasks[number][0] for number in mine]
        held = [file.stat().st_size if file.is_file() else -1 for file in files]
        waiting = [number for number, size in zip(mine, held, strict=True) if size != sizes[number] * record.itemsize]
        total = sum(sizes[number] for number in mine)
        done = total - sum(sizes[number] for number in waiting)
        with (
            self.together(),
            tqdm(total=total, initial=done, desc=label, unit=unit, disable=True if self.rank else None) as bar,
            process_map(self.workers if waiting else 1, chunk=1) as run,
        ):
            for number, _ in zip(waiting, run(function, [tasks[number] for number in waiting]), strict=True):
                bar.update(sizes[number])

    def decided(self, name: str, decide: Callable[[], pd.DataFrame], kept: bool = False) -> pd.DataFrame:
        """The table that ``decide`` gives on rank 0, on every rank, through the file ``name``.

        With ``kept`` an existing file is read instead.
        """
        path = self.folder / name
        with self.together():
            if self.rank == 0 and not (kept and _is_table(path)):
                write_parquet(path, pa.Table.from_pandas(decide(), preserve_index=False))
        return read_parquet(path, "dermeval leaks").to_pandas()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait for all ranks after the block. An InputError of one rank is raised on all."""
        failure = None
        try:
            yield
        except InputError as error:
            failure = error
        for met in self.exchange([failure]):
            if met is not None:
                raise met


def _is_table(path: Path) -> bool:
    """Whether there are nominated pairs at ``path``: a damaged file is as good as none."""
    with suppress(InputError):
        read_parquet(path, "dermeval leaks", ("a", "b", "upright", "mirrored"))
        return True
    return False


def open_work(out: Path, images: AuditedImages, options: LeaksOptions) -> Work:
    """Open ``<out>.unfinished``, shared with the other ranks. Work on the same images is kept, other work removed."""
    path = out.resolve()
    work = Work(path.with_name(f"{path.name}.unfinished"), options.workers or available_cores(per_rank=True))
    if launched_ranks() > 1:
        from accelerate.utils import gather_object

        from dermssl.devices import join_ranks  # both take seconds to import

        log.info("waiting for all of the %d processes that were started", launched_ranks())
        state = join_ranks(cpu=True, timeout=PATIENCE)
        work = work._replace(rank=state.process_index, ranks=state.num_processes, exchange=gather_object)
    plan = {"version": VERSION, "datasets": images.datasets, "images": len(images.frame)}
    with work.together():
        if work.rank == 0:
            require_new_folder(work.folder, True, FILES, options.folders)
            if json_object(work.folder / PLAN) != plan:
                remove_folder(work.folder)
            write_json(work.folder / PLAN, plan)
    return work
