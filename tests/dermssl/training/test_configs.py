"""Every recipe in configs/ is one that `dermssl pretrain` accepts."""

from pathlib import Path

import pytest

from dermssl.cli import COMMANDS
from dermssl.commandline import make_parser, parse
from dermssl.training.options import PretrainOptions

CONFIGS = Path(__file__).parents[3] / "configs"
RECIPES = sorted(path.name for path in CONFIGS.glob("*.yaml") if not path.name.startswith("accelerate"))
COMMAND = next(command for command in COMMANDS if command.name == "pretrain")


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid(name):
    parser = make_parser("dermssl pretrain", COMMAND, PretrainOptions)
    given = ["--config", str(CONFIGS / name), "--data", "data/x", "--out", "checkpoints/x"]
    options, _ = parse(parser, PretrainOptions, given, COMMAND.aliases)
    assert options.method in name or name == "quickstart.yaml"


def test_the_recipes_of_the_readme_are_there():
    assert set(RECIPES) >= {
        "quickstart.yaml",
        "dino_vits16.yaml",
        "dino_vitt16_small.yaml",
        "dino_resnet18_small.yaml",
        "simclr_resnet50.yaml",
        "simclr_resnet18_small.yaml",
    }
