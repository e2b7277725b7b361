"""The number of available cores, maps over processes and threads, and handlers of signals."""

import functools
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from dermssl.errors import InputError

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cores(per_rank: bool = False) -> int:
    """The number of cores that this process may use, by its affinity (job schedulers) and its quota (Docker).

    ``per_rank`` divides it by the number of ranks that torchrun or Accelerate started on this machine.
    """
    bound = getattr(os, "sched_getaffinity", None)
    cores = len(bound(0)) if bound else os.cpu_count() or 1
    cores = math.ceil(min(cores, _quota()))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if per_rank else cores)


def _quota() -> float:
    """The smallest CPU quota, in cores, of this process's control group and its parents; infinity without any."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one tree. Version 1 has one per controller, with the name of all controllers or of one.
        for root in (CGROUPS / controllers, CGROUPS / "cpu") if controllers else (CGROUPS,):
            group = root / path.lstrip("/")
            quotas += [_limit(folder) for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return min(quotas)


def _limit(group: Path) -> float:
    """The quota of one control group in cores (quota by period); infinity if it sets none ("max" or -1)."""
    names = ["cpu.max"] if (group / "cpu.max").exists() else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    try:
        quota, period = (float(word) for name in names for word in (group / name).read_text().split())
    except (OSError, ValueError):
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


@contextmanager
def process_map(workers: int, chunk: int = 8) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a ``map(function, items)`` that runs in ``workers`` processes (0: one per core) and keeps the order.

    With 1 worker it runs in this process. A worker gets ``chunk`` items at a time and returns their results together.
    The workers end at once when the block raises an exception or this process ends, however it ends.
    Raises InputError: the system killed a worker.
    """
    workers = workers or available_cores()
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")  # fork would copy the parent's threads and locks
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        try:
            yield functools.partial(pool.map, chunksize=chunk)
        except BrokenProcessPool:
            raise InputError(
                "a worker process was killed, often because memory is full: free some memory, or give fewer --workers "
                "(a script of yours must start its work below `if __name__ == '__main__':`)"
            ) from None
        except BaseException:
            threading.excepthook = _without_cancelled_futures
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.kill()
            raise


@contextmanager
def thread_map(workers: int, begin: Callable[[], None]) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a ``map(function, items)`` that runs in ``workers`` threads (0: one per core) and keeps the order.

    Each thread calls ``begin`` first. ``items`` are taken one by one as threads become free.
    """
    workers = workers or available_cores()
    with ThreadPoolExecutor(workers, initializer=begin) as pool:

        def run(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            waiting: deque[Future] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield run


@contextmanager
def signal_handlers(handlers: Mapping[int, Callable[..., Any]]) -> Iterator[None]:
    """Set handlers of signals inside the block. Outside the main thread, which alone may set some, nothing happens."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number, handler in handlers.items() if main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _without_cancelled_futures(failure: threading.ExceptHookArgs) -> None:
    """Ignore the pool's thread, which fails on cancelled futures when the workers are killed (Python 3.11.7)."""
    if failure.exc_type is not InvalidStateError:
        threading.__excepthook__(failure)


def end_with_parent() -> None:
    """Make this worker end when its parent ends, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for NumPy, which is loaded later: there is a worker per core
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
