"""Weights into backbones: an exported encoder, or a file that another project released."""

import logging
import math
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from dermssl.backbone.architecture import guess_architecture
from dermssl.backbone.layouts import Translated, translate
from dermssl.errors import InputError
from dermssl.files import read_json
from dermssl.licences import Notice
from dermssl.paths import require_folder

CLASSIFIERS = ("head.", "fc.", "classifier.")
"""How timm and others begin the names of what comes after the features; ConvNeXt's last norm is among them."""
PARTS = ("teacher", "model_ema", "student", "state_dict", "model_state_dict", "model", "module", "network", "encoder")
"""Where training checkpoints keep their weights, the one to be taken first."""
DANGEROUS = {"builtins", "os", "posix", "nt", "subprocess", "sys", "runpy", "importlib", "shutil", "socket", "pickle"}
"""Modules that no checkpoint needs a function of."""
log = logging.getLogger("dermssl")

Side = Annotated[int, Field(strict=True, ge=1, le=4096)]


class SizeArguments(BaseModel):
    """What an encoder's ``config.json`` may hand to timm: sizes, and nothing that names a file, a host or a class."""

    model_config = ConfigDict(extra="forbid")
    img_size: Side | None = None
    dynamic_img_size: StrictBool | None = None
    patch_size: Side | None = None


class Preprocessing(BaseModel):
    """A timm data config: how an image is prepared for an encoder."""

    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop_pct: Annotated[float, Field(ge=0.1, le=2)] = 1.0
    crop_mode: Literal["center", "squash", "border"] = "center"
    mean: Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=3, max_length=3)]


class Training(BaseModel):
    """What an encoder that was trained here says of itself."""

    model_config = ConfigDict(extra="allow")
    licences: list[Notice] | None = None


class EncoderConfig(BaseModel):
    """What is read of an exported encoder's ``config.json``."""

    architecture: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$", max_length=100)]
    model_args: SizeArguments = SizeArguments()
    pretrained_cfg: Preprocessing
    dermssl: Training = Training()


def load(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """An exported encoder and its ``config.json``; weights are read strictly, never left random.

    The folder may come from anybody. Of its config, timm gets one of its own names and sizes only, and is not asked for
    weights.

    Raises:
        InputError: the folder is no exported encoder, or its weights do not fit.
    """
    require_folder(folder, "model.safetensors", "dermssl pretrain` or `dermssl export")
    config = read_json(folder / "config.json", "dermssl export", EncoderConfig)
    name = config["architecture"]
    if not timm.is_model(name.split(".")[0]):
        raise InputError(f"{folder}/config.json: timm has no model '{name}': export the encoder again")
    weights = read_weights(folder / "model.safetensors")
    try:
        # A far larger network than the weights are of would cost minutes and memory before it is seen not to fit.
        with suppress(NotImplementedError), torch.device("meta"):
            empty = timm.create_model(name, pretrained=False, num_classes=0, **config.get("model_args", {}))
            if sum(value.numel() for value in empty.state_dict().values()) != sum(map(torch.numel, weights.values())):
                raise ValueError("the network has another number of weights")
        model = timm.create_model(name, pretrained=False, num_classes=0, **config.get("model_args", {}))
        model.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f"{folder}: the weights do not fit {name} ({_in_one_line(error)})") from None
    return model.eval(), config


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by their own names from a file: safetensors, or a ``.pth`` that another project released.

    Of training checkpoints the first of `PARTS` is taken. A ``.pth`` is read as tensors only: what else it holds, such
    as the options of the run, stays unread, and no code of it is run.

    Raises:
        InputError: the file holds no weights.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file: give safetensors or a state dict")
    content: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_tensors(path)
    while isinstance(content, dict) and (inner := [content[p] for p in PARTS if isinstance(content.get(p), dict)]):
        content = inner[0]
    weights = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not weights:
        raise InputError(f"{path} holds no weights by name: give safetensors or a state dict")
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    # Whatever a foreign file provokes is that file's problem.
    except Exception as error:
        raise InputError(f"{path} holds no weights that can be read ({_in_one_line(error)}): get it again") from None


