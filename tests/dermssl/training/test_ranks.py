"""Two processes on CPU (gloo) follow one process."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_runs import DINOV2, HELD, SIMCLR, arguments, metrics, start, start_python, status, stop_after

from dermssl.cli import main

PARITY = {"model__drop_path": "0", "training__epochs": "4", "training__batch": "8", "optim__lr": "0.016"}
LOSS = {"rtol": 2e-5}
"""Measured: equal in all six digits that metrics.jsonl holds; gradient norms within 6e-6."""
WEIGHTS = {"rtol": 0, "atol": 1e-6}
"""The weights move by up to 3e-3 in these runs; measured differences are 1e-7 at the most."""


def options(method: str) -> dict[str, str]:
    simclr = {key.replace(".", "__"): value for key, value in SIMCLR.items()} | {"simclr__batch_norm": "false"}
    return PARITY | {"dino": {}, "dinov2": DINOV2, "simclr": simclr}[method]


def run_ranks(dataset, out, ranks, start=start, **changes) -> str:
    process = start(dataset, out, ranks, **changes)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def last_state(run: Path) -> Path:
    return sorted((run / "state").iterdir())[-1]


def assert_same_losses(run: Path, other: Path) -> None:
    ours, theirs = metrics(run), metrics(other)
    assert ours.keys() == theirs.keys() and len(ours) >= 10
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), **LOSS)


@pytest.fixture(scope="module")
def one_rank(dataset, tmp_path_factory):
    """``one_rank(method)`` -> the run of one process, made once."""
    made: dict[str, Path] = {}

    def run(method: str) -> Path:
        if method not in made:
            AcceleratorState._reset_state(True)
            out = tmp_path_factory.mktemp("one") / method
            assert main(arguments(dataset, out, **options(method))) == 0
            made[method] = out
        return made[method]

    return run


PARTING = """
import gc
import sys
import torch
from dermssl.cli import main

def counted():
    wrapped = torch.nn.parallel.DistributedDataParallel
    number = sum(isinstance(thing, wrapped) for thing in gc.get_objects())
    sys.stdout.write(f"wrapped networks at parting: {number}\\n")  # at once, so that ranks do not mix their lines
    sys.stdout.flush()
    destroy()

destroy = torch.distributed.destroy_process_group
torch.distributed.destroy_process_group = counted
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def two_ranks(dataset, tmp_path_factory):
    """``two_ranks(method)`` -> the run of two processes and what they printed, made once."""
    made: dict[str, tuple[Path, str]] = {}

    def run(method: str) -> tuple[Path, str]:
        if method not in made:
            folder = tmp_path_factory.mktemp("two")
            (folder / "parting.py").write_text(PARTING)
            out, program = folder / method, (str(folder / "parting.py"),)
            begin = start_python if method == "dinov2" else start  # one of all runs of ranks is torchrun's
            made[method] = (out, run_ranks(dataset, out, 2, begin, program=program, **options(method)))
        return made[method]

    return run


@pytest.mark.parametrize("method", ["dinov2", "simclr"])
def test_two_ranks_follow_one(one_rank, two_ranks, method):
    one, (two, output) = one_rank(method), two_ranks(method)
    assert "2 ranks on cpu" in output and output.count("done: ") == 1
    assert json.loads((last_state(two) / "state.json").read_text())["ranks"] == 2
    assert_same_losses(one, two)
    norms = [list(metrics(run, "gradient_norm").values()) for run in (one, two)]
    np.testing.assert_allclose(*norms, rtol=1e-4)


def test_networks_are_unwrapped_before_two_ranks_part(two_ranks, dataset):
    run, output = two_ranks("dinov2")
    program = (str(run.parent / "parting.py"),)
    again = run_ranks(dataset, run, 2, program=program, **options("dinov2"))
    assert "already done: " in again
    for said in (output, again):
        assert said.count("wrapped networks at parting: 0") == 2


@pytest.mark.parametrize("method", ["dinov2", "simclr"])
def test_two_ranks_end_with_the_weights_of_one(one_rank, two_ranks, method):
    one, two = (load_file(last_state(run) / "model.safetensors") for run in (one_rank(method), two_ranks(method)[0]))
    assert one.keys() == two.keys()
    moved = sum(metrics(one_rank(method), "lr").values())
    assert len(metrics(one_rank(method))) >= 10 and moved > 1000 * WEIGHTS["atol"]
    for name in one:
        ours, theirs = one[name], two[name]
        if name.endswith("qkv.bias"):
            (query, ours_key, value), (theirs_query, theirs_key, theirs_value) = ours.chunk(3), theirs.chunk(3)
            # Attention does not depend on the key's bias: its gradient is rounding, which Adam makes whole steps of.
            assert (ours_key - theirs_key).abs().max() <= 2 * moved
            ours, theirs = torch.cat([query, value]), torch.cat([theirs_query, theirs_value])
        torch.testing.assert_close(ours, theirs, **WEIGHTS, msg=lambda text, name=name: f"{name}: {text}")


