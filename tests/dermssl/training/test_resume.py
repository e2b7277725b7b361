"""Killed, pre-empted, damaged: the run ends with the weights of one that was never interrupted."""

import gc
import json
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import pytest
import torch
from safetensors.torch import load, load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import (
    DINOV2,
    HELD,
    SIMCLR,
    assert_same_weights,
    metrics,
    prepare_pictures,
    saved_tensors,
    start,
    start_python,
    status,
    stop_after,
)

from dermssl.backbone.layouts import translate
from dermssl.files import read_yaml
from dermssl.training import pretrain as loop
from dermssl.training import states
from dermssl.training.watching import online


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


def test_dinov2_resumes_bit_by_bit_with_recomputed_activations_and_its_encoder_is_an_ordinary_one(
    pretrain, dataset, tmp_path, monkeypatch
):
    changes = DINOV2 | {"training__epochs": "1", "training__accumulation": "2", "optim__warmup_epochs": "0"}
    changes |= {"model__gradient_checkpointing": "true", "model__backbone": "test_vit2"}
    assert pretrain(dataset, tmp_path / "whole", **changes) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert pretrain(dataset, tmp_path / "run", **changes) == 1
    assert pretrain(dataset, tmp_path / "run", **changes) == 0
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    weights, encoder = saved_tensors(tmp_path / "run"), load_file(tmp_path / "run" / "encoder" / "model.safetensors")
    assert weights["mask_token"].any() and "mask_token" not in encoder
    read = translate({name: value for name, value in weights.items() if "|" not in name}).weights
    assert read.keys() == encoder.keys() and all(torch.equal(read[name], encoder[name]) for name in read)


@pytest.mark.parametrize(
    ("number", "code", "word", "step"),
    [(signal.SIGTERM, 75, "preempted", 4), (signal.SIGKILL, -9, "running", 4)],
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


def test_a_pre_empted_run_leaves_no_worker_behind(pretrain, dataset, tmp_path, monkeypatch):
    def step(run, *rest):
        os.kill(os.getpid(), signal.SIGTERM)
        return one_step(run, *rest)

    one_step = loop.one_step
    monkeypatch.setattr(loop, "one_step", step)
    assert pretrain(dataset, tmp_path / "run", data__workers="1") == 75
    gc.collect()
    assert not multiprocessing.active_children()


def test_signals_are_collected_only_inside_the_block_and_only_in_the_main_thread():
    signals, before = [], signal.getsignal(signal.SIGTERM)
    with loop.heard(signals):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == before
    with ThreadPoolExecutor(1) as threads:
        threads.submit(loop.heard([]).__enter__).result()
    assert signal.getsignal(signal.SIGTERM) == before


def test_states_after_the_one_that_is_written_are_damaged_ones_and_go(tmp_path):
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    for step in (2, 4, 3):
        states.save_state(tmp_path, network, optimizer, {"step": step}, keep=1 if step == 3 else 2)
    assert [path.name for path in states.list_states(tmp_path)] == ["step_00000003"]


def test_a_run_that_nobody_listens_to_any_more_ends(dataset, tmp_path):
    process = start(dataset, tmp_path / "run", program=("-c", HELD), data__workers="1")
    assert any("held at step 4" in line for line in iter(process.stdout.readline, ""))
    process.stdout.close()  # as `| head` does: whatever the run says from here on is an error
    process.send_signal(signal.SIGTERM)
    process.stdin.write("\n")
    process.stdin.close()
    process.wait(timeout=60)
    assert status(tmp_path / "run")["status"] == "preempted"


def test_a_damaged_newest_state_falls_back_to_the_one_before(whole, pretrain, dataset, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert pretrain(dataset, tmp_path / "run") == 1
    newest = sorted((tmp_path / "run" / "state").iterdir())[-1]
    (newest / "model.safetensors").write_bytes(b"torn")
    (tmp_path / "run" / "status.json").write_text('{"status": "fai')  # nothing depends on it
    assert pretrain(dataset, tmp_path / "run") == 0
    assert any("damaged" in message for message in caplog.messages)
    assert_same_weights(tmp_path / "run", whole)


def _without(name):
    def change(state):
        record = json.loads((state / "state.json").read_text())
        del record[name]
        (state / "state.json").write_text(json.dumps(record))

    return change


def _renamed(file, old, new):
    def change(state):
        tensors = load_file(state / file)
        save_file({name.replace(old, new): value for name, value in tensors.items()}, state / file)
        _without("sha256")(state)

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_without("ranks"), "'ranks'"),
        (_without("health"), "'health'"),
        (_renamed("model.safetensors", "teacher.", "momentum."), "Missing key"),
        (_renamed("optimizer.safetensors", "student.", "online."), "'online."),
        (_renamed("optimizer.safetensors", "exp_avg_sq", "second"), "AdamW has other moments than exp_avg, second, st"),
    ],
)
def test_a_state_of_another_version_ends_the_command_in_one_line(pretrain, dataset, tmp_path, capsys, change, named):
    if not (stopped := tmp_path.parent / "stopped").exists():
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 3)
            assert pretrain(dataset, stopped) == 1
    run = shutil.copytree(stopped, tmp_path / "run")
    change(states.list_states(run / "state")[-1])
    capsys.readouterr()
    assert pretrain(dataset, run) == 2
    error = capsys.readouterr().err
    assert "does not fit this version of dermssl" in error and named in error and "Traceback" not in error
    assert error.count("dermssl:") == 1 and "--overwrite" in error


