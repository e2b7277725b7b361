"""A recipe scales with the number of images, says why, and can be given to `dermssl pretrain` as it is."""

import pytest
import yaml

from dermssl.cli import main
from dermssl.errors import InputError
from dermssl.methods.registry import METHODS
from dermssl.parser import parse
from dermssl.training.options import PretrainOptions, RecipeOptions
from dermssl.training.recipe import as_yaml, recommend

COUNTS = (40, 300, 1_000, 5_354, 10_000, 10_001, 20_000, 50_000, 100_000, 400_000, 2_000_000)


def values(images: int, method: str = "dino", backbone: str = "resnet18", **changes) -> dict:
    choices = recommend(RecipeOptions(["data/x"], method, backbone, **changes), images)
    return {key: value for key, (value, _) in choices.items()}


def over_counts(method: str, key: str) -> list:
    tables = [values(count, method, "vit_tiny_patch16_224") for count in COUNTS]
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
    chosen = over_counts(method, key)
    assert chosen == sorted(chosen) and chosen[0] < chosen[-1]


@pytest.mark.parametrize(("method", "key"), [("dino", "training.epochs"), ("simclr", "simclr.temperature")])
def test_more_images_never_get_more(method, key):
    chosen = over_counts(method, key)
    assert chosen == sorted(chosen, reverse=True) and chosen[0] > chosen[-1]


def test_the_teacher_lags_longer_in_longer_runs():
    def momentum(count: int, epochs: int) -> float:
        return values(count, epochs=epochs, batch=128)["dino.momentum"]

    lag = [momentum(count, 36) for count in COUNTS]
    assert lag == sorted(lag) and lag[0] == 0.9 and lag[-1] == 0.996
    assert momentum(5_354, 36) == pytest.approx(0.95, abs=0.002)
    assert momentum(5_354, 400) > momentum(5_354, 36)


@pytest.mark.parametrize("method", METHODS)
def test_an_epoch_has_four_steps_at_least(method):
    for count, batch in zip(COUNTS, over_counts(method, "training.batch"), strict=True):
        assert count // batch >= 4


def test_only_a_small_batch_is_called_small():
    def reason(images: int) -> str:
        return recommend(RecipeOptions(["data/x"], "simclr", "resnet18"), images)["training.batch"][1]

    assert reason(210) == "6 steps per epoch; batches of 64 and more learn better, but give fewer steps"
    assert "learn better" not in reason(5_354)


def test_there_are_no_more_prototypes_than_images():
    assert all(out_dim <= count for count, out_dim in zip(COUNTS, over_counts("dino", "dino.out_dim"), strict=True))


def test_a_million_images_get_the_published_dino():
    chosen = values(1_281_167, backbone="vit_small_patch16_224")
    assert chosen["dino.out_dim"] == 65536 and chosen["dino.momentum"] == 0.996
    assert (chosen["dino.warmup_teacher_temperature"], chosen["dino.teacher_temperature"]) == (0.04, 0.07)
    assert chosen["optim.warmup_epochs"] == pytest.approx(10, abs=4) and chosen["training.batch"] == 1024


@pytest.mark.parametrize("backbone", ["resnet18", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("method", METHODS)
def test_pretrain_takes_every_recipe(tmp_path, method, backbone):
    asked = RecipeOptions(["data/x"], method, backbone)
    if (method, backbone) == ("dinov2", "resnet18"):
        with pytest.raises(InputError, match="choose a vision transformer"):
            recommend(asked, 1000)
        return
    for images in (40, 10_000, 10_001, 100_000, 2_000_000):
        choices = recommend(asked, images)
        (tmp_path / "recipe.yaml").write_text(as_yaml(asked, images, choices))
        given = ["--data", "data/x", "--out", "checkpoints/x", "--config", str(tmp_path / "recipe.yaml")]
        options = parse("dermssl pretrain", PretrainOptions, given)[0]
        assert options.method == method and options.model.backbone == backbone
        for key, (value, _) in choices.items():
            section, name = key.split(".")
            assert getattr(getattr(options, section), name) == value


def test_a_recipe_is_printed_with_its_reasons_and_trains(pretrain, dataset, tmp_path, capsys):
    config = tmp_path / "recipe.yaml"
    arguments = [
        "--data",
        str(dataset),
        "--backbone",
        "test_vit",
        "--epochs",
        "1",
        "--batch",
        "8",
        "--out",
        str(config),
    ]
    assert main(["recipe", *arguments]) == 0
    page = capsys.readouterr().out
    assert "# the mean centre collapsed" in page and "29 training images" in page
    assert yaml.safe_load(config.read_text())["dino"]["centering"] == "sinkhorn"
    assert main(["pretrain", "--config", str(config), "--data", str(dataset), "--out", str(tmp_path / "run")]) == 0
    assert main(["recipe", *arguments]) == 2
    assert f"{config} already exists" in capsys.readouterr().err
    for option in ("--out", "--json"):
        inside = dataset / "new.yaml"
        assert main(["recipe", "--data", str(dataset), option, str(inside)]) == 2 and not inside.exists()
        assert f"lies in the dataset folder {dataset}: choose another {option}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--method", "dyno", "did you mean 'dino'?"),
        ("--backbone", "resnet1", "did you mean 'resnet"),
        ("--data", "x", "x"),
        ("--batch", "99", "--batch 99 is above the 29 training images"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_one_line(dataset, capsys, option, value, words):
    arguments = ["recipe", "--data", str(dataset)] if option != "--data" else ["recipe"]
    assert main([*arguments, option, value]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
