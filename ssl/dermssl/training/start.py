"""Where the weights of a run start: timm's, a file's, an exported encoder's, or an earlier run's."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dermssl.backbone.build import build as build_backbone
from dermssl.backbone.load import load as load_encoder
from dermssl.backbone.load import load_weights, read_weights
from dermssl.errors import InputError
from dermssl.training import states
from dermssl.training.options import ModelOptions

BACKBONES = ("student", "teacher", "backbone")
"""What methods call their backbones."""


def load_initial(method: Any, options: ModelOptions, size: int) -> None:
    """Put the weights of ``options.init`` into the method: into every backbone, or with ``init_part all`` everywhere.

    ``size``: side of the global crops in pixels, which timm makes a transformer's position embeddings for.

    Raises:
        InputError: the weights cannot be had, are not finite, or belong to another backbone.
    """
    init, part = str(options.init), options.init_part
    weights = _encoder_weights(init, options, size) if part == "encoder" else _state_weights(Path(init), part)
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(f"model.init {init}: {broken[0]} holds values that are not finite: give other weights")
    try:
        if part == "all":
            method.load_state_dict(weights, strict=True)
            return
        for network in backbones(method):
            load_weights(network, weights)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        same = ", the method and its heads" if part == "all" else ""
        raise InputError(f"model.init {init} does not fit model.backbone {options.backbone}{same} ({first})") from None


def backbones(method: nn.Module) -> list[nn.Module]:
    """The method's backbones, without their heads."""
    return [child for key, child in method.named_children() if key in BACKBONES]


def _encoder_weights(init: str, options: ModelOptions, size: int) -> dict[str, Tensor]:
    if init == "timm":
        return build_backbone(options.backbone, size, pretrained=True, patch_size=options.patch_size).state_dict()
    path = Path(init)
    if path.is_file():
        return read_weights(path)
    model, config = load_encoder(path / "encoder" if (path / "encoder").is_dir() else path)
    if config["architecture"] != options.backbone:
        raise InputError(
            f"model.init {init} is a {config['architecture']}, but model.backbone is {options.backbone}: use the same"
        )
    return model.state_dict()


def _state_weights(run: Path, part: str) -> dict[str, Tensor]:
    saved = states.newest_state(run / "state")
    if saved is None:
        raise InputError(
            f"model.init {run} has no state/, which model.init_part {part} is read from: give a run folder"
        )
    return saved.weights if part == "all" else network_weights(run, saved.weights, part)


def network_weights(run: Path, weights: dict[str, Tensor], which: str) -> dict[str, Tensor]:
    """The backbone of the ``student`` or ``teacher`` out of a state's weights; SimCLR's only backbone is a student.

    Raises:
        InputError: there is no such network.
    """
    for prefix in (f"{which}.", "backbone." if which == "student" else f"{which}."):
        found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if found:
            return found
    raise InputError(f"{run} has no {which}, as its method trains one network: choose `student` or the encoder")


def load_network(run: Path, config: dict[str, Any], which: str) -> tuple[nn.Module, states.Saved]:
    """The ``student`` or ``teacher`` backbone of a run's newest state, and that state; ``config`` is the run's."""
    saved = states.newest_state(run / "state")
    if saved is None:
        raise InputError(f"{run} has no state/: let `dermssl pretrain` save one, or choose --which last")
    options = config["model"]
    model = build_backbone(options["backbone"], config["views"]["global_size"], patch_size=options.get("patch_size"))
    load_weights(model, network_weights(run, saved.weights, which))
    return model.eval(), saved