def test_a_run_stopped_on_one_rank_goes_on_with_two(one_rank, pretrain, dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert pretrain(dataset, tmp_path / "run", **PARITY) == 1
    output = run_ranks(dataset, tmp_path / "run", 2, **PARITY)
    assert "2 ranks on cpu" in output and "from step 4" in output
    assert output.count("ranks 1, now 2") == 1
    assert_same_losses(one_rank("dino"), tmp_path / "run")


def held_ranks(process) -> list[int]:
    """Process ids of both ranks, once both wait in their fifth step."""
    ranks: list[int] = []
    for line in process.stdout:
        ranks += [int(number) for number in re.findall(r"held at step 4 in process (\d+)", line)]
        if len(ranks) == 2:
            return ranks
    raise AssertionError("the ranks ended before their fifth step")


def test_two_ranks_of_which_one_gets_sigterm_save_together_and_the_same_command_goes_on(one_rank, dataset, tmp_path):
    out, program = tmp_path / "run", tmp_path / "held.py"
    program.write_text(HELD)
    process = start(dataset, out, 2, program=(str(program),), **PARITY)
    os.kill(held_ranks(process)[0], signal.SIGTERM)
    process.communicate("\n", timeout=120)
    assert process.returncode != 0
    assert (status(out)["status"], status(out)["step"]) == ("preempted", 5)
    output = run_ranks(dataset, out, 2, **PARITY)
    assert "from step 5" in output and status(out)["status"] == "done"
    assert_same_losses(one_rank("dino"), out)


FAILING = """
import sys
from dermssl.cli import main
from dermssl.training import pretrain as loop

def step(run, *rest):
    if run.progress.step == 4 and not run.main:
        raise RuntimeError("no memory left")
    return one_step(run, *rest)

one_step = loop.one_step
loop.one_step = step
loop.leave_group = lambda *_: print("waits for the others", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def test_a_rank_that_fails_alone_says_why_and_does_not_wait_for_the_others(one_rank, dataset, tmp_path):
    out, program = tmp_path / "run", tmp_path / "failing.py"
    program.write_text(FAILING)
    process = start(dataset, out, 2, program=(str(program),), **PARITY)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "waits for the others" not in output
    assert "RuntimeError: no memory left\n" in output
    assert status(out)["status"] == "failed"
    assert status(out)["message"] == "rank 1 of 2: RuntimeError: no memory left"
    output = run_ranks(dataset, out, 2, **PARITY)
    assert "from step 4" in output and status(out)["status"] == "done"
    assert_same_losses(one_rank("dino"), out)


def test_a_damaged_image_that_one_rank_alone_meets_is_told_by_that_rank(dataset, tmp_path):
    out, program = tmp_path / "run", tmp_path / "failing.py"
    program.write_text("from dermssl.errors import DamagedImage" + FAILING.replace("RuntimeError(", "DamagedImage("))
    process = start(dataset, out, 2, program=(str(program),), **PARITY)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "waits for the others" not in output
    assert "dermssl: no memory left\n" in output and "Traceback" not in output.split("dermssl: no memory left")[0]
    assert status(out)["message"] == "rank 1 of 2: DamagedImage: no memory left"


def test_local_batch_statistics_are_said(dataset, tmp_path):
    changes = {key.replace(".", "__"): value for key, value in SIMCLR.items()}
    output = run_ranks(dataset, tmp_path / "run", 2, training__epochs="1", **changes)
    assert "batch statistics are local" in output


def test_bad_input_is_told_once_by_all_ranks_of_a_machine(dataset, tmp_path):
    process = start(dataset, tmp_path / "run", 2, training__batch="7")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert output.count("dermssl: training.batch 7 cannot be shared by 2 ranks") == 1
    assert not (tmp_path / "run").exists()


def test_what_ends_a_run_on_one_rank_ends_it_on_all(one_rank, dataset):
    process = start(dataset, one_rank("dino"), 2, **options("dino") | {"training__seed": "5"})
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert output.count("holds a run with another config") == 1
    assert "dermssl/training" not in output


def test_ranks_that_read_other_data_or_states_are_told_before_they_train(
    dataset, tmp_path, pretrain, capsys, monkeypatch
):
    def with_a_rank_of_another_node(own):
        return [*own, {"data sets": {"pictures": "0" * 64}, "newest state in --out": None}]

    monkeypatch.setattr("dermssl.training.setup.gather_object", with_a_rank_of_another_node)
    assert pretrain(dataset, tmp_path / "run") == 2
    assert "the ranks do not read the same data sets: use storage that all machines share" in capsys.readouterr().err
