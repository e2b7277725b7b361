"""A data worker that dies, or is stuck when a signal comes: one line, the state saved, and the same command goes on."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest
from tiny_runs import SIMCLR, assert_same_weights, metrics, status
from torch.utils.data import _utils

from dermssl.training import pretrain as loop
from dermssl.views.loader import ViewDataset

ONE_WORKER = {"data__workers": "1", "online__every_epochs": "100"}


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    from tiny_runs import arguments

    from dermssl.cli import main

    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(arguments(dataset, folder, **ONE_WORKER)) == 0
    return folder


@pytest.fixture(autouse=True)
def no_worker_is_left(monkeypatch):
    """A worker that is stuck on purpose, or one of an earlier test, ends with the process, which here goes on.

    PyTorch waits half a second instead of five for a worker that it stops, before it terminates it.
    """
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    end_children()
    yield
    end_children()


def end_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def after_step(monkeypatch, number: int, act) -> None:
    """Call ``act`` once the loop has taken ``number`` steps."""
    one_step, taken = loop.one_step, []

    def step(*arguments):
        result = one_step(*arguments)
        taken.append(1)
        if len(taken) == number:
            act()
        return result

    monkeypatch.setattr(loop, "one_step", step)


def kill_worker() -> None:
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)


def test_a_killed_worker_ends_the_run_in_one_line_and_loses_nothing(
    whole, pretrain, dataset, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        after_step(patch, 4, kill_worker)
        assert pretrain(dataset, tmp_path / "run", **ONE_WORKER) == 1
    told = capsys.readouterr().err
    assert "a data worker died" in told and "Traceback" not in told
    record = status(tmp_path / "run")
    assert record["status"] == "failed" and "a data worker died" in record["message"]
    assert f"the state of step {record['step']} is saved" in record["message"]
    assert record["step"] == max(metrics(tmp_path / "run")) >= 4
    assert pretrain(dataset, tmp_path / "run", **ONE_WORKER) == 0
    assert_same_weights(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_while_the_worker_is_stuck(whole, pretrain, dataset, tmp_path, monkeypatch, number):
    make = ViewDataset.__getitems__

    def stuck(self, items):
        if items[0].epoch == 1:
            os.kill(os.getppid(), number)
            threading.Event().wait()
        return make(self, items)

    with monkeypatch.context() as patch:
        patch.setattr(ViewDataset, "__getitems__", stuck)
        assert pretrain(dataset, tmp_path / "run", **ONE_WORKER) == 75
    record = status(tmp_path / "run")
    assert record["status"] == "preempted" and "the same command resumes the run" in record["message"]
    assert pretrain(dataset, tmp_path / "run", **ONE_WORKER) == 0
    assert_same_weights(tmp_path / "run", whole)


def test_a_small_shared_memory_leaves_the_work_to_the_main_process(pretrain, dataset, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dermssl.data_workers.free_shared_memory", lambda: 10_000)
    monkeypatch.setattr(multiprocessing.Process, "start", lambda self: pytest.fail("a worker was started"))
    assert pretrain(dataset, tmp_path / "run", training__epochs="1", **ONE_WORKER) == 0
    assert "/dev/shm has 0 MB left" in caplog.text and "0 workers are used" in caplog.text


@pytest.mark.parametrize("changes", [{}, {key.replace(".", "__"): value for key, value in SIMCLR.items()}])
def test_positives_that_no_image_has_are_one_line(pretrain, dataset, tmp_path, capsys, changes):
    assert pretrain(dataset, tmp_path / "run", views__positives="lesion", **changes) == 2
    told = capsys.readouterr().err
    assert "views.positives is lesion, but no two training images show one lesion" in told
    assert not (tmp_path / "run").exists()
