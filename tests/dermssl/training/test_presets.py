"""Presets scale with the number of images, say why, and never override what was given."""

import pytest
import yaml

from dermssl.cli import COMMANDS
from dermssl.commandline import make_parser, parse
from dermssl.errors import InputError
from dermssl.training.options import PretrainOptions
from dermssl.training.presets import apply_preset, choose

COMMAND = next(command for command in COMMANDS if command.name == "pretrain")
COUNTS = (40, 300, 1_000, 5_354, 10_000, 10_001, 20_000, 50_000, 100_000, 400_000, 2_000_000)


def options(*arguments: str) -> PretrainOptions:
    given = ["--data", "data/x", "--out", "checkpoints/x", *arguments]
    parser = make_parser("dermssl pretrain", COMMAND, PretrainOptions)
    return parse(parser, PretrainOptions, given, COMMAND.aliases)[0]


def over_counts(method: str, key: str, convnet: bool = True) -> list:
    tables = [{c.key: c.value for c in choose(method, count, convnet, {})} for count in COUNTS]
    return [table[key] for table in tables if key in table]


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("dino", "dino.out_dim"),
        ("dino", "dino.warmup_teacher_temperature"),
        ("dino", "dino.teacher_temperature"),
        ("dino", "training.batch"),
        ("simclr", "training.batch"),
    ],
)
def test_more_images_never_get_less(method, key):
    values = over_counts(method, key)
    assert values == sorted(values) and values[0] < values[-1]


@pytest.mark.parametrize(("method", "key"), [("dino", "training.epochs"), ("simclr", "simclr.temperature")])
def test_more_images_never_get_more(method, key):
    values = over_counts(method, key)
    assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_the_teacher_lags_longer_in_longer_runs():
    def momentum(count: int, epochs: int) -> float:
        given = {"training.batch": 128, "training.epochs": epochs}
        return next(c.value for c in choose("dino", count, True, given) if c.key == "dino.momentum")

    lag = [momentum(count, 36) for count in COUNTS]
    assert lag == sorted(lag) and lag[0] == 0.9 and lag[-1] == 0.996
    assert momentum(5_354, 36) == pytest.approx(0.95, abs=0.002)
    assert momentum(5_354, 400) > momentum(5_354, 36)


@pytest.mark.parametrize("method", ["dino", "simclr"])
def test_an_epoch_has_four_steps_at_least(method):
    for count, batch in zip(COUNTS, over_counts(method, "training.batch"), strict=True):
        assert count // batch >= 4


def test_there_are_no_more_prototypes_than_images():
    assert all(out_dim <= count for count, out_dim in zip(COUNTS, over_counts("dino", "dino.out_dim"), strict=True))


def test_a_million_images_get_the_published_dino():
    values = {c.key: c.value for c in choose("dino", 1_281_167, False, {})}
    assert values["dino.out_dim"] == 65536 and values["dino.momentum"] == 0.996
    assert (values["dino.warmup_teacher_temperature"], values["dino.teacher_temperature"]) == (0.04, 0.07)
    assert values["optim.warmup_epochs"] == pytest.approx(10, abs=4) and values["training.batch"] == 1024


def test_given_keys_win_from_the_command_line_and_the_config(tmp_path, caplog):
    caplog.set_level("INFO", logger="dermssl")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"dino": {"out_dim": 65536}}))
    asked = options("--preset", "auto", "--config", str(config), "--training.batch=256")
    resolved = apply_preset(asked, 5_354, convnet=True)
    assert (resolved.dino.out_dim, resolved.training.batch) == (65536, 256)
    assert resolved.dino.centering == "sinkhorn" and asked.dino.centering == "mean"
    assert "dino.out_dim 65536 as given (preset: 2048)" in caplog.text
    assert "dino.centering sinkhorn: measured" in caplog.text


def test_without_a_preset_nothing_changes():
    asked = options()
    assert apply_preset(asked, 5_354, convnet=True) is asked


def test_choices_that_do_not_go_with_what_was_given_are_one_line():
    with pytest.raises(InputError, match=r"preset auto: training.batch 4 .*training.accumulation 8"):
        apply_preset(options("--preset", "auto", "--training.accumulation", "8"), 20, convnet=True)


def test_simclr_needs_nothing_but_its_name():
    resolved = apply_preset(options("--preset", "auto", "--method", "simclr"), 5_354, convnet=True)
    assert resolved.views.local_count == 0 and resolved.optim.weight_decay == 0.0001


def test_simclr_with_lars_gets_the_published_optimizer():
    asked = options("--preset", "auto", "--method", "simclr", "--optim.name", "lars")
    optim = apply_preset(asked, 50_000, convnet=True).optim
    assert (optim.lr, optim.lr_end, optim.weight_decay, optim.weight_decay_end, optim.clip) == (0.3, 0, 1e-6, 1e-6, 0)


def test_what_simclr_cannot_do_is_refused_with_a_preset_too():
    asked = options("--preset", "auto", "--method", "simclr", "--views.local_count", "2")
    with pytest.raises(InputError, match="preset auto: method simclr has no local crops"):
        apply_preset(asked, 5_354, convnet=True)


def test_a_run_writes_and_prints_what_was_chosen(pretrain, dataset, tmp_path, caplog):
    caplog.set_level("INFO", logger="dermssl")
    assert pretrain(dataset, tmp_path / "run", preset="auto", training__epochs="1") == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["dino"]["centering"] == "sinkhorn" and config["dino"]["out_dim"] == 32
    assert "dino.out_dim 32 as given (preset: 16)" in caplog.text
