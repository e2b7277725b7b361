"""Processes that decode and draw: started afresh (spawn), so that no thread or lock of the parent is copied."""

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


def available_cores() -> int:
    """Cores that this process may use, which under a job scheduler are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def process_map(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a ``map(function, items)`` that runs in ``workers`` processes (0: one per core) and keeps the order.

    One worker means this process. When the block is left by an exception, work not yet begun is dropped.
    """
    workers = workers or available_cores()
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield functools.partial(pool.map, chunksize=8)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
