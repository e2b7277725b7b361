"""The command ``dermssl``: makes encoders. Heavy modules are imported only by the command that needs them."""

from collections.abc import Sequence

from dermssl import commandline
from dermssl.commandline import Command

COMMANDS = (
    Command(
        "sources",
        "known data sets: licence, patient key, how to get each",
        "dermssl.prepare.options:SourcesOptions",
        "dermssl.prepare.sources.sources:sources",
    ),
    Command(
        "prepare",
        "raw data set -> dataset folder",
        "dermssl.prepare.options:PrepareOptions",
        "dermssl.prepare.prepare:prepare",
        writes="out",
    ),
    Command(
        "describe",
        "tables and plots of a dataset folder",
        "dermssl.describe.options:DescribeOptions",
        "dermssl.describe.describe:describe",
        writes="out",
    ),
    Command(
        "split",
        "draw a split or folds by patient",
        "dermssl.dataset.options:SplitOptions",
        "dermssl.dataset.split:split",
        writes="folder",
    ),
    Command(
        "licence",
        "what the licences of a folder allow and ask",
        "dermssl.dataset.options:LicenceOptions",
        "dermssl.dataset.licence:licence",
    ),
    Command(
        "synth",
        "a synthetic stand-in in PASSION's layout",
        "dermssl.synth.options:SynthOptions",
        "dermssl.synth.synth:synth",
        writes="out",
    ),
    Command(
        "pretrain",
        "dataset folders -> run folder with an encoder",
        "dermssl.training.options:PretrainOptions",
        "dermssl.training.pretrain:pretrain",
        {"--data": "--data.folders", "--tracking.with": "--tracking.trackers"},
    ),
    Command(
        "recipe",
        "a config for this data, with the reason for each setting",
        "dermssl.training.options:RecipeOptions",
        "dermssl.training.recipe:recipe",
    ),
    Command(
        "export",
        "a run's encoder as a timm folder",
        "dermssl.training.options:ExportOptions",
        "dermssl.training.export:export",
        writes="out",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dermssl``; returns the exit code."""
    return commandline.main("dermssl", "Self-supervised encoders for skin images.", COMMANDS, argv)
