"""Every recipe in configs/ is one that `dermssl pretrain` accepts."""

import re
from pathlib import Path

import pytest

from dermssl.cli import main
from dermssl.errors import InputError
from dermssl.methods.registry import METHODS
from dermssl.parser import leaves, parse
from dermssl.training.options import PretrainOptions

CONFIGS = Path(__file__).parents[3] / "configs"
RECIPES = sorted(path.name for path in CONFIGS.glob("*.yaml") if not path.name.startswith("accelerate"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid(name):
    given = ["--config", str(CONFIGS / name), "--data", "data/x", "--out", "checkpoints/x"]
    options, _ = parse("dermssl pretrain", PretrainOptions, given)
    assert options.method in name or name == "quickstart.yaml"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dino.out_dim", "64"], "the options of dino count only with method dino, but the method is dinov2"),
        (["--model.init_part", "all"], "model.init_part counts only with model.init: leave it out"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        parse("dermssl pretrain", PretrainOptions, ["--data", "x", "--out", "y", "--method", "dinov2", *arguments])


def test_the_recipes_of_the_readme_are_there():
    assert set(RECIPES) >= {
        "quickstart.yaml",
        "dino_vits16.yaml",
        "dino_vitt16_small.yaml",
        "dino_resnet18_small.yaml",
        "simclr_resnet50.yaml",
        "simclr_resnet18_small.yaml",
    }


@pytest.mark.parametrize("method", METHODS)
def test_help_shows_fifty_options_at_most_with_the_common_ones_first_and_no_other_methods(method, capsys):
    assert main(["pretrain", "--method", method, "--help"]) == 0
    page = capsys.readouterr().out
    shown = re.findall(r"^  --(\S+)", page, flags=re.MULTILINE)
    assert len(shown) <= 50 and shown[:3] == ["config", "json", "out"]
    assert not [name for name in shown if name.split(".")[0] in set(METHODS) - {method}]
    assert main(["pretrain", "--help-all"]) == 0
    everything = re.findall(r"^  --(\S+)", capsys.readouterr().out, flags=re.MULTILINE)
    names = {leaf.name for leaf in leaves(PretrainOptions)}
    assert set(PretrainOptions.RARE) <= names <= set(everything)
