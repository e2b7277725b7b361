"""Reads weights from files, also of other projects, loads them into backbones, and guesses their network."""

import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from dermssl import log
from dermssl.backbone.layouts import LITE0, Translated, Weights, translate
from dermssl.errors import InputError, shortened

CLASSIFIERS = ("head.", "fc.", "classifier.")
"""The names of classifiers begin so in timm and elsewhere. So does the name of ConvNeXt's last norm."""
PARTS = ("teacher", "model_ema", "student", "state_dict", "model_state_dict", "model", "module", "network", "encoder")
"""The keys of the weights in training checkpoints; the first one found is used."""
DANGEROUS = {"builtins", "os", "posix", "nt", "subprocess", "sys", "runpy", "importlib", "shutil", "socket", "pickle"}
"""Checkpoints with functions of these modules are refused."""
WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file, with their own names: safetensors, or a ``.pth`` that another project released.

    Of a training checkpoint the first of `PARTS` is used. Only the tensors of a ``.pth`` are read, not for instance the
    options of its run, and none of its code is executed.
    Raises InputError: the file holds no weights.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file: give safetensors or a state dict")
    if (path.parent / "state.json").is_file():  # without the run's normalisation, licences and ledger
        raise InputError(f"{path} is the state of a run: give the run folder, or what `dermssl export` makes of it")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _read_tensors(path)
    except InputError:
        raise
    # A foreign file may provoke any exception.
    except Exception as error:
        why = f" ({shortened(error, 200)}): get it again"
        if path.suffix != ".safetensors":
            script = " (it is a TorchScript program)" if "torchscript" in str(error).lower() else ""
            why = f" safely{script}: give a state dict"
            if not zipfile.is_zipfile(path):
                why = " safely: it is damaged or older than PyTorch 1.6: get it again, or give safetensors"
        raise InputError(f"{path} holds no weights that can be read{why}") from None
    while isinstance(content, dict) and (inner := [content[p] for p in PARTS if isinstance(content.get(p), dict)]):
        content = inner[0]
    weights = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not weights:
        raise InputError(f"{path} holds no named weights: give safetensors or a state dict")
    return weights


class _Unread:
    """Stands for every object of a checkpoint that is no tensor. It accepts any arguments and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Unread":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    __setstate__ = append = extend = __setitem__ = __init__  # what unpickling calls


def _read_tensors(path: Path) -> Any:
    """The result of ``torch.load(weights_only=True)``, with `_Unread` for all objects that it refuses to make."""
    # PyTorch's format before 1.6 does not tell which objects it holds.
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    dangerous = [name for name in foreign if name.split(".")[0] in DANGEROUS]
    if dangerous:
        raise InputError(f"{path} cannot be read safely, as it would run {dangerous[0]}: give a state dict")
    stand_ins: list[Any] = [(_Unread, name) for name in foreign]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings(action="ignore"):
        return torch.load(path, "cpu", weights_only=True)


def load_weights(model: nn.Module, weights: dict[str, Tensor] | Translated) -> None:
    """Load ``weights``, all of which must fit; only a classifier that the model lacks is ignored.

    The layouts of other projects are translated, and position embeddings for another image size are resampled.
    Raises RuntimeError: names, shapes or numbers do not fit. The message names the layout that they seem to have.
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
    problems += [
        f"'{name}' holds {value.dtype} numbers" if not value.is_floating_point() else f"'{name}' is not finite"
        for name, value in wanted.items()
        if name in known and known[name].is_floating_point()
        if not value.is_floating_point() or not torch.isfinite(value).all()
    ]
    if problems:
        guess, layouts = guess_architecture(translated.weights, translated.layouts), translated.layouts
        if guess == getattr(model, "pretrained_cfg", {}).get("architecture") and problems[0].endswith("missing"):
            raise RuntimeError(f"{problems[0]}: the file is incomplete")
        looks = [f"written by {' within '.join(layouts)}"] * bool(layouts) + [f"for timm's {guess}"] * bool(guess)
        raise RuntimeError(problems[0] + (f"; they seem to be {', '.join(looks)}" if looks else ""))
    model.load_state_dict(wanted, strict=True)
    for note in translated.notes:
        log.warning("warning: %s", note)


def _fit(weights: dict[str, Tensor], model: Any, known: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translated weights in this model's form of positions, layer scale and biases of queries, keys and values."""
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
    """Positions resampled to the model's grid. If it has none for the class token, that one is added to the token."""
    theirs, grid = weights["pos_embed"], list(model.patch_embed.grid_size)
    own = known["pos_embed"].shape[1] - grid[0] * grid[1]
    tokens = (prefix for prefix in (own, 1, 0) if math.isqrt(theirs.shape[1] - prefix) ** 2 == theirs.shape[1] - prefix)
    prefix = next(tokens, own)
    found = {}
    if (own, prefix) == (0, 1) and "cls_token" in weights:
        found["cls_token"] = weights["cls_token"] + theirs[:, :1]
        theirs, prefix = theirs[:, 1:], 0
    return found | {"pos_embed": resample_abs_pos_embed(theirs, grid, num_prefix_tokens=prefix)}


def guess_architecture(weights: Weights, layouts: Sequence[str]) -> str | None:
    """timm's name of the network of translated ``weights`` (see `translate`), None if names and shapes do not tell."""
    name = None
    if "patch_embed.proj.weight" in weights:
        name = _transformer(weights, layouts)
    elif "layer4.0.conv1.weight" in weights:
        blocks = {".".join(block.split(".")[:2]) for block in weights}
        counts = tuple(sum(block.startswith(f"layer{stage}.") for block in blocks) for stage in range(1, 5))
        plain = weights["layer1.0.conv1.weight"].shape[0] == 64
        name = RESNETS.get((counts, "layer1.0.conv3.weight" in weights)) if plain else None
    elif "conv_stem.weight" in weights and "EfficientNet-lite0" in layouts:
        name = LITE0
    return name if name and timm.is_model(name) else None


def _transformer(weights: Weights, layouts: Sequence[str]) -> str | None:
    patches = weights["patch_embed.proj.weight"]
    size, side = WIDTHS.get(patches.shape[0]), patches.shape[-1]
    registers = f"_reg{weights['reg_token'].shape[1]}" if "reg_token" in weights else ""
    if "open_clip" in layouts:
        return None  # whether its activation is OpenAI's approximation or exact cannot be seen in weights
    if "norm_pre.weight" in weights:
        return f"vit_{size}_patch{side}_clip_quickgelu_224"
    if "pos_embed" not in weights:
        biased = any(bool(value.any()) for name, value in weights.items() if name.endswith("qkv.bias"))
        plus = "_plus" if any(".mlp.fc1_g." in name for name in weights) and size in ("small", "huge") else ""
        return f"vit_{size}{plus}_patch{side}_dinov3" + ("_qkvb" if biased else "")
    if "blocks.0.ls1.gamma" in weights:
        return f"vit_{size}_patch{side}{registers}_dinov2" if side == 14 else f"deit3_{size}_patch{side}_224"
    return f"vit_{size}_patch{side}_224"