@pytest.mark.parametrize("file", ["model", "optimizer"])
def test_a_state_whose_numbers_were_changed_is_a_damaged_one(tmp_path, caplog, file):
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2)).sum().backward()
    optimizer.step()
    for step in (1, 2):
        states.save_state(tmp_path, network, optimizer, {"step": step, "data": {}, "normalisation": {}}, keep=2)
    path = tmp_path / "step_00000002" / f"{file}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x11")
    assert states.newest_state(tmp_path).record["step"] == 1
    assert f"step_00000002 is damaged ({file}.safetensors was changed after it was written)" in caplog.text
    _without("sha256")(path.parent)
    assert states.newest_state(tmp_path).record["step"] == 2, "older versions recorded no hashes"


@pytest.mark.parametrize("name", ["step", "data", "normalisation"])
def test_a_state_without_what_every_reader_needs_is_a_damaged_one(tmp_path, caplog, name):
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    for step in (1, 2):
        states.save_state(tmp_path, network, optimizer, {"step": step, "data": {}, "normalisation": {}}, keep=2)
    _without(name)(tmp_path / "step_00000002")
    assert states.newest_record(tmp_path)["step"] == states.newest_state(tmp_path).record["step"] == 1
    assert f"state.json has no '{name}'" in caplog.text


@pytest.fixture
def rising(monkeypatch):
    """The encoder of every evaluation is better than the one before."""
    scores = iter(range(1, 100))
    monkeypatch.setattr(online, "_mean_recall", lambda *_: next(scores) / 100)


def best(run: Path) -> tuple[int, bytes]:
    """Step and weights of the best encoder."""
    config = json.loads((run / "best" / "config.json").read_text())
    return config["dermssl"]["step"], (run / "best" / "model.safetensors").read_bytes()


def test_a_run_that_dies_before_it_keeps_the_best_encoder_makes_up_for_it(
    rising, pretrain, dataset, tmp_path, monkeypatch
):
    def die(run):
        if run.progress.step == 6:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "keep_best", die)
        assert pretrain(dataset, tmp_path / "run") == 1
    assert not (tmp_path / "run" / "best").exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        assert pretrain(dataset, tmp_path / "run") == 1
    step, weights = best(tmp_path / "run")
    state = load_file(tmp_path / "run" / "state" / "step_00000006" / "model.safetensors")
    assert step == 6
    assert all(torch.equal(value, state[f"teacher.{name}"]) for name, value in load(weights).items())


