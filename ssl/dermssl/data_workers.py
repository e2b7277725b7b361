"""Data workers of a PyTorch loader: their number by shared memory, and errors when one dies or a signal comes."""

import atexit
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import psutil
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.signal_handling import _error_if_any_worker_fails

from dermssl import log
from dermssl.errors import InputError, Interrupted, WorkerDied
from dermssl.parallel import end_with_parent, signal_handlers

PREFETCH = 2
"""The number of batches that each worker prepares in advance."""
SHARED_MEMORY = "/dev/shm"
"""Linux's shared memory, through which workers pass batches. Docker gives 64 MB of it."""
DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is )?(.*)")


def make_data_loader(
    dataset: Dataset, batches: Any, workers: int, pin: bool = False, batch_bytes: int = 0, **further: Any
) -> DataLoader:
    """A loader that gives the items of ``dataset`` for each list of indices in ``batches``, in order.

    ``workers`` processes (0: this one; `workers_that_fit`) prepare the batches of ``batch_bytes`` bytes. ``pin`` puts
    batches into page-locked memory, for a GPU. ``further`` are arguments of PyTorch's DataLoader.
    """
    workers = workers_that_fit(workers, batch_bytes)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_settle_worker,
        # Without its own generator, the loader would draw from torch's and change all later random numbers.
        generator=torch.Generator(),
        **further,
    )


def workers_that_fit(workers: int, batch_bytes: int) -> int:
    """``workers``, or fewer with a warning if shared memory has no room for the batches of all."""
    free = free_shared_memory() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)  # of the ranks on this machine
    held = PREFETCH * workers + 1  # and the batch that is in use
    if not workers or held * batch_bytes <= free:
        return workers
    fewer, needed = max(0, (free // batch_bytes - 1) // PREFETCH), held * batch_bytes
    log.warning(
        f"warning: {SHARED_MEMORY} has {free // 10**6} MB left, but {workers} data workers need {needed // 10**6} MB: "
        f"{fewer} workers are used; enlarge it (docker run --shm-size), or lower the batch"
    )
    return fewer


def free_shared_memory() -> int:
    """The bytes left in `SHARED_MEMORY`; a very large number if the system sets no limit."""
    try:
        return psutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return 1 << 62


def read_batches(loader: DataLoader, signals: Sequence[int] | None = None) -> Iterator[Any]:
    """The batches of ``loader``. A dead worker or a signal raises an exception only while waiting for a batch.

    So the caller is between two batches and may save its state. ``signals`` is the list of SIGTERM and SIGINT received
    so far, to which the process's own handlers append; None: signals raise nothing here.
    Raises, each in one line, WorkerDied: a worker was killed; Interrupted: a signal came; InputError: from a worker.
    """
    if not loader.num_workers or threading.current_thread() is not threading.main_thread():
        yield from loader
        return
    with _in_one_line():
        batches = iter(loader)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise anywhere in the program
    while True:
        with _in_one_line(), _listening(signals):
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


@contextmanager
def _listening(signals: Sequence[int] | None) -> Iterator[None]:
    """Inside the block, a worker's death raises RuntimeError and a further signal raises Interrupted."""
    if signals:
        raise Interrupted(signal.Signals(signals[-1]).name)
    heard = () if signals is None else (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in heard}

    def hear(number: int, frame: Any) -> None:
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        raise Interrupted(signal.Signals(number).name)

    with signal_handlers({signal.SIGCHLD: lambda *_: _error_if_any_worker_fails()} | dict.fromkeys(heard, hear)):
        _error_if_any_worker_fails()
        yield


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn the exceptions of a loader into ones of one line, without the traceback of the worker."""
    try:
        yield
    except InputError as error:  # PyTorch puts the worker's traceback before the message
        kind = type(error)
        raise kind(str(error).strip().splitlines()[-1].removeprefix(f"dermssl.errors.{kind.__name__}: ")) from None
    except (RuntimeError, OSError, EOFError) as error:
        raise _worker_died(error) or error from None


def _worker_died(error: Exception) -> WorkerDied | None:
    text = str(error)
    if "shared memory" in text or "No space left on device" in text or "Bus error" in text:
        return WorkerDied(
            f"a data worker found no room in shared memory ({SHARED_MEMORY}): enlarge it (docker run --shm-size), or "
            "use fewer workers"
        )
    found = DEAD.search(text)
    # The loader cannot fetch the finished batch of a dead worker.
    gone = isinstance(error, (ConnectionError, EOFError, FileNotFoundError))
    if not found and not (gone and "in DataLoader worker process" not in text):
        return None
    how = f" (pid {found[1]}, {found[2].splitlines()[0].split('. ')[0]})" if found else ""
    remedy = "often because memory is full: use fewer workers, or give the job more memory"
    return WorkerDied(f"a data worker died{how}, {remedy}")


def _settle_worker(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    end_with_parent()
    # Schedulers send SIGTERM to every process of a job, but training needs its workers until it has saved.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """Kill the workers that are left after an error. Python would wait for them without end: they ignore SIGTERM."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
