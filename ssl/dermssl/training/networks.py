"""The method's networks, as this run's device, ranks and start want them."""

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import nn

from dermssl.backbone.build import build as build_backbone
from dermssl.backbone.build import check_sizes, recompute_activations, write_out_attention
from dermssl.devices import require_compiler
from dermssl.errors import InputError
from dermssl.methods.build import build_method
from dermssl.training import states
from dermssl.training.options import PretrainOptions
from dermssl.training.start import backbones, load_initial
from dermssl.views.recipe import group_views

log = logging.getLogger("dermssl")

FEW_VIEWS = 32
"""Under so many views BatchNorm's statistics are mostly noise."""


def make_method(options: PretrainOptions, accelerator: Accelerator) -> Any:
    """The method of ``options`` with its first weights, on the CPU still.

    A run that goes on has its weights in its state, so what it started from may be gone.

    Raises:
        InputError: the backbone does not exist or cannot take the crops, the batch is too small for its BatchNorm, its
            weights cannot be had, or this machine cannot compile.
    """
    torch.manual_seed(options.training.seed)
    size = options.views.global_size

    def build(drop_path: float) -> nn.Module:
        return build_backbone(options.model.backbone, size, drop_path, patch_size=options.model.patch_size)

    method = build_method(options.method, build, float(options.model.drop_path), options.dino, options.simclr)
    sizes = {size} | ({options.views.local_size} if options.views.local_count else set())
    check_sizes(trained_backbone(method), sorted(sizes))
    resumes = not options.overwrite and states.list_states(Path(options.out) / "state")
    if options.model.init and not resumes:
        load_initial(method, options.model, size)
    return _adapt(method, options, accelerator).to(memory_format=torch.channels_last)


def trained_backbone(method: Any) -> nn.Module:
    """The backbone that gradients reach."""
    return method.student if hasattr(method, "student") else method.backbone


def _adapt(method: nn.Module, options: PretrainOptions, accelerator: Accelerator) -> nn.Module:
    """Checkpointing, BatchNorm over ranks, attention and compilation, by options and device."""
    if options.model.gradient_checkpointing:
        recompute_activations(trained_backbone(method))
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in method.modules()):
        method = _share_statistics(method, options, accelerator)
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        write_out_attention(method)
    if options.training.compile:
        require_compiler(accelerator.device)
        for network in backbones(method):
            # One program per crop size: programs for any size are slower, and there are but two sizes.
            network.compile(dynamic=False)
    return method


def _share_statistics(method: nn.Module, options: PretrainOptions, accelerator: Accelerator) -> nn.Module:
    """BatchNorm over all GPUs; each forward pass needs two views at least, of one crop size on one rank."""
    ranks, accumulation = accelerator.num_processes, options.training.accumulation
    images = options.training.batch // (ranks * accumulation)
    views = images * min(map(len, group_views(options.views)))
    if views < 2:
        raise InputError(
            f"training.batch {options.training.batch} leaves {images} image on each of {ranks} rank(s) x "
            f"{accumulation} accumulation steps, too few for BatchNorm: raise it"
        )
    shared = ranks > 1 and options.training.sync_batch_norm
    on_gpus = accelerator.device.type == "cuda"
    if shared and not on_gpus and accelerator.is_main_process:
        log.warning("warning: PyTorch has no SyncBatchNorm for CPU ranks: batch statistics are local to each rank")
    counted = views * (ranks if shared and on_gpus else 1)
    if counted < FEW_VIEWS and accelerator.is_main_process:
        log.warning(
            "warning: BatchNorm takes its statistics of %d views: more images on each rank and accumulation step, or a "
            "backbone without BatchNorm, learn better",
            counted,
        )
    # PyTorch's own conversion drops the activations that timm's BatchNormAct2d holds.
    return convert_sync_batchnorm(method) if shared and on_gpus else method
