"""Opens what ``--encoder`` names: a run folder, an exported encoder, a weights file, timm's weights, or a baseline."""

import hashlib
import inspect
import json
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm.data
import torch
from safetensors.torch import save
from torch import nn

from dermeval.features.options import FeatureKind
from dermeval.features.pixels import PixelPCA
from dermssl.backbone.build import build, check_sizes, width
from dermssl.backbone.encoder_folder import folder_of, load_encoder, weights_folder
from dermssl.backbone.layouts import translate
from dermssl.backbone.pretrained import describe_weights, file_notice, pretrained_notice, timm_config
from dermssl.backbone.weights import guess_architecture, load_weights, read_weights
from dermssl.errors import InputError
from dermssl.files import sha256_file
from dermssl.views.recipe import LARGEST_CROP

log = logging.getLogger("dermssl")
PIXELS_IMAGE_SIZE = 32
LAST = 4
"""The number of blocks (of a transformer) or stages (of a convolutional network) that ``last4`` joins."""


@dataclass(frozen=True)
class Encoder:
    """A model in evaluation mode, with the preprocessing of its images and the kind of features to read.

    ``preprocessing`` is a timm data config: ``input_size``, ``interpolation``, ``crop_pct``, ``crop_mode``, ``mean``,
    ``std``. ``origin`` are the other entries of the encoder's record in embeddings folders.
    """

    model: nn.Module
    preprocessing: dict[str, Any]
    origin: dict[str, Any]
    features: FeatureKind = "cls"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features ``(B, D)`` of normalised images ``(B, 3, S, S)``.

        ``cls``: timm's pooled output, which is the class token or, for a ResNet, the global average.
        ``cls+mean``: class token of the last block, then the mean of its patch tokens, both after the final norm.
        ``last4``: class tokens of the last four blocks, earliest first, each after the final norm (DINO's
        ``eval_linear``, Caron et al. 2021); for a ResNet the global averages of its four stages.
        """
        model: Any = self.model
        if self.features == "cls":
            return model(images)
        # BEiT and EVA-02 have their final norm behind the pooling; other networks have nothing there.
        norm = getattr(model, "fc_norm", nn.Identity())
        if self.features == "cls+mean":
            tokens = model.forward_features(images)
            return torch.cat([norm(tokens[:, 0]), norm(tokens[:, model.num_prefix_tokens :].mean(1))], dim=1)
        if hasattr(model, "num_prefix_tokens"):
            blocks = model.forward_intermediates(
                images, indices=LAST, norm=True, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
            )
            return torch.cat([norm(prefix[:, 0]) for _, prefix in blocks], dim=1)
        stages = model.forward_intermediates(images, indices=LAST, intermediates_only=True)
        return torch.cat([stage.mean((2, 3)) for stage in stages], dim=1)

    @property
    def dim(self) -> int:
        """The number of features D."""
        if self.features == "last4":
            return sum(int(stage["num_chs"]) for stage in _stages(self.model)[-LAST:])
        return width(self.model) * (2 if self.features == "cls+mean" else 1)

    @property
    def image_size(self) -> int:
        """The side of the square input, in pixels."""
        return self.preprocessing["input_size"][-1]

    def record(self) -> dict[str, Any]:
        """The encoder's record as in ``embedding.json``. The fingerprint is the hash of its file or of all weights."""
        how: dict[str, Any] = {"preprocessing": json.loads(json.dumps(self.preprocessing)), "features": self.features}
        if "fingerprint" not in self.origin:
            state = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
            how["fingerprint"] = hashlib.sha256(save(state)).hexdigest()
        return self.origin | how


