"""Killed, pre-empted, damaged: the run ends with the weights of one that was never interrupted."""

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import metrics, start, status

from dermssl.training import loop


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = sorted((run / "state").iterdir())[-1]
    return load_file(last / "model.safetensors") | load_file(last / "optimizer.safetensors")


def assert_same_weights(run: Path, other: Path) -> None:
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    from accelerate.state import AcceleratorState
    from tiny_runs import arguments

    from dermssl.cli import main

    torch.set_num_threads(1)
    AcceleratorState._reset_state(True)
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(arguments(dataset, out)) == 0
    return out


def stop_after(monkeypatch, steps: int) -> None:
    """Make the loop die once it has taken ``steps`` steps in this process."""
    taken = []

    def step(*arguments):
        if len(taken) == steps:
            raise RuntimeError("power cut")
        taken.append(1)
        return one_step(*arguments)

    one_step = loop.one_step
    monkeypatch.setattr(loop, "one_step", step)


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_interrupted_equals_uninterrupted_bit_by_bit(whole, pretrain, dataset, tmp_path, monkeypatch, steps):
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        assert pretrain(dataset, tmp_path / "run") == 1
    assert status(tmp_path / "run")["status"] == "failed"
    assert pretrain(dataset, tmp_path / "run", data__workers="2") == 0
    assert_same_weights(tmp_path / "run", whole)
    assert metrics(tmp_path / "run") == metrics(whole)
    assert metrics(tmp_path / "run", "online_rankme") == metrics(whole, "online_rankme")


HELD = """
import sys
from dermssl.cli import main
from dermssl.training import loop

def step(run, *rest):
    if run.step == 4:
        print("held at step 4", flush=True)
        sys.stdin.readline()
    return one_step(run, *rest)

one_step = loop.one_step
loop.one_step = step
sys.exit(main(sys.argv[1:]))
"""
"""``dermssl`` whose fifth step waits for a line, so that a signal is sure to find the run training."""


@pytest.mark.parametrize(
    ("number", "code", "word", "step"),
    [(signal.SIGTERM, 75, "preempted", 5), (signal.SIGKILL, -9, "running", 4)],
)
def test_signals(whole, pretrain, dataset, tmp_path, number, code, word, step):
    out = tmp_path / "run"
    process = start(dataset, out, program=("-c", HELD), data__workers="1")
    assert any("held at step 4" in line for line in iter(process.stdout.readline, ""))
    os.killpg(process.pid, number)  # as schedulers do: the data workers get it too
    process.communicate("\n", timeout=60)
    assert process.returncode == code
    assert (status(out)["status"], status(out)["step"]) == (word, step)
    assert pretrain(dataset, out) == 0
    assert_same_weights(out, whole)


def test_a_damaged_newest_state_falls_back_to_the_one_before(whole, pretrain, dataset, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert pretrain(dataset, tmp_path / "run") == 1
    newest = sorted((tmp_path / "run" / "state").iterdir())[-1]
    (newest / "model.safetensors").write_bytes(b"torn")
    assert pretrain(dataset, tmp_path / "run") == 0
    assert any("damaged" in message for message in caplog.messages)
    assert_same_weights(tmp_path / "run", whole)
