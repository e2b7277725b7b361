"""Parameter groups, optimizers and gradient clipping as the papers use them."""

import torch
from lightly.utils.lars import LARS
from torch import nn

from dermssl.training.options import OptimOptions


def parameter_groups(method: nn.Module, backbone: nn.Module) -> list[dict]:
    """Four groups: backbone or head, decayed or not (biases and norms, the one-dimensional parameters, are not)."""
    inside = {id(parameter) for parameter in backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in method.parameters():
        if parameter.requires_grad:
            key = (id(parameter) in inside, parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [{"params": members, "backbone": key[0], "decayed": key[1]} for key, members in sorted(groups.items())[::-1]]


def make_optimizer(groups: list[dict], options: OptimOptions) -> torch.optim.Optimizer:
    """AdamW (fused) or LARS; learning rate and decay are set by hand at every step."""
    for group in groups:
        group["weight_decay"] = options.weight_decay if group["decayed"] else 0.0
    if options.name == "lars":
        return LARS(groups, lr=options.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=options.lr, fused=True)


def set_values(optimizer: torch.optim.Optimizer, lr: float, decay: float, backbone_lr: float, frozen: bool) -> None:
    """This step's learning rate and weight decay."""
    for group in optimizer.param_groups:
        scale = (0.0 if frozen else backbone_lr) if group["backbone"] else 1.0
        group["lr"] = lr * scale
        group["weight_decay"] = decay if group["decayed"] else 0.0


@torch.no_grad()
def clip_each(parameters: list[nn.Parameter], limit: float) -> torch.Tensor:
    """Scale every parameter's gradient to norm ``limit`` at most, as DINO's authors do.

    Returns the norm of the whole gradient before clipping (a scalar tensor); ``limit`` 0 only measures.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    if limit:
        scales = (limit / (norms + 1e-6)).clamp(max=1)
        torch._foreach_mul_(gradients, scales.unbind())
    return norms.norm()
