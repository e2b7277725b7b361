"""The program ``dermssl``. Heavy modules are imported only by the command that needs them."""

from collections.abc import Sequence

from dermssl import commandline
from dermssl.commandline import Command

COMMANDS = (
    Command("sources", "known data sets: licence, units, layout, how to get each", "prepare.sources", "SourcesOptions"),
    Command("prepare", "raw data set -> dataset folder", "prepare", "PrepareOptions", "out"),
    Command("describe", "tables and plots of a dataset folder", "describe", "DescribeOptions", "out"),
    Command("split", "split or folds by patient", "dataset", "SplitOptions", "folder"),
    Command("licence", "what the licences of a folder allow and require", "dataset", "LicenceOptions"),
    Command("synth", "a synthetic data set in PASSION's layout", "synth", "SynthOptions", "out"),
    Command("pretrain", "dataset folders -> run folder with an encoder", "training", "PretrainOptions", ranks=True),
    Command("recipe", "a config for this data, with the reason for each setting", "training", "RecipeOptions"),
    Command("export", "a run's encoder as a timm folder", "training", "ExportOptions", "out"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dermssl`` and return the exit code."""
    return commandline.main("dermssl", "Self-supervised encoders for skin images.", COMMANDS, argv)
