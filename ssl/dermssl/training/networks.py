"""A method's networks: built, given the weights that they start from, and fitted to the device and its ranks."""

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from dermssl.backbone import build
from dermssl.backbone.build import IMAGENET, Normalisation
from dermssl.backbone.encoder_folder import folder_of, load_encoder
from dermssl.backbone.layouts import translate
from dermssl.backbone.low_rank import merge_low_rank
from dermssl.backbone.weights import load_weights, read_weights
from dermssl.devices import require_compiler
from dermssl.errors import InputError, shortened
from dermssl.files import read_yaml
from dermssl.methods.method import Method, copy_weights, freeze
from dermssl.methods.registry import METHODS
from dermssl.training import states
from dermssl.training.continued import hold_start
from dermssl.training.options import ModelOptions, PretrainOptions
from dermssl.views.recipe import group_views

log = logging.getLogger("dermssl")

FEW_VIEWS = 32
"""BatchNorm's statistics of fewer views are mostly noise."""


def init_of(options: ModelOptions) -> str | None:
    """``model.init``, where ``timm:NAME`` and ``timm:NAME@FILE`` mean what they mean for `dermeval embed --encoder`."""
    if not options.init or not options.init.startswith("timm:"):
        return options.init and str(folder_of(Path(options.init)))
    name, _, file = options.init.removeprefix("timm:").partition("@")
    if name != options.backbone:
        raise InputError(f"model.init {options.init}: model.backbone is {options.backbone}: use the same")
    return file or "timm"


def make_method(options: PretrainOptions, accelerator: Accelerator) -> tuple[Any, Normalisation]:
    """The method of ``options`` with its first weights, on the CPU, and how its images are normalised.

    A run that goes on has both in its state, so the weights that it started from may be gone.
    Raises InputError: the backbone does not exist or cannot take the crops, the batch is too small for its BatchNorm,
    its weights cannot be had, or this machine cannot compile.
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
        normalisation = states.normalisation_in(record)
    elif model.init:
        normalisation = load_initial(method, model, size)
    if options.keep.distillation:
        method.start = freeze(copy_weights(method.network("student"), build_backbone(0.0)))
    method = _fitted(method, options, accelerator)
    hold_start([method.network(which) for which in method.backbones], options.keep, options.training.seed)
    return method.to(memory_format=torch.channels_last), normalisation


def _fitted(method: Method, options: PretrainOptions, accelerator: Accelerator) -> Method:
    """Checkpointing, BatchNorm over ranks, attention and compilation, by options and device."""
    if options.model.gradient_checkpointing:
        build.recompute_activations(method.network("student"))
    batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in method.modules())
    if batch_norm and not options.keep.frozen_batch_norm:
        method = share_statistics(method, options, accelerator)
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        build.write_out_attention(method)
    if options.training.compile:
        require_compiler(accelerator.device)
        for which in method.backbones:
            # One program per crop size: a program for any size is slower, and there are two sizes at most.
            method.network(which).compile(dynamic=False)
    return method


def share_statistics(method: Any, options: PretrainOptions, accelerator: Accelerator) -> Any:
    """BatchNorm over all GPUs. Each forward pass needs at least two views of one crop size on one rank."""
    ranks, accumulation = accelerator.num_processes, options.training.accumulation
    images = options.training.batch // (ranks * accumulation)
    views = images * min(map(len, group_views(options.views)))
    if views < 2:
        raise InputError(
            f"training.batch {options.training.batch} leaves {images} image on each of {ranks} rank(s) x "
            f"{accumulation} accumulation steps, too few for BatchNorm: raise it"
        )
    wanted = ranks > 1 and options.training.sync_batch_norm
    shared = wanted and accelerator.device.type == "cuda"
    if wanted and not shared and accelerator.is_main_process:
        log.warning("warning: PyTorch has no SyncBatchNorm for CPU ranks: batch statistics are local to each rank")
    counted = views * (ranks if shared else 1)
    if counted < FEW_VIEWS and accelerator.is_main_process:
        log.warning(
            f"warning: BatchNorm takes its statistics from {counted} views: more images on each rank and accumulation "
            "step, or a backbone without BatchNorm, learn better"
        )
    # PyTorch's own conversion drops the activations that timm's BatchNormAct2d holds.
    return convert_sync_batchnorm(method) if shared else method


def load_initial(method: Method, options: ModelOptions, size: int) -> Normalisation:
    """Put the weights of ``options.init`` into every backbone, or with ``init_part all`` into the whole method.

    ``size`` is the side of the global crops in pixels, for which a transformer's position embeddings are made. Returns
    how the images that the weights learned from were normalised.
    Raises InputError: the weights cannot be had, are not finite, or belong to another backbone.
    """
    init, part = str(options.init), options.init_part
    if part == "encoder":
        weights, normalisation = _encoder_weights(init, options, size)
    else:
        saved = states.newest_state(Path(init) / "state")
        if saved is None:
            raise InputError(f"model.init {init} has no state/, which model.init_part {part} is read from: give a run")
        normalisation, weights = states.normalisation_in(saved.record), saved.weights
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


def _encoder_weights(init: str, options: ModelOptions, size: int) -> tuple[dict[str, Tensor], Normalisation]:
    if init == "timm":
        model: Any = build.build(options.backbone, size, pretrained=True, patch_size=options.patch_size)
        return model.state_dict(), Normalisation.of(model.pretrained_cfg)
    path = Path(init)
    if path.is_file():
        translated = translate(read_weights(path))
        backbone: Any = build.build(options.backbone, size)
        known = translated.normalisation or Normalisation.of(backbone.pretrained_cfg)
        return translated.weights, Normalisation(*known)
    if not path.exists():
        raise InputError(f"model.init {init} does not exist: give a run, an exported encoder, a file or timm")
    model, config = load_encoder(path / "encoder" if (path / "encoder").is_dir() else path)
    if config["architecture"] != options.backbone:
        raise InputError(
            f"model.init {init} is a {config['architecture']}, but model.backbone is {options.backbone}: use the same"
        )
    return model.state_dict(), Normalisation.of(config["pretrained_cfg"])


def network_weights(run: Path, weights: dict[str, Tensor], which: str) -> dict[str, Tensor]:
    """The backbone of the ``student`` or ``teacher`` out of the weights of a state of ``run``.

    Raises InputError: the run's method has no such network.
    """
    method = read_yaml(run / "config.yaml").get("method")
    attribute = METHODS[method].load().backbones.get(which) if method in METHODS else None
    if attribute is None:
        raise InputError(f"{run} has no {which}: its method ({method}) trains one network: choose another")
    prefix = f"{attribute}."
    found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return merge_low_rank(found)
