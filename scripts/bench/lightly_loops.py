"""The training loops of lightly's documentation, with backbone and sizes to choose: the peer of two benches."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from lightly.loss import DINOLoss, NTXentLoss
from lightly.models.modules import DINOProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import DINOTransform, SimCLRTransform
from torch import Tensor, nn

from dermssl.backbone.build import build as build_backbone
from dermssl.backbone.build import width

HIDDEN, BOTTLENECK, OUT_DIM = 512, 64, 2048
"""Widths of the heads in lightly's examples."""


class Loop(NamedTuple):
    """The transform of an image, what a batch of views does (given the epoch), and the network that is kept."""

    transform: Callable
    step: Callable[[list[Tensor], int], None]
    encoder: nn.Module


def lightly_loop(
    method: str, name: str, size: int, local: int, locals_: int, patch_size: int | None = None, device: str = "cpu"
) -> Loop:
    """``simclr`` or ``dino`` on the timm backbone ``name`` with crops of ``size`` (and ``locals_`` of ``local``)."""
    body = build_backbone(name, size, patch_size=patch_size).to(device)
    return _simclr(body, size, device) if method == "simclr" else _dino(body, size, local, locals_, device)


def _simclr(body: nn.Module, size: int, device: str) -> Loop:
    """https://docs.lightly.ai/self-supervised-learning/examples/simclr.html"""
    model = nn.Sequential(body, SimCLRProjectionHead(width(body), HIDDEN, 128).to(device))
    criterion = NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

    def step(views: list[Tensor], epoch: int) -> None:
        views = [view.to(device) for view in views]
        loss = criterion(model(views[0]), model(views[1]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Loop(SimCLRTransform(input_size=size), step, body)


def _dino(student: nn.Module, size: int, local: int, locals_: int, device: str) -> Loop:
    """https://docs.lightly.ai/self-supervised-learning/examples/dino.html"""
    teacher = copy.deepcopy(student)
    features = width(student)
    student_head = DINOProjectionHead(features, HIDDEN, BOTTLENECK, OUT_DIM, freeze_last_layer=1).to(device)
    teacher_head = DINOProjectionHead(features, HIDDEN, BOTTLENECK, OUT_DIM).to(device)
    deactivate_requires_grad(teacher)
    deactivate_requires_grad(teacher_head)
    criterion = DINOLoss(output_dim=OUT_DIM, warmup_teacher_temp_epochs=5).to(device)
    optimizer = torch.optim.Adam([*student.parameters(), *student_head.parameters()], lr=0.001)

    def step(views: list[Tensor], epoch: int) -> None:
        """Teacher, both outputs, loss, update."""
        views = [view.to(device) for view in views]
        update_momentum(student, teacher, m=0.996)
        update_momentum(student_head, teacher_head, m=0.996)
        teacher_out = [teacher_head(teacher(view)) for view in views[:2]]
        student_out = [student_head(student(view)) for view in views]
        loss = criterion(teacher_out, student_out, epoch=epoch)
        loss.backward()
        student_head.cancel_last_layer_gradients(current_epoch=epoch)
        optimizer.step()
        optimizer.zero_grad()

    transform = DINOTransform(global_crop_size=size, local_crop_size=local, n_local_views=locals_)
    return Loop(transform, step, teacher)
