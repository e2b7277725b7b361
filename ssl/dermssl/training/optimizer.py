"""Parameter groups, optimizers and gradient clipping as the papers use them, and buffers for undoing a step."""

import torch
from lightly.utils.lars import LARS
from timm.optim import param_groups_layer_decay
from torch import nn

from dermssl.training.options import OptimOptions


def parameter_groups(method: nn.Module, backbone: nn.Module, layer_decay: float = 1.0) -> list[dict]:
    """Four groups: backbone or head, decayed or not (biases and norms, the one-dimensional parameters, are not).

    With a ``layer_decay`` below 1 the backbone has such groups for each of its layers, as timm counts them; ``scale``
    is the layer's share of the backbone's learning rate.
    """
    if layer_decay < 1:
        heads = [group for group in parameter_groups(method, backbone) if not group["backbone"]]
        layers = param_groups_layer_decay(backbone, weight_decay=1.0, layer_decay=layer_decay)
        return heads + [
            {"params": g["params"], "backbone": True, "decayed": g["weight_decay"] > 0, "scale": g["lr_scale"]}
            for g in layers
        ]
    inside = {id(parameter) for parameter in backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in method.parameters():
        if parameter.requires_grad:
            key = (id(parameter) in inside, parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [{"params": members, "backbone": key[0], "decayed": key[1]} for key, members in sorted(groups.items())[::-1]]


def make_optimizer(groups: list[dict], options: OptimOptions) -> torch.optim.Optimizer:
    """AdamW (fused) or LARS; the learning rate and the decay are set by hand at every step."""
    for group in groups:
        group["weight_decay"] = options.weight_decay if group["decayed"] else 0.0
    if options.name == "lars":
        return LARS(groups, lr=options.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=options.lr, fused=True)


def set_values(optimizer: torch.optim.Optimizer, at: dict[str, float], backbone_lr: float) -> None:
    """This step's learning rate and weight decay; ``backbone_lr`` is the backbone's share of the learning rate."""
    for group in optimizer.param_groups:
        scale = (0.0 if at["backbone_frozen"] else backbone_lr) if group["backbone"] else 1.0
        group["lr"] = at["lr"] * scale * group.get("scale", 1.0)
        group["weight_decay"] = at["weight_decay"] if group["decayed"] else 0.0


@torch.no_grad()
def clip_each(optimizer: torch.optim.Optimizer, limit: float) -> torch.Tensor:
    """Scale every parameter's gradient to norm ``limit`` at most, as DINO's authors do.

    Returns the norm of the whole gradient before clipping (a scalar tensor); ``limit`` 0 only measures.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    if limit:
        torch._foreach_mul_(gradients, (limit / (norms + 1e-6)).clamp(max=1).unbind())
    return norms.norm()


class Buffers:
    """A network's floating-point buffers (BatchNorm's running statistics), and a copy of them from before a step.

    The forward pass changes them. A step that is left out must put them back, and so must a backward pass that computes
    activations again.
    """

    def __init__(self, network: nn.Module) -> None:
        self.buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self.before = [buffer.clone() for buffer in self.buffers]

    def keep(self) -> None:
        """Copy them."""
        if self.buffers:
            torch._foreach_copy_(self.before, self.buffers)

    def put_back(self) -> None:
        """Make them equal to the copy."""
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.before)
