"""Builds the networks of a method, loads the weights that they start from, and fits them to device and ranks."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dermssl import log
from dermssl.backbone import build
from dermssl.backbone.build import IMAGENET, Normalisation
from dermssl.backbone.encoder_folder import folder_of, load_encoder, weights_folder
from dermssl.backbone.layouts import translate
from dermssl.backbone.low_rank import merge_low_rank
from dermssl.backbone.weights import load_weights, read_weights
from dermssl.devices import require_compiler
from dermssl.errors import InputError, counted, shortened
from dermssl.files import read_yaml
from dermssl.methods.method import Method, frozen_copy
from dermssl.methods.registry import METHODS
from dermssl.training import states
from dermssl.training.continued import hold_start
from dermssl.training.options import ModelOptions, PretrainOptions
from dermssl.views.recipe import group_views

FEW_VIEWS = 32
"""Statistics of BatchNorm over fewer views are mostly noise."""


def init_of(options: ModelOptions) -> str | None:
    """``model.init`` as a path or ``timm``; ``timm:NAME`` and ``timm:NAME@FILE`` are read as by `dermeval embed`."""
    file = options.init
    if file and file.startswith("timm:"):
        name, _, file = file.removeprefix("timm:").partition("@")
        if name != options.backbone:
            raise InputError(f"model.init {options.init}: model.backbone is {options.backbone}: use the same")
        file = file or "timm"
    return file and str(folder_of(Path(file)))


def make_method(options: PretrainOptions, accelerator: Accelerator) -> tuple[Any, Normalisation]:
    """The method of ``options`` with its first weights, on the CPU, and how its images are normalised.

    A run that resumes finds both in its state, so it does not need the weights that it started from.
    Raises InputError: the backbone does not exist or cannot take the crops, the batch is too small for BatchNorm, the
    weights cannot be read, or this machine cannot compile.
    """
    torch.manual_seed(options.training.seed)
    model, size = options.model, options.views.global_size

    def build_backbone(drop_path: float) -> nn.Module:
        return build.build(model.backbone, size, drop_path, patch_size=model.patch_size)

    method: Method = METHODS[options.method].load()(build_backbone, float(model.drop_path), options.of_method)
    sizes = {size} | ({options.views.local_size} if options.views.local_count else set())
    build.check_sizes(method.network("student"), sorted(sizes))
    normalisation = IMAGENET
    record = None if options.overwrite else states.newest_record(Path(options.out) / "state")
    if record:
        normalisation = Normalisation.of(record["normalisation"])
    elif model.init:
        normalisation = load_initial(method, model, size)
    if options.keep.distillation:
        method.start = frozen_copy(method.network("student"), build_backbone(0.0))
    method = _fitted(method, options, accelerator)
    hold_start([method.network(which) for which in method.backbones], options.keep, options.training.seed)
    return method.to(memory_format=torch.channels_last), normalisation


def _fitted(method: Method, options: PretrainOptions, accelerator: Accelerator) -> Method:
    """Set checkpointing, BatchNorm over ranks, attention and compilation, by options and device."""
    if options.model.gradient_checkpointing:
        build.recompute_activations(method.network("student"))
    fixed = {*method.backbones.values(), "start"} if options.keep.frozen_batch_norm else set()
    learning = [part for name, part in method.named_children() if name not in fixed]
    if any(isinstance(module, _BatchNorm) for part in learning for module in part.modules()):
        method = share_statistics(method, options, accelerator)
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        build.write_out_attention(method)
    if options.training.compile:
        require_compiler(accelerator.device)
        for which in method.backbones:
            # One program per crop size (two at most): a program for all sizes is slower.
            method.network(which).compile(dynamic=False)
    return method


def share_statistics(method: Any, options: PretrainOptions, accelerator: Accelerator) -> Any:
    """``method`` with BatchNorm over several GPUs. InputError: a forward pass has a single view of some crop size."""
    ranks, accumulation = accelerator.num_processes, options.training.accumulation
    images = options.training.batch // (ranks * accumulation)
    views = images * min(map(len, group_views(options.views)))
    if views < 2:
        raise InputError(
            f"training.batch {options.training.batch} gives {images} image to each of {counted(ranks, 'rank')} x "
            f"{counted(accumulation, 'accumulation step')}, too few for BatchNorm: raise it"
        )
    wanted = ranks > 1 and options.training.sync_batch_norm
    shared = wanted and accelerator.device.type == "cuda"
    if wanted and not shared and accelerator.is_main_process:
        log.warning("warning: PyTorch has no SyncBatchNorm for CPU ranks: batch statistics are local to each rank")
    normalised = views * (ranks if shared else 1)
    if normalised < FEW_VIEWS and accelerator.is_main_process:
        log.warning(
            f"warning: BatchNorm takes its statistics from {counted(normalised, 'view')}: give each rank and "
            "accumulation step more images, or choose a backbone without BatchNorm"
        )
    # PyTorch's own conversion would drop the activations in timm's BatchNormAct2d.
    return convert_sync_batchnorm(method) if shared else method


def load_initial(method: Method, options: ModelOptions, size: int) -> Normalisation:
    """Load the weights of ``options.init`` into every backbone, or with ``init_part all`` into the whole method.

    ``size`` is the side of the global crops in pixels; position embeddings are resampled for it. Returns how images
    must be normalised for the weights.
    Raises InputError: the weights cannot be read, are not finite, or belong to another backbone.
    """
    init, part = str(options.init), options.init_part
    if part == "encoder":
        weights, normalisation = _encoder_weights(init, options, method.network("student"), size)
    else:
        saved = states.require_state(Path(init), f"model.init_part {part}")
        normalisation, weights = Normalisation.of(saved.record["normalisation"]), saved.weights
        if part == "all":
            weights = merge_low_rank({name: value for name, value in weights.items() if not name.startswith("start.")})
        else:
            weights = network_weights(Path(init), weights, part)
    broken = [key for key, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(f"model.init {init}: {broken[0]} holds values that are not finite: give other weights")
    try:
        if part == "all":
            method.load_state_dict(weights, strict=True)
        else:
            for which in method.backbones:
                load_weights(method.network(which), weights)
    except RuntimeError as error:
        first = shortened(error, 200)
        same = ", the method and its heads" if part == "all" else ""
        raise InputError(f"model.init {init} does not fit model.backbone {options.backbone}{same} ({first})") from None
    return normalisation


def _encoder_weights(
    init: str, options: ModelOptions, backbone: Any, size: int
) -> tuple[dict[str, Tensor], Normalisation]:
    if init == "timm":
        model: Any = build.build(options.backbone, size, pretrained=True, patch_size=options.patch_size)
        return model.state_dict(), Normalisation.of(model.pretrained_cfg)
    path = Path(init)
    if path.is_file():
        translated = translate(read_weights(path))
        return translated.weights, Normalisation(*translated.normalisation or Normalisation.of(backbone.pretrained_cfg))
    if not path.exists():
        raise InputError(f"model.init {init} does not exist: give a run, an exported encoder, a file or timm")
    model, config = load_encoder(weights_folder(path))
    if config["architecture"] != options.backbone:
        raise InputError(
            f"model.init {init} is of {config['architecture']}, but model.backbone is {options.backbone}: use the same"
        )
    return model.state_dict(), Normalisation.of(config["pretrained_cfg"])


def network_weights(run: Path, weights: dict[str, Tensor], which: str) -> dict[str, Tensor]:
    """The backbone ``which`` in the ``weights`` of a state of ``run``. InputError if its method has none."""
    method = read_yaml(run / "config.yaml").get("method")
    if method not in METHODS:
        raise InputError(
            f"{run}: this version of dermssl has no method '{method}': use the version that trained the run"
        )
    attribute = METHODS[method].load().backbones.get(which)
    if attribute is None:
        raise InputError(f"{run} has no {which}: its method ({method}) has only a student: choose that")
    prefix = f"{attribute}."
    found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return merge_low_rank(found)