class _Unread:
    """Stands for every object of a checkpoint that is no tensor: it takes what it is given and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Unread":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def append(self, _: Any) -> None:
        """Take an item of a list."""

    def extend(self, _: Any) -> None:
        """Take items of a list."""

    def __setitem__(self, _: Any, __: Any) -> None: ...


def _read_tensors(path: Path) -> Any:
    """What ``torch.load(weights_only=True)`` reads, with all that it refuses to make replaced by `_Unread`."""
    try:
        if not zipfile.is_zipfile(path):  # PyTorch's format before 1.6, of which nothing can be asked beforehand
            return torch.load(path, "cpu", weights_only=True)
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        dangerous = [name for name in foreign if name.split(".")[0] in DANGEROUS]
        if dangerous:
            raise InputError(f"{path} cannot be read safely, as it would run {dangerous[0]}: give a state dict")
        stand_ins: list[Any] = [(_Unread, name) for name in foreign]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings(action="ignore"):
            return torch.load(path, "cpu", weights_only=True)
    except InputError:
        raise
    # Whatever a foreign file provokes is that file's problem.
    except Exception as error:
        script = " (it is a TorchScript program)" if "torchscript" in str(error).lower() else ""
        raise InputError(f"{path} holds no weights that can be read safely{script}: give a state dict") from None


def load_weights(model: nn.Module, weights: dict[str, Tensor] | Translated) -> None:
    """Load strictly, but for classifiers that the model has none of.

    Weights of another project's layout are translated first, position embeddings for another image size resampled.

    Raises:
        RuntimeError: names or shapes do not fit; the message names the layout that the weights look like.
    """
    translated = weights if isinstance(weights, Translated) else translate(weights)
    known = model.state_dict()
    fitted = _fit(translated.weights, model, known)
    wanted = {name: v for name, v in fitted.items() if name in known or not name.startswith(CLASSIFIERS)}
    problems = [f"'{name}' is missing" for name in known if name not in wanted]
    problems += [f"'{name}' is not known" for name in wanted if name not in known]
    problems += [
        f"'{name}' is {tuple(value.shape)}, not {tuple(known[name].shape)}"
        for name, value in wanted.items()
        if name in known and value.shape != known[name].shape
    ]
    if problems:
        guess = guess_architecture(translated.weights, translated.layouts)
        looks = [f"written by {' within '.join(translated.layouts)}"] * bool(translated.layouts)
        looks += [f"for timm's {guess}"] * bool(guess)
        seems = f"; they seem to be {', '.join(looks)}" if looks else ""
        raise RuntimeError(f"{problems[0]}{seems}")
    model.load_state_dict(wanted, strict=True)
    for note in translated.notes:
        log.warning("warning: %s", note)


def _fit(weights: dict[str, Tensor], model: Any, known: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translated weights as this model keeps them: positions, layer scale and biases of keys differ between models."""
    fitted = dict(weights)
    theirs = weights.get("pos_embed")
    if "pos_embed" in known and theirs is not None and theirs.ndim == 3 and theirs.shape != known["pos_embed"].shape:
        fitted |= _fit_positions(weights, model, known)
    for one, other in ((".ls1.gamma", ".gamma_1"), (".ls2.gamma", ".gamma_2")):
        mine, others = (other, one) if f"blocks.0{other}" in known else (one, other)
        fitted = {name.replace(others, mine): value for name, value in fitted.items()}
    for name in [name for name in fitted if name.endswith(".attn.qkv.bias") and name not in known]:
        stem, bias = name.removesuffix("qkv.bias"), fitted.pop(name)
        query, key, value = bias.chunk(3)
        if f"{stem}q_bias" in known and not key.any():
            fitted |= {f"{stem}q_bias": query, f"{stem}v_bias": value}
        elif bias.any():
            fitted[name] = bias
    return fitted


def _fit_positions(weights: dict[str, Tensor], model: Any, known: dict[str, Tensor]) -> dict[str, Tensor]:
    """Positions resampled to the model's grid. The class token's is added to the token where the model keeps none."""
    theirs, grid = weights["pos_embed"], list(model.patch_embed.grid_size)
    own = known["pos_embed"].shape[1] - grid[0] * grid[1]
    tokens = (prefix for prefix in (own, 1, 0) if math.isqrt(theirs.shape[1] - prefix) ** 2 == theirs.shape[1] - prefix)
    prefix = next(tokens, own)
    found = {}
    if (own, prefix) == (0, 1) and "cls_token" in weights:
        found["cls_token"] = weights["cls_token"] + theirs[:, :1]
        theirs, prefix = theirs[:, 1:], 0
    return found | {"pos_embed": resample_abs_pos_embed(theirs, grid, num_prefix_tokens=prefix)}


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