def open_encoder(spec: str | Path, image_size: int | None, features: FeatureKind = "cls") -> Encoder:
    """The encoder ``spec`` (as for ``--encoder``) for images of ``image_size`` pixels (None: its own size).

    Raises InputError: no such folder, architecture, weights or seed, or an encoder without this size or ``features``.
    """
    spec = str(spec)
    kind, _, name = spec.partition(":")
    if image_size and image_size > LARGEST_CROP:
        raise InputError(f"--image-size {image_size}: give at most {LARGEST_CROP} pixels")
    if kind == "timm" and "@" in name:
        name, _, file = name.partition("@")
        if not file:
            raise InputError(f"--encoder {spec}: give a file after @")
        path = folder_of(Path(file))  # an exported encoder has its own normalisation, size, licences and ledger
        encoder = _from_folder(path, image_size) if path.is_dir() else _from_file(spec, path, name, image_size)
        if encoder.origin["name"] != name:
            raise InputError(f"--encoder {spec}: {path} is of {encoder.origin['name']}: give --encoder {path}")
    elif kind == "timm" and name:
        encoder = _from_timm(spec, name, image_size, pretrained=True)
        encoder = with_origin(encoder, licences=[pretrained_notice(name)], weights=describe_weights(name))
    elif kind == "random" and name:
        name, seed = _split_seed(spec, name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = _from_timm(spec, name, image_size, pretrained=False)
    elif kind == "pixels" and name:
        encoder = _pixels(spec, name, image_size)
    elif (path := folder_of(Path(spec))).is_file():
        encoder = _from_file(spec, path, None, image_size)
    else:
        encoder = _from_folder(path, image_size)
    encoder.model.eval()
    if not isinstance(encoder.model, PixelPCA):
        check_sizes(encoder.model, [encoder.image_size])
    encoder = replace(encoder, features=features)
    _check_readable(encoder)
    return encoder


def _stages(model: nn.Module) -> list[Any]:
    """timm's records of the blocks of a transformer or the stages of another network; empty if it cannot read them."""
    return list(getattr(model, "feature_info", [])) if hasattr(model, "forward_intermediates") else []


def _check_readable(encoder: Encoder) -> None:
    """Raise InputError unless the encoder can give its kind of features."""
    model, kind, name = encoder.model, encoder.features, encoder.origin["name"]
    if kind != "cls" and isinstance(model, PixelPCA):
        raise InputError(f"--features {kind}: {name} has only principal components: use --features cls")
    # Some transformers have register tokens (`num_prefix_tokens`), but no class token, or one in the last blocks only.
    tokens = hasattr(model, "num_prefix_tokens")
    classed = tokens and any(key.rpartition(".")[2] == "cls_token" for key, _ in model.named_parameters())
    if kind == "cls+mean" and not classed:
        raise InputError(
            f"--features cls+mean: {name} has no class token: use --features cls{' or last4' * (not tokens)}"
        )
    reader = inspect.signature(getattr(model, "forward_intermediates", model.forward))
    unread = tokens and not (classed and "return_prefix_tokens" in reader.parameters)
    if kind == "last4" and (unread or len(_stages(model)) < LAST):
        what = "no class token in its last four blocks" if unread else f"fewer than {LAST} blocks or stages"
        raise InputError(f"--features last4: {name} has {what}: use --features cls")


def _from_folder(path: Path, image_size: int | None) -> Encoder:
    if not path.is_dir():
        raise InputError(
            f"--encoder {path}: no such folder or file; give a run folder, an exported encoder, a file of weights, "
            "timm:NAME, timm:NAME@FILE, random:NAME[@seed] or pixels:N"
        )
    folder = weights_folder(path)
    model, config = load_encoder(folder)
    own = config.get("dermssl", {})
    origin = {
        "path": str(path.resolve()),
        "name": config["architecture"],
        "fingerprint": sha256_file(folder / "model.safetensors"),
        "licences": own.get("licences", [file_notice(path)]),
        "training": {key: value for key, value in own.items() if key != "licences"},
    }
    return Encoder(model, _preprocessing(config["pretrained_cfg"], image_size), origin)


def _from_timm(spec: str, name: str, image_size: int | None, pretrained: bool) -> Encoder:
    own = timm_config(name)
    size = image_size or (own.input_size[-1] if own else 224)
    model = build(name, size, pretrained=pretrained)
    origin = {"path": spec, "name": name, "licences": [], "training": {}}
    return Encoder(model, _preprocessing(model.pretrained_cfg, image_size), origin)


def _from_file(spec: str, path: Path, name: str | None, image_size: int | None) -> Encoder:
    """Weights from a file, for timm's network ``name`` (None: as guessed) with its preprocessing.

    If the weights have the layout of a known project, its normalisation is used.
    """
    weights = translate(read_weights(path))
    if name is None:
        name = guess_architecture(weights.weights, weights.layouts)
        if name is None:
            example = "vit_base_patch16_clip_quickgelu_224" if "open_clip" in weights.layouts else "convnext_tiny"
            seem = f" (they seem to come from {' within '.join(weights.layouts)})" if weights.layouts else ""
            raise InputError(
                f"--encoder {spec}: the weights do not tell which network they are of{seem}: give it as "
                f"timm:NAME@FILE, for instance timm:{example}@FILE"
            )
        log.info("%s: weights of timm's %s%s", path, name, f", from {weights.layouts[-1]}" if weights.layouts else "")
    encoder = _from_timm(spec, name, image_size, pretrained=False)
    try:
        load_weights(encoder.model, weights)
    except RuntimeError as error:
        raise InputError(f"--encoder {spec}: the weights of {path} do not fit {name}: {error}") from None
    if weights.normalisation:
        mean, std = weights.normalisation
        encoder = replace(encoder, preprocessing=encoder.preprocessing | {"mean": mean, "std": std})
    return with_origin(encoder, fingerprint=sha256_file(path), licences=[file_notice(path)])


def _pixels(spec: str, name: str, image_size: int | None) -> Encoder:
    number, seed = _split_seed(spec, name)
    size = image_size or PIXELS_IMAGE_SIZE
    if not re.fullmatch("[0-9]{1,7}", number) or not 1 <= int(number) <= 3 * size**2:
        raise InputError(f"--encoder {spec}: give 1 to {3 * size**2} components, for example pixels:128")
    plain = {"input_size": (3, size, size), "crop_pct": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    origin = {"path": spec, "name": spec, "licences": [], "training": {}}
    return Encoder(PixelPCA(int(number), size, seed), _preprocessing(plain, None), origin)


def _split_seed(spec: str, name: str) -> tuple[str, int]:
    name, at, seed = name.partition("@")
    if at and not re.fullmatch("[0-9]{1,9}", seed):
        raise InputError(f"--encoder {spec}: the seed after @ must be a whole number below 10^9, for example @0")
    return name, int(seed or 0)


def _preprocessing(pretrained_cfg: Any, image_size: int | None) -> dict[str, Any]:
    args = {"input_size": (3, image_size, image_size)} if image_size else {}
    return timm.data.resolve_data_config(args, pretrained_cfg=pretrained_cfg)


def with_origin(encoder: Encoder, **entries: Any) -> Encoder:
    """A copy of ``encoder`` whose record also has ``entries``."""
    return replace(encoder, origin=encoder.origin | entries)
