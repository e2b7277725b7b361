"""timm encoders: build, export, load. An exported encoder is an ordinary timm folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from dermssl.errors import InputError, did_you_mean
from dermssl.files import atomic_folder, read_json, require_folder, write_json, write_safetensors

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CLASSIFIERS = ("head.", "fc.")
"""How timm and others begin the names of what comes after the features; ConvNeXt's last norm is among them."""


def build(
    name: str, image_size: int, drop_path: float = 0.0, pretrained: bool = False, patch_size: int | None = None
) -> nn.Module:
    """A timm backbone without classifier: images ``(B, 3, H, W)`` -> features ``(B, D)``, D by `width`.

    Vision transformers accept any crop size that their patch size divides (`check_sizes`); ``patch_size`` (pixels)
    replaces the one in their name, and pretrained patch embeddings are then resampled by timm.

    Raises:
        InputError: unknown name, a patch size for a backbone without patches, or pretrained weights that cannot be had.
    """
    options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    if not timm.is_model(name.split(".")[0]):
        raise InputError(f"unknown backbone '{name}'; {did_you_mean(name, timm.list_models())}")
    if drop_path:
        options["drop_path_rate"] = drop_path
    if is_vit(name):
        options |= {"img_size": image_size, "dynamic_img_size": True}
        options |= {"patch_size": patch_size} if patch_size else {}
    elif patch_size:
        raise InputError(f"model.patch_size {patch_size}: '{name}' has no patches: leave it out")
    try:
        return timm.create_model(name, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).splitlines()[0]
        raise InputError(f"pretrained weights of '{name}' cannot be had ({reason}): give a local encoder") from None
    except TypeError as error:
        if not drop_path or "drop_path_rate" not in str(error):
            raise
        raise InputError(f"'{name}' has no stochastic depth: set model.drop_path 0") from None


def width(model: nn.Module) -> int:
    """Number of features D that a backbone gives; some have a layer between their last map and their output."""
    return int(getattr(model, "head_hidden_size", None) or model.num_features)  # type: ignore[arg-type]


def is_vit(name: str) -> bool:
    """Whether timm builds ``name`` from a plain vision transformer, which takes any size that its patches divide."""
    return timm.models.is_model_in_modules(name.split(".")[0], ("vision_transformer", "deit", "eva"))


def check_sizes(model: nn.Module, sizes: Iterable[int]) -> None:
    """Run one tiny forward per crop size; raises InputError naming the size that the backbone cannot take."""
    training = model.training
    model.eval()
    for size in sizes:
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"the backbone cannot take crops of {size} px: {str(error).splitlines()[0]}") from None
    model.train(training)


def recompute_activations(model: nn.Module) -> None:
    """Gradient checkpointing: less memory, about a third more time; raises InputError where timm has none."""
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        raise InputError(
            "model.gradient_checkpointing: this backbone has none in timm: leave it out, or lower training.batch"
        ) from None


def write_out_attention(model: nn.Module) -> None:
    """Attention as plain products and a softmax instead of PyTorch's fused kernel; the same values up to rounding.

    For training on a CPU in bf16, where the fused kernel takes 1.1 (785 tokens) to 5 times (37 tokens) as long.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]


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


def export(
    model: nn.Module, folder: Path, name: str, image_size: int, licences: list[dict], tag: str, training: dict[str, Any]
) -> None:
    """Write an encoder as ``config.json`` and ``model.safetensors``.

    ``timm.create_model("local-dir:<folder>", pretrained=True, num_classes=0)`` gives the same features. ``training``
    (method, step, splits, data sets) is what reports about the encoder must know.
    """
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": width(model),
        "model_args": _size_arguments(model, image_size) if is_vit(name) else {},
        "pretrained_cfg": {
            "tag": tag,
            "input_size": [3, image_size, image_size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(MEAN),
            "std": list(STD),
            "num_classes": 0,
            "license": ", ".join(sorted({entry["id"] for entry in licences})),
        },
        "dermssl": {"licences": licences, **training},
    }
    with atomic_folder(folder) as temporary:
        write_json(temporary / "config.json", config)
        write_safetensors(temporary / "model.safetensors", model.state_dict())


def _size_arguments(model: nn.Module, image_size: int) -> dict[str, Any]:
    patch: Any = model.patch_embed.patch_size  # type: ignore[union-attr]
    return {"img_size": image_size, "dynamic_img_size": True, "patch_size": int(patch[0])}


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
