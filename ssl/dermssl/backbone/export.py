"""An encoder written as an ordinary timm folder."""

from pathlib import Path
from typing import Any

from torch import nn

from dermssl.atomic import atomic_folder
from dermssl.backbone.build import is_vit, width
from dermssl.backbone.low_rank import merge_low_rank
from dermssl.files import write_json, write_safetensors


def write_encoder(
    model: nn.Module,
    folder: Path,
    name: str,
    preprocessing: dict[str, Any],
    licences: list[dict],
    tag: str,
    training: dict[str, Any],
) -> None:
    """Write an encoder as ``config.json`` and ``model.safetensors``.

    ``timm.create_model("local-dir:<folder>", pretrained=True, num_classes=0)`` gives the same features. ``training``
    (method, step, splits, data sets) is what reports about the encoder must know. ``preprocessing`` is a
    timm data config.
    """
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": width(model),
        "model_args": _size_arguments(model, preprocessing["input_size"][-1]) if is_vit(name) else {},
        "pretrained_cfg": {
            "tag": tag,
            "fixed_input_size": False,
            **preprocessing,
            "num_classes": 0,
            "license": ", ".join(sorted({entry["id"] for entry in licences})),
        },
        "dermssl": {"licences": licences, **training},
    }
    with atomic_folder(folder) as temporary:
        write_json(temporary / "config.json", config)
        write_safetensors(temporary / "model.safetensors", merge_low_rank(model.state_dict()))


def _size_arguments(model: nn.Module, image_size: int) -> dict[str, Any]:
    patch: Any = model.patch_embed.patch_size  # type: ignore[union-attr]
    return {"img_size": image_size, "dynamic_img_size": True, "patch_size": int(patch[0])}
