"""Parameter groups, optimizers and gradient clipping as the papers use them, and buffers for undoing a step."""

import torch
from lightly.utils.lars import LARS
from timm.optim import param_groups_layer_decay
from torch import nn

from dermssl.training.options import OptimOptions


def parameter_groups(method: nn.Module, backbone: nn.Module, layer_decay: float = 1.0) -> list[dict]:
    """The trainable parameters by part (backbone or heads) and weight decay (not biases and norms, which have 1 axis).

    With a ``layer_decay`` below 1, each layer of the backbone, as timm counts them, has groups of its own; ``scale`` is
    the layer's share of the backbone's learning rate.
    """
    inside = {id(parameter) for parameter in backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in method.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in inside, parameter.ndim > 1), []).append(parameter)
    parts = [{"params": groups[key], "backbone": key[0], "decayed": key[1]} for key in sorted(groups, reverse=True)]
    if layer_decay == 1:
        return parts
    layers = param_groups_layer_decay(backbone, weight_decay=1.0, layer_decay=layer_decay)
    return [part for part in parts if not part["backbone"]] + [
        {"params": g["params"], "backbone": True, "decayed": g["weight_decay"] > 0, "scale": g["lr_scale"]}
        for g in layers
    ]


def make_optimizer(groups: list[dict], options: OptimOptions) -> torch.optim.Optimizer:
    """AdamW (fused) or LARS. `set_values` sets learning rate and weight decay at every step."""
    for group in groups:
        group["weight_decay"] = options.weight_decay if group["decayed"] else 0.0
    if options.name == "lars":
        return LARS(groups, lr=options.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=options.lr, fused=True)


def set_values(optimizer: torch.optim.Optimizer, at: dict[str, float], backbone_lr: float) -> None:
    """Set learning rate and weight decay of a step; ``backbone_lr`` is the backbone's share of the learning rate."""
    for group in optimizer.param_groups:
        scale = (0.0 if at["backbone_frozen"] else backbone_lr) if group["backbone"] else 1.0
        group["lr"] = at["lr"] * scale * group.get("scale", 1.0)
        group["weight_decay"] = at["weight_decay"] if group["decayed"] else 0.0


@torch.no_grad()
def clip_each(optimizer: torch.optim.Optimizer, limit: float) -> torch.Tensor:
    """Scale the gradient of each parameter to a norm of ``limit`` at most, as DINO's authors do; 0 is no limit.

    Returns the norm of the whole gradient before clipping, a scalar.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    if limit:
        torch._foreach_mul_(gradients, (limit / (norms + 1e-6)).clamp(max=1).unbind())
    return norms.norm()


class Buffers:
    """The floating-point buffers of a network (running statistics of BatchNorm), and a copy of them.

    A forward pass changes them. They are put back if a step is left out, or a backward pass repeats the forward pass.
    """

    def __init__(self, network: nn.Module) -> None:
        self.buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self.before = [buffer.clone() for buffer in self.buffers]

    def keep(self) -> None:
        """Copy the buffers."""
        if self.buffers:
            torch._foreach_copy_(self.before, self.buffers)

    def put_back(self) -> None:
        """Set the buffers to the copy."""
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.before)
