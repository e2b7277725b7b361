"""Builds timm backbones without classifier, and changes how they compute."""

import contextlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError
from torch import nn

from dermssl import log
from dermssl.backbone import layouts
from dermssl.backbone.pretrained import describe_weights, hub_access, packaged_weights, remedy, timm_config
from dermssl.backbone.weights import load_weights, read_weights
from dermssl.errors import InputError, shortened


class Normalisation(NamedTuple):
    """Mean and standard deviation of the three channels, by which an encoder's input in 0-1 is normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: Any) -> "Normalisation":
        """The entries ``mean`` and ``std`` of a timm data config."""
        return cls(tuple(config["mean"]), tuple(config["std"]))


IMAGENET = Normalisation(*layouts.IMAGENET)
"""Used for encoders that start from random weights."""


def build(
    name: str, image_size: int, drop_path: float = 0.0, pretrained: bool = False, patch_size: int | None = None
) -> nn.Module:
    """A timm backbone without classifier: images ``(B, 3, H, W)`` -> features ``(B, D)``, where D is its `width`.

    A vision transformer accepts any crop size that its patch size divides. ``patch_size`` (pixels) replaces the one in
    its name; timm then resamples pretrained patch embeddings.
    Raises InputError: an unknown name, a backbone without patches or stochastic depth, or no pretrained weights.
    """
    options: dict[str, Any] = {"num_classes": 0}
    timm_config(name)  # raises InputError for an unknown name
    if drop_path:
        options["drop_path_rate"] = drop_path
    if is_vit(name):
        options |= {"img_size": image_size, "dynamic_img_size": True}
        options |= {"patch_size": patch_size} if patch_size else {}
    elif patch_size:
        raise InputError(f"model.patch_size {patch_size}: '{name}' has no patches: leave it out")
    packaged = packaged_weights(name) if pretrained else None
    from_hub = pretrained and packaged is None
    try:
        with hub_access(name) if from_hub else contextlib.nullcontext():
            model = timm.create_model(name, pretrained=from_hub, **options)
    except (OSError, RuntimeError) as error:
        if not from_hub:
            raise
        if isinstance(error, GatedRepoError):
            where = f"{constants.ENDPOINT}/{timm_config(name).hf_hub_id}"
            raise InputError(
                f"pretrained weights of '{name}' are gated: accept their terms at {where} and log in with "
                f"`hf auth login`, or give a file, {remedy(name)}"
            ) from None
        reason = shortened(error)
        raise InputError(f"cannot get pretrained weights of '{name}' ({reason}): give a file, {remedy(name)}") from None
    except TypeError as error:
        if "drop_path_rate" not in options or "drop_path_rate" not in str(error):
            raise
        raise InputError(f"'{name}' has no stochastic depth: set model.drop_path 0") from None
    if packaged:
        log.info("pretrained weights of %s: %s", name, describe_weights(name))
        load_weights(model, read_weights(packaged))
    return model


def width(model: nn.Module) -> int:
    """The number of features D of a backbone, also if a layer stands between its last feature map and its output."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)  # type: ignore[arg-type]


def is_vit(name: str) -> bool:
    """Whether ``name`` is a plain vision transformer in timm, which takes any size that its patches divide."""
    return timm.models.is_model_in_modules(name.split(".")[0], ("vision_transformer", "deit", "eva"))


def check_sizes(model: nn.Module, sizes: Iterable[int]) -> None:
    """Run one small forward pass per crop size. Raises InputError naming a size that the backbone cannot take."""
    training = model.training
    model.eval()
    for size in sizes:
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"the backbone cannot take crops of {size} px: {shortened(error)}") from None
    model.train(training)


def recompute_activations(model: nn.Module) -> None:
    """Turn on gradient checkpointing: less memory, a third more time. Raises InputError if timm has none."""
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        raise InputError(
            "model.gradient_checkpointing: timm has none for this backbone: leave it out, or lower training.batch"
        ) from None


def write_out_attention(model: nn.Module) -> None:
    """Compute attention as products and a softmax instead of PyTorch's fused kernel, equal up to rounding.

    For training on a CPU in bf16, where the fused kernel takes 1.1 times (785 tokens) to 5 times (37 tokens) as long.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