def test_a_best_encoder_of_after_the_state_is_not_called_the_best_of_before(
    rising, pretrain, dataset, tmp_path, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert pretrain(dataset, tmp_path / "run") == 1
    assert best(tmp_path / "run")[0] == 6
    (tmp_path / "run" / "state" / "step_00000006" / "model.safetensors").write_bytes(b"torn")
    monkeypatch.setattr(online, "_mean_recall", lambda *_: 0.001)
    assert pretrain(dataset, tmp_path / "run") == 0
    assert any("best/ does not hold the best encoder" in message for message in caplog.messages)
    record = json.loads((sorted((tmp_path / "run" / "state").iterdir())[-1] / "state.json").read_text())
    assert record["best"]["step"] == best(tmp_path / "run")[0] == 6


def test_every_evaluation_saves_a_state(pretrain, dataset, tmp_path, monkeypatch):
    sparse = {"training__state_every_epochs": "100", "online__every_epochs": "1"}
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        assert pretrain(dataset, tmp_path / "run", **sparse) == 1
    assert [path.name for path in states.list_states(tmp_path / "run" / "state")] == ["step_00000003", "step_00000006"]


@pytest.mark.parametrize("damage", ["{", "{}", '{"dermssl": []}'])
def test_a_best_encoder_that_cannot_be_read_does_not_stop_a_run(
    rising, pretrain, dataset, tmp_path, monkeypatch, caplog, damage
):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert pretrain(dataset, tmp_path / "run") == 1
    assert best(tmp_path / "run")[0] == 0
    (tmp_path / "run" / "best" / "config.json").write_text(damage)
    assert pretrain(dataset, tmp_path / "run") == 0
    assert any("best/ does not hold the best encoder" in message for message in caplog.messages)
    assert best(tmp_path / "run")[0] == 9


def test_two_starts_in_one_folder_do_not_mix(dataset, tmp_path, pretrain, capsys):
    assert pretrain(dataset, tmp_path / "run") == 0
    process = start(dataset, tmp_path / "run", program=("-c", HELD), overwrite="true")
    assert any("held at step 4" in line for line in iter(process.stdout.readline, ""))
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    for again in ("false", "true"):
        assert pretrain(dataset, tmp_path / "run", overwrite=again) == 2
        assert f"another process is writing {tmp_path / 'run'}" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    process.kill()
    process.communicate()
    assert pretrain(dataset, tmp_path / "run") == 0, "the lock ended with the process that held it"


def test_a_requeued_job_waits_for_the_lock_of_the_node_that_died(dataset, tmp_path, pretrain, monkeypatch):
    process = start(dataset, tmp_path / "run", program=("-c", HELD))
    assert any("held at step 4" in line for line in iter(process.stdout.readline, ""))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(time, "sleep", lambda seconds: (process.kill(), process.communicate()))
    assert pretrain(dataset, tmp_path / "run") == 0
    assert process.returncode == -signal.SIGKILL, "the first try found the lock held"


def test_a_folder_is_free_once_a_run_in_it_has_failed(dataset, tmp_path, pretrain, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert pretrain(dataset, tmp_path / "run") == 1
    process = start_python(dataset, tmp_path / "run")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


def test_an_overwrite_that_was_killed_is_made_up_for(dataset, tmp_path, pretrain):
    assert pretrain(dataset, tmp_path / "run") == 0
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "run" / "tensorboard").rename(elsewhere)
    (tmp_path / "run" / "tensorboard").symlink_to(elsewhere)
    removed = []

    def killed(path):
        removed.append(path.name)
        if len(removed) == 3:
            raise KeyboardInterrupt
        rmtree(path)

    rmtree = shutil.rmtree
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        pretrain(dataset, tmp_path / "run", overwrite="true")
    assert len(removed) == 3 and not (tmp_path / "run" / removed[0]).exists()
    assert pretrain(dataset, tmp_path / "run", overwrite="true") == 0
    assert any(elsewhere.iterdir()), "what a link points at is somebody's"


@pytest.mark.parametrize("overwrite", ["false", "true"])
def test_a_start_that_was_killed_with_nothing_but_its_lock_is_made_up_for(dataset, tmp_path, pretrain, overwrite):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    assert pretrain(dataset, tmp_path / "run", training__epochs="1", overwrite=overwrite) == 0


def test_a_run_that_starts_again_on_other_data_before_its_first_state_records_them(
    dataset, tmp_path, pretrain, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        assert pretrain(dataset, tmp_path / "run") == 1
    other = prepare_pictures(tmp_path, "other", 24, seed=1)
    assert pretrain(other, tmp_path / "run", training__epochs="3") == 0
    assert read_yaml(tmp_path / "run" / "config.yaml")["data"]["folders"] == [str(other)]


def test_the_ledger_of_a_start_that_was_killed_is_not_that_of_the_next_start(dataset, tmp_path, pretrain):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "start_ledger.parquet").touch()
    assert pretrain(dataset, tmp_path / "run", training__epochs="1") == 0
    assert not (tmp_path / "run" / "start_ledger.parquet").exists()


def test_going_on_with_other_roundings_is_said(pretrain, dataset, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        patch.setattr(cv2, "__version__", "4.0")
        assert pretrain(dataset, tmp_path / "run") == 1
    assert pretrain(dataset, tmp_path / "run") == 0
    assert any("had views OpenCV 4.0, now OpenCV 5" in message for message in caplog.messages)


def test_each_point_is_in_tensorboard_once_after_a_resume_in_the_middle(pretrain, dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert pretrain(dataset, tmp_path / "run") == 1
    assert max(metrics(tmp_path / "run")) == 5, "a step after the state of step 4 is on record already"
    assert pretrain(dataset, tmp_path / "run") == 0
    assert len(list((tmp_path / "run" / "tensorboard").glob("events*"))) == 2
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in ("loss", "lr", "online_rankme"):
        points = [(event.step, pytest.approx(event.value, rel=1e-5)) for event in events.Scalars(name)]
        assert points == list(metrics(tmp_path / "run", name).items())
    steps = status(tmp_path / "run")["steps"]
    assert [event.step for event in events.Scalars("loss")] == list(range(1, steps + 1))


def test_simclr_with_lars_and_batch_norm_goes_on_bit_by_bit(pretrain, dataset, tmp_path, monkeypatch):
    options = SIMCLR | {"model.backbone": "resnet18", "model.drop_path": "0", "optim.name": "lars", "optim.lr": "1"}
    changes = {key.replace(".", "__"): value for key, value in options.items()}
    assert pretrain(dataset, tmp_path / "whole", **changes) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert pretrain(dataset, tmp_path / "run", **changes) == 1
    assert pretrain(dataset, tmp_path / "run", **changes) == 0
    names = saved_tensors(tmp_path / "run").keys()
    assert any(name.endswith("running_var") for name in names) and any("momentum_buffer" in name for name in names)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
