"""Options of the methods. Torch-free."""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass
class DinoOptions:
    """DINO: self-distillation of a student towards its own moving average (Caron et al. 2021)."""

    out_dim: PositiveInt = 65536
    """Prototypes K of the head; 1024-4096 for fewer than 20,000 images."""
    hidden_dim: PositiveInt = 2048
    """Width of the head's two hidden layers."""
    bottleneck_dim: PositiveInt = 256
    """Width before the weight-normalised last layer."""
    batch_norm: bool = False
    """BatchNorm in the head: keeps the outputs of different images apart in short runs of convnets (published: no)."""
    norm_last_layer: bool = True
    """Keep the norms of the prototypes at 1 (stable; false can be better for long ViT-S runs)."""
    student_temperature: PositiveFloat = 0.1
    """Softmax temperature of the student."""
    warmup_teacher_temperature: PositiveFloat = 0.04
    """Teacher temperature at the start; lower it if the loss stays at ln(out_dim)."""
    teacher_temperature: PositiveFloat = 0.04
    """Teacher temperature after the warm-up (published: 0.04 to 0.07)."""
    warmup_teacher_epochs: NonNegativeFloat = 0.0
    """Epochs of linear warm-up of the teacher temperature."""
    momentum: ClosedUnitInterval = 0.996
    """Teacher momentum (EMA) at the start; a cosine leads it to 1. Small data wants a smaller start (0.99)."""
    centering: Literal["mean", "sinkhorn"] = "mean"
    """`mean`: subtract a moving centre, as published. `sinkhorn`: share the prototypes evenly among the images of
    each batch (SwAV, DINOv2), which settles within hundreds of steps where the centre needs tens of thousands."""
    center_momentum: ClosedUnitInterval = 0.9
    """Momentum of the centre of the teacher's outputs."""
    freeze_last_layer_epochs: NonNegativeFloat = 1.0
    """Epochs during which the last layer of the head does not move."""


@dataclass
class SimclrOptions:
    """SimCLR: contrast of two views against all other images of the batch (Chen et al. 2020)."""

    temperature: PositiveFloat = 0.1
    """Temperature of NT-Xent (published: 0.1 for large batches, 0.5 for small ones)."""
    hidden_dim: PositiveInt = 2048
    """Width of the projection head's hidden layer."""
    out_dim: PositiveInt = 128
    """Width of the projections."""
    batch_norm: bool = True
    """BatchNorm in the projection head, as published."""
