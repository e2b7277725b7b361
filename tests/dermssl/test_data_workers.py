"""Data workers: as many as shared memory holds; a killed one, a damaged image and a signal end the wait for a batch."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import Dataset, _utils

from dermssl import data_workers
from dermssl.data_workers import make_data_loader, read_batches, workers_that_fit
from dermssl.errors import DamagedImage, Interrupted, WorkerDied

BATCHES = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]


class Numbers(Dataset):
    """Item ``i`` is ``i``; item ``stuck`` never comes and item ``bad`` cannot be read."""

    def __init__(self, stuck: int = -1, bad: int = -1) -> None:
        self.stuck, self.bad = stuck, bad

    def __getitem__(self, index: int) -> int:
        if index == self.stuck:
            threading.Event().wait()
        if index == self.bad:
            raise DamagedImage(f"image {index} is damaged: run `dermssl prepare` again")
        return index


@pytest.fixture(autouse=True)
def no_worker_is_left(monkeypatch):
    """None of an earlier test either. PyTorch waits half a second instead of five for a worker before it ends it."""
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    end_children()
    yield
    end_children()


def end_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def test_batches_come_in_order_from_any_number_of_workers_and_take_no_number_from_torch():
    for number in (0, 1, 2):
        torch.manual_seed(0)
        batches = list(read_batches(make_data_loader(Numbers(), BATCHES, number), []))
        assert [batch.tolist() for batch in batches] == BATCHES
        assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0))


def test_a_killed_worker_ends_the_wait_in_one_line():
    batches = read_batches(make_data_loader(Numbers(stuck=6), BATCHES, 1))
    assert next(batches).tolist() == [0, 1]
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="a data worker died") as raised:
        list(batches)
    assert "\n" not in str(raised.value)


def test_a_worker_that_dies_while_its_batch_is_used_is_heard_of_in_the_next_wait():
    batches = read_batches(make_data_loader(Numbers(stuck=2), BATCHES, 1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        assert time.monotonic() < deadline
    sum(range(1000))  # Python code during which PyTorch's own handler would raise
    with pytest.raises(WorkerDied, match=rf"died \(pid {worker.pid}, killed by signal: Killed\)"):
        next(batches)


def test_an_error_about_the_data_comes_without_the_workers_traceback():
    with pytest.raises(DamagedImage) as raised:
        list(read_batches(make_data_loader(Numbers(bad=3), BATCHES, 1)))
    assert str(raised.value) == "image 3 is damaged: run `dermssl prepare` again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_worker_that_is_stuck(number):
    heard: list[int] = []
    before = signal.signal(number, lambda got, _: heard.append(got))
    try:
        batches = read_batches(make_data_loader(Numbers(stuck=2), BATCHES, 1), heard)
        next(batches)
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        with pytest.raises(Interrupted, match=number.name):
            next(batches)
        assert heard == [number]
    finally:
        signal.signal(number, before)


def test_workers_are_as_many_as_shared_memory_holds_and_fewer_are_told(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, logger="dermssl")
    monkeypatch.setattr(data_workers, "free_shared_memory", lambda: 64_000_000)
    assert workers_that_fit(3, 9_000_000) == 3 and not caplog.messages
    assert workers_that_fit(8, 9_000_000) == 3
    assert "/dev/shm has 64 MB left, but 8 data workers need 153 MB: 3 workers are used" in caplog.text
    assert workers_that_fit(2, 30_000_000) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert workers_that_fit(3, 9_000_000) == 1


def test_a_full_shared_memory_is_named():
    def full(_):
        raise RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)")

    dataset = Numbers()
    dataset.__class__ = type("Full", (Numbers,), {"__getitem__": lambda self, index: full(index)})
    with pytest.raises(WorkerDied, match="no room in shared memory"):
        list(read_batches(make_data_loader(dataset, BATCHES, 1)))


PARENT = """
import sys, threading
from dermssl.data_workers import make_data_loader, read_batches

class Stuck:
    def __getitem__(self, index):
        print(__import__("os").getpid(), flush=True)
        threading.Event().wait()

next(read_batches(make_data_loader(Stuck(), [[0]], 1)))
"""


def test_a_stuck_worker_ends_when_its_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert int(parent.stdout.readline())
    parent.kill()
    assert parent.stdout.read() == ""  # the pipe closes when the worker, too, has gone
    parent.wait()
