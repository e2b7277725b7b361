"""Real runs that fail, each provoked by the setting that is to blame, stop with the sentence that names it."""

import pytest
from tiny_runs import SIMCLR, metrics, status

SIMCLR = {key.replace(".", "__"): value for key, value in SIMCLR.items()}
STOP = {"health__on_collapse": "stop", "health__patience": "1", "training__epochs": "2"}
HOT = {"dino__warmup_teacher_temperature": "100", "dino__teacher_temperature": "100"}
LOST = {"optim__weight_decay": "1e5", "optim__weight_decay_end": "1e5", "optim__warmup_epochs": "0"}
"""Weights decay to nothing within a few steps."""
STILL = {"model__drop_path": "0", "training__epochs": "4"}
WATCHED = {"training__epochs": "4", "online__every_epochs": "1", "health__patience": "5"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (HOT, "uniform output: the loss stays at chance"),
        (LOST | STILL | {"dino__momentum": "0.5", "dino__center_momentum": "1"}, "one code: the teacher gives every"),
        ({"dino__momentum": "1"}, "teacher stands still: the teacher's momentum"),
        ({"optim__lr": "1e-12", "optim__lr_end": "0"}, "learning rate of zero: the learning rate is too small"),
        ({"optim__lr": "1e15", "optim__clip": "0", "optim__warmup_epochs": "0"}, "not finite 3 times in a row"),
        (SIMCLR | {"simclr__temperature": "1e9"}, "vanished gradient: the gradient is zero"),
        (SIMCLR | {"simclr__temperature": "1e-6"}, "exploding gradient: the gradient is huge"),
        (SIMCLR | {"simclr__temperature": "200"}, "not learning: the loss is at chance"),
        (
            SIMCLR | {"simclr__temperature": "200", "training__accumulation": "4"},
            "not learning: the loss is at chance",
        ),
        (SIMCLR | LOST | STILL, "feature collapse: all images get nearly the same"),
        (SIMCLR | LOST | WATCHED, "rank collapse: the features lie along one line"),
    ],
)
def test_a_failing_run_stops_and_names_the_cause(pretrain, dataset, tmp_path, capsys, changes, words):
    assert pretrain(dataset, tmp_path / "run", **STOP | changes) == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error
    assert (tmp_path / "run" / "ledger.parquet").exists()
    assert "**Stopped** by the health check" in (tmp_path / "run" / "MODEL_CARD.md").read_text()
    if "not finite" not in words:
        assert max(metrics(tmp_path / "run")) == status(tmp_path / "run")["step"], "the line that tells of it is there"
    assert status(tmp_path / "run")["status"] == "stopped" and status(tmp_path / "run")["message"] in error


def test_a_stopped_run_says_so_before_it_writes_its_ledger(pretrain, dataset, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "ledger.parquet")

    monkeypatch.setattr("dermssl.training.finish.write_record", full)
    assert pretrain(dataset, tmp_path / "run", **STOP, dino__momentum="1") == 2
    assert status(tmp_path / "run")["status"] == "stopped"
