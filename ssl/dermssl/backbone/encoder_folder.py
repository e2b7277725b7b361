"""An encoder as a timm folder of ``config.json`` and ``model.safetensors``, which are checked when they are read."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import BaseModel, Field, FiniteFloat, StrictBool
from torch import nn

from dermssl.atomic import atomic_folder
from dermssl.backbone.build import is_vit, width
from dermssl.backbone.low_rank import merge_low_rank
from dermssl.backbone.weights import read_weights
from dermssl.errors import InputError, shortened
from dermssl.files import read_json, require_unchanged, sha256_file, write_json, write_safetensors
from dermssl.licences import Notice
from dermssl.paths import require_folder

WEIGHTS = "model.safetensors"
MAKER = "dermssl pretrain` or `dermssl export"

Side = Annotated[int, Field(strict=True, ge=1, le=4096)]


class SizeArguments(BaseModel, extra="forbid"):
    """The arguments that ``config.json`` may pass to timm: only sizes, so no file, host or class."""

    img_size: Side | None = None
    dynamic_img_size: StrictBool | None = None
    patch_size: Side | None = None


class Preprocessing(BaseModel):
    """The preprocessing of images for an encoder, as a timm data config."""

    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop_pct: Annotated[float, Field(ge=0.1, le=2)] = 1.0
    crop_mode: Literal["center", "squash", "border"] = "center"
    mean: Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=3, max_length=3)]


class Training(BaseModel, extra="allow"):
    """The record of the training of an encoder that was trained here."""

    licences: list[Notice] | None = None


class EncoderConfig(BaseModel):
    """The content of an exported encoder's ``config.json``."""

    architecture: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$", max_length=100)]
    model_args: SizeArguments = SizeArguments()
    pretrained_cfg: Preprocessing
    dermssl: Training = Training()
    sha256: dict[str, str] | None = None
    """SHA-256 of the weights by file name. Encoders of older versions have none."""


def folder_of(path: Path) -> Path:
    """The folder of the exported encoder if ``path`` is its weights file, else ``path``."""
    exported = path.name == WEIGHTS and (path.parent / "config.json").is_file()
    return path.parent if exported else path


def weights_folder(path: Path) -> Path:
    """The folder with the weights of a run folder or of an exported encoder."""
    return path / "encoder" if (path / "encoder").is_dir() else path


def load_encoder(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """An exported encoder in evaluation mode, and its ``config.json``. All weights must fit.

    The folder may come from anybody. Of its config, timm gets only a known name and sizes, and timm loads no weights.
    Raises InputError: the folder is no exported encoder, or its weights do not fit, are not finite or were changed.
    """
    folder = require_folder(Path(folder), WEIGHTS, MAKER)
    config = read_json(folder / "config.json", "dermssl export", EncoderConfig)
    name = config["architecture"]
    if not timm.is_model(name.split(".")[0]):
        raise InputError(f"{folder}/config.json: timm has no model '{name}': export the encoder again")
    weights = read_weights(folder / WEIGHTS)
    try:
        # Counted without memory first: building a network that is far too large would take minutes.
        with suppress(NotImplementedError), torch.device("meta"):
            empty = timm.create_model(name, pretrained=False, num_classes=0, **config.get("model_args", {}))
            if sum(value.numel() for value in empty.state_dict().values()) != sum(map(torch.numel, weights.values())):
                raise ValueError("the network has another number of weights")
        model = timm.create_model(name, pretrained=False, num_classes=0, **config.get("model_args", {}))
        model.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f"{folder}: the weights do not fit {name} ({shortened(error, 200)})") from None
    if broken := [key for key, value in weights.items() if not torch.isfinite(value).all()]:
        raise InputError(f"{folder / WEIGHTS}: {broken[0]} holds values that are not finite: give another encoder")
    if hashes := config.get("sha256"):
        require_unchanged(folder / WEIGHTS, hashes, MAKER)
    return model.eval(), config


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

    ``timm.create_model("local-dir:<folder>", pretrained=True, num_classes=0)`` gives the same features.
    ``preprocessing`` is a timm data config. ``training`` (method, step, splits, data sets) is recorded for reports.
    """
    arguments = {}
    if is_vit(name):
        patch: Any = model.patch_embed.patch_size  # type: ignore[union-attr]
        arguments = {"img_size": preprocessing["input_size"][-1], "dynamic_img_size": True, "patch_size": int(patch[0])}
    terms = ", ".join(sorted({entry["id"] for entry in licences}))
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": width(model),
        "model_args": arguments,
        "pretrained_cfg": {"tag": tag, "fixed_input_size": False, **preprocessing, "num_classes": 0, "license": terms},
        "dermssl": {"licences": licences, **training},
    }
    with atomic_folder(folder) as temporary:
        write_safetensors(temporary / WEIGHTS, merge_low_rank(model.state_dict()))
        write_json(temporary / "config.json", config | {"sha256": {WEIGHTS: sha256_file(temporary / WEIGHTS)}})
