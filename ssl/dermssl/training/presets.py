"""Settings that follow from the number of training images (``--preset auto``), each with its reason.

The published recipes are for a million images; on a few thousand they collapse or never leave chance level. A preset
never overrides a key that was given on the command line or in the YAML.
"""

import copy
import logging
from typing import Any, NamedTuple

from dermssl.errors import InputError
from dermssl.training.options import PretrainOptions

log = logging.getLogger("dermssl")

TIERS = (10_000, 20_000, 100_000)
"""Up to so many training images, and more: the four columns of the tables below."""

FEWEST_STEPS = 4
"""Optimizer steps that an epoch has at least."""

PUBLISHED_MOMENTUM, LEAST_MOMENTUM = 0.996, 0.9
LAG_SHARE = 1 / 75
"""Share of the run that the teacher lags behind. Measured with 984 steps on 5,354 images: momentum 0.9 learned twice as
fast as 0.98; 0.95 with 1,476 steps was best."""

LONGEST_WARMUP, WARMUP_SHARE = 10.0, 1 / 15


class Choice(NamedTuple):
    """One setting: its dotted key, its value, and why."""

    key: str
    value: Any
    reason: str


# (key, value per tier, reason). None: left as it is.
DINO = (
    (
        "dino.centering",
        ("sinkhorn", "sinkhorn", "sinkhorn", "mean"),
        "measured on 5,000 images: the mean centre drifts to uniform outputs or a few codes within 300 steps; it is "
        "published for long runs on a million",
    ),
    (
        "dino.warmup_teacher_temperature",
        (0.015, 0.02, 0.02, 0.04),
        "a sharper teacher keeps the loss off ln(out_dim) in short runs (measured with sinkhorn; published 0.04)",
    ),
    (
        "dino.teacher_temperature",
        (0.015, 0.02, 0.02, 0.07),
        "as above; published 0.04 to 0.07, the higher for long runs",
    ),
    (
        "dino.warmup_teacher_epochs",
        (0.0, 0.0, 0.0, 30.0),
        "no rise is needed up to 0.04; published 30 where it ends at 0.07",
    ),
)
DINO_CONVNET = (
    (
        "dino.batch_norm",
        (True, True, True, None),
        "measured on ResNet-18: keeps the outputs of different images apart while the run is short",
    ),
    (
        "views.local_count",
        (0, 0, 0, None),
        "measured on ResNet-18: local crops of a lesion's picture show bare skin, and what is learned is its colour",
    ),
    ("optim.lr", (0.004, 0.004, 0.004, 0.002), "measured on ResNet-18 with AdamW; the published 0.0005 is for ViT"),
    ("optim.weight_decay", (0.0001,) * 4, "for convnets; the published 0.04 is for ViT"),
    ("optim.weight_decay_end", (0.01,) * 4, "for convnets; the published 0.4 is for ViT"),
)
SIMCLR = (
    ("views.local_count", (0,) * 4, "SimCLR compares two global crops"),
    ("simclr.temperature", (0.2, 0.2, 0.2, 0.1), "few negatives want it above the 0.1 published for large batches"),
)
SIMCLR_ADAMW = (
    ("optim.lr", (0.001,) * 4, "measured with AdamW and batch 256 on 5,354 images"),
    ("optim.weight_decay", (0.0001,) * 4, "as above; the default 0.04 is DINO's"),
    ("optim.weight_decay_end", (0.0001,) * 4, "as above"),
    ("optim.clip", (0.0,) * 4, "as published: SimCLR clips nothing"),
)
SIMCLR_LARS = (
    ("optim.lr", (0.3,) * 4, "as published, for a batch of 256; scaled with the batch"),
    ("optim.lr_end", (0.0,) * 4, "as published"),
    ("optim.weight_decay", (1e-6,) * 4, "as published; LARS scales only what is decayed"),
    ("optim.weight_decay_end", (1e-6,) * 4, "as published"),
    ("optim.clip", (0.0,) * 4, "as published: SimCLR clips nothing"),
)
OUT_DIM = (2048, 2048, 4096, 65536)
EPOCHS = {"dino": (400, 300, 200, 100), "simclr": (200, 200, 100, 100)}
BATCH = {"dino": (128, 256, 256, 1024), "simclr": (256, 256, 256, 1024)}


def choose(method: str, images: int, convnet: bool, given: dict[str, Any]) -> list[Choice]:
    """What the preset sets for ``images`` training images.

    Args:
        method: ``dino`` or ``simclr``.
        images: of all pooled sets, after what is kept out.
        convnet: False for transformers.
        given: values of the keys that the user set; batch, epochs and optimizer of them decide about others.
    """
    tier = sum(images > most for most in TIERS)
    batch = min(BATCH[method][tier], _power_of_two(images // FEWEST_STEPS))
    epochs = EPOCHS[method][tier]
    choices = [
        Choice("training.batch", batch, f"{images // batch:,} steps per epoch; 64 and more learn better"),
        Choice("training.epochs", epochs, "small epochs are few steps: count steps, not epochs"),
    ]
    batch, epochs = given.get("training.batch", batch), given.get("training.epochs", epochs)
    warmup = min(LONGEST_WARMUP, round(epochs * WARMUP_SHARE, 1))
    choices.append(Choice("optim.warmup_epochs", warmup, "a fifteenth of the run, at most the published 10"))
    tables = DINO + (DINO_CONVNET if convnet else ())
    if method == "simclr":
        tables = SIMCLR + (SIMCLR_LARS if given.get("optim.name") == "lars" else SIMCLR_ADAMW)
    else:
        reason = "more prototypes than images never settle (published 65,536 for 1.3 million)"
        choices.append(Choice("dino.out_dim", min(OUT_DIM[tier], _power_of_two(images)), reason))
        steps = max(1, images // batch) * epochs
        momentum = round(min(PUBLISHED_MOMENTUM, max(LEAST_MOMENTUM, 1 - 1 / (LAG_SHARE * steps))), 4)
        reason = f"the teacher follows within {1 / (1 - momentum):.0f} of {steps:,} steps"
        choices.append(Choice("dino.momentum", momentum, reason))
    columns = [Choice(key, values[tier], reason) for key, values, reason in tables]
    return choices + [choice for choice in columns if choice.value is not None]


def _power_of_two(number: int) -> int:
    """The largest one that is not above ``number``, at least 1."""
    return 2 ** max(0, number.bit_length() - 1)


def apply_preset(options: PretrainOptions, images: int, convnet: bool) -> PretrainOptions:
    """The options with the preset's choices for every key that was not given, each printed with its reason.

    Raises:
        InputError: a choice does not go with what was given.
    """
    if options.preset == "none":
        return options
    given = {key: _section(options, key)[0] for key in options.given}
    resolved = copy.deepcopy(options)
    log.info("preset auto for %s training images:", f"{images:,}")
    for choice in choose(options.method, images, convnet, given):
        if choice.key in given:
            log.info("  %s %s as given (preset: %s)", choice.key, given[choice.key], choice.value)
            continue
        log.info("  %s %s: %s", choice.key, choice.value, choice.reason)
        _, section, name = _section(resolved, choice.key)
        setattr(section, name, choice.value)
    try:
        resolved.check()
    except ValueError as error:
        raise InputError(f"preset auto: {error}") from None
    return resolved


def _section(options: PretrainOptions, key: str) -> tuple[Any, Any, str]:
    """Value of a dotted key, the dataclass that holds it, and its name there."""
    section: Any = options
    *parents, name = key.split(".")
    for parent in parents:
        section = getattr(section, parent)
    return getattr(section, name), section, name
