"""``dermssl recipe``: a config for your data and method, with the reason for each setting, to read and change.

Published recipes are for a million images. On a few thousand images they collapse or stay at chance level.
"""

from pathlib import Path

import yaml

from dermssl.backbone.build import is_vit, timm_config
from dermssl.commandline import Report
from dermssl.dataset.dataset import open_datasets
from dermssl.errors import InputError, did_you_mean
from dermssl.files import write_text
from dermssl.methods.registry import METHODS, TIERS, Choices, Setting, power_of_two
from dermssl.paths import refuse_within_dataset
from dermssl.training.options import OnlineOptions, RecipeOptions
from dermssl.training.pool import select_rows

FEWEST_STEPS = 4
"""Least number of optimizer steps per epoch."""
LONGEST_WARMUP, WARMUP_SHARE = 10.0, 1 / 15


def recipe(options: RecipeOptions) -> Report:
    """Recommend settings by the number of training images. InputError: bad options or data, or ``out`` exists."""
    if options.method not in METHODS:
        raise InputError(f"--method {options.method}: no such method; {did_you_mean(options.method, METHODS)}")
    timm_config(options.backbone)  # refuses an unknown name
    out = Path(options.out) if options.out else None
    if out:
        refuse_within_dataset(out)
        if out.exists():
            raise InputError(f"{out} already exists: choose another --out")
    data = select_rows(open_datasets(options.data), "train", OnlineOptions(), 0)
    images = sum(map(len, data.rows))
    if options.batch and options.batch > images:
        raise InputError(f"--batch {options.batch} is above the {images} training images: lower it")
    choices = recommend(options, images)
    text = as_yaml(options, images, choices)
    if out:
        write_text(out, text)
    settings = {key: value for key, (value, _) in choices.items()}
    return Report(text.rstrip() + (f"\n# written to {out}" if out else ""), {"images": images, "settings": settings})


def recommend(options: RecipeOptions, images: int) -> Choices:
    """Settings for ``images`` training images. Epochs and batch are those of the options, if given."""
    method, tier = METHODS[options.method], sum(images > most for most in TIERS)
    batch = options.batch or min(method.batch[tier], power_of_two(images // FEWEST_STEPS))
    epochs = options.epochs or method.epochs[tier]
    warmup = min(LONGEST_WARMUP, round(epochs * WARMUP_SHARE, 1))
    small = "; batches of 64 and more learn better, but give fewer steps" if batch < 64 else ""
    common: Choices = {
        "training.batch": (batch, f"{images // batch:,} steps per epoch{small}"),
        "training.epochs": (epochs, "an epoch of few images has few steps: count steps, not epochs"),
        "optim.warmup_epochs": (warmup, "a fifteenth of the run, at most 10 as published"),
    }
    setting = Setting(images, tier, epochs, batch, not is_vit(options.backbone))
    return common | method.recommend(setting)


def as_yaml(options: RecipeOptions, images: int, choices: Choices) -> str:
    """The config as YAML, with a reason for each setting and the command that uses it."""
    model = {"backbone": options.backbone} | ({} if is_vit(options.backbone) else {"drop_path": 0})
    file = options.out or "THIS_FILE"
    lines = [
        f"# {options.method}, {options.backbone}, {images:,} training images of {', '.join(options.data)}.",
        f"# dermssl pretrain --config {file} --data {' '.join(options.data)} --out checkpoints/run1",
        f"method: {options.method}",
        yaml.safe_dump({"model": model}, sort_keys=False).rstrip(),
    ]
    for section in dict.fromkeys(key.split(".")[0] for key in choices):
        entries = {key.split(".")[1]: choice for key, choice in choices.items() if key.startswith(f"{section}.")}
        written = [yaml.safe_dump({key: value}).strip() for key, (value, _) in entries.items()]
        width = max(map(len, written))
        told = [f"  {text:<{width}}  # {reason}" for text, (_, reason) in zip(written, entries.values(), strict=True)]
        lines += [f"{section}:", *told]
    return "\n".join(lines) + "\n"
