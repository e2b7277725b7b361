"""Weights into backbones: an exported encoder, or a file that another project released."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from dermssl.errors import InputError
from dermssl.files import read_json, require_folder

CLASSIFIERS = ("head.", "fc.")
"""How timm and others begin the names of what comes after the features; ConvNeXt's last norm is among them."""


def load(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """An exported encoder and its ``config.json``; weights are read strictly, never left random.

    Raises:
        InputError: the folder is no exported encoder, or its weights do not fit.
    """
    require_folder(folder, "model.safetensors", "dermssl pretrain` or `dermssl export")
    config = read_json(folder / "config.json", "dermssl export")
    try:
        model = timm.create_model(config["architecture"], num_classes=0, **config.get("model_args", {}))
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except KeyError as error:
        raise InputError(f"{folder}/config.json has no {error}: export the encoder again") from None
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: the weights do not fit {config['architecture']} ({first})") from None
    return model.eval(), config


def read_weights(path: Path) -> dict[str, Tensor]:
    """Backbone weights by timm's names from a file: safetensors, or a ``.pth`` that another project released.

    A ``.pth`` is read as tensors only, no code of it is run. Training checkpoints are unwrapped (``teacher`` before
    ``student``, as DINO writes them; ``state_dict``; ``model``).

    Raises:
        InputError: the file holds no weights.
    """
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    # Whatever a foreign file provokes is that file's problem.
    except Exception:
        raise InputError(f"{path} holds no weights that can be read safely: give safetensors or a state dict") from None
    for wrapper in ("teacher", "student", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    named = content.items() if isinstance(content, dict) else ()
    weights = {k.removeprefix("module.").removeprefix("backbone."): v for k, v in named if isinstance(v, Tensor)}
    if not weights:
        raise InputError(f"{path} holds no weights by name: give a state dict")
    return weights


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load strictly, but for classifiers that the model has none of.

    Position embeddings of a transformer for another image size are resampled first.

    Raises:
        RuntimeError: names or shapes do not fit.
    """
    own, theirs = getattr(model, "pos_embed", None), weights.get("pos_embed")
    if own is not None and theirs is not None and own.shape != theirs.shape:
        prefix = 0 if getattr(model, "no_embed_class", False) else int(model.num_prefix_tokens)  # type: ignore[arg-type]
        grid: Any = model.patch_embed.grid_size  # type: ignore[union-attr]
        weights = weights | {"pos_embed": resample_abs_pos_embed(theirs, list(grid), num_prefix_tokens=prefix)}
    known = model.state_dict().keys()
    wanted = {name: v for name, v in weights.items() if name in known or not name.startswith(CLASSIFIERS)}
    model.load_state_dict(wanted, strict=True)
