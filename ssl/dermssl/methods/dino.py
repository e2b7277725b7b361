"""DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294): a student matches its teacher across crops."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from lightly.loss import DINOLoss
from lightly.models.utils import update_momentum
from torch import Tensor, nn
from torch.nn import functional

from dermssl.backbone.build import width
from dermssl.methods import schedules
from dermssl.methods.heads import dino_head, freeze
from dermssl.methods.method import Stats
from dermssl.methods.options import DinoOptions

SINKHORN_ITERATIONS = 3


@torch.no_grad()
def sinkhorn(logits: Tensor) -> Tensor:
    """Teacher targets that use all prototypes evenly: Sinkhorn-Knopp over the images of all ranks.

    Caron et al. 2020 (SwAV, section 3.1), as in DINOv2. ``logits`` (N, K) float32, already divided by the temperature;
    returns (N, K), rows summing to 1.
    """
    count = torch.tensor(float(len(logits)), device=logits.device)
    # In float64, as the smallest scores of a sharp teacher are below float32's range.
    scores = torch.exp((logits - _over_ranks(logits.max(), dist.ReduceOp.MAX)).double())
    scores /= _over_ranks(scores.sum())
    for _ in range(SINKHORN_ITERATIONS):
        scores /= _over_ranks(scores.sum(dim=0, keepdim=True)) * scores.shape[1]
        scores /= scores.sum(dim=1, keepdim=True) * _over_ranks(count.clone())
    return (scores / scores.sum(dim=1, keepdim=True)).float()


def _over_ranks(value: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value, operation)
    return value


class CentredLoss(DINOLoss):
    """lightly's DINO loss with the centre moved once per optimizer step, over all micro-batches and ranks."""

    def __init__(self, options: DinoOptions) -> None:
        super().__init__(
            output_dim=options.out_dim,
            student_temp=options.student_temperature,
            center_momentum=options.center_momentum,
        )
        self._sum: Tensor | None = None
        self._count = 0

    @torch.no_grad()
    def update_center(self, teacher_out: Tensor) -> None:
        """Remember ``teacher_out`` (V, B, K); lightly would move the centre here, in every micro-step."""
        total = teacher_out.sum(dim=(0, 1))
        self._sum = total if self._sum is None else self._sum + total
        self._count += teacher_out.shape[0] * teacher_out.shape[1]

    @torch.no_grad()
    def move_center(self) -> None:
        """Equation 4 of the paper, with the mean over everything since the last call on all ranks."""
        if self._sum is None:
            return
        count = torch.tensor(float(self._count), device=self._sum.device)
        mean = _over_ranks(self._sum) / _over_ranks(count)
        self.center.copy_(self.center * self.center_momentum + mean * (1 - self.center_momentum))
        self.forget()

    def forget(self) -> None:
        """Drop the outputs remembered since the centre last moved."""
        self._sum, self._count = None, 0


class Dino(nn.Module):
    """Student and teacher with their heads, the centre, and the loss between them.

    ``build_backbone`` is called twice: the teacher is built anew and loaded with the student's state.
    """

    def __init__(self, build_backbone: Callable[[float], nn.Module], drop_path: float, options: DinoOptions) -> None:
        super().__init__()
        self.options = options
        self.student = build_backbone(drop_path)
        dim = width(self.student)
        self.student_head = dino_head(dim, options)
        self.teacher = build_backbone(0.0)
        self.teacher_head = dino_head(dim, options)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher_head.load_state_dict(self.student_head.state_dict())
        freeze(self.teacher)
        freeze(self.teacher_head)
        self.loss = CentredLoss(options)

    def encoder(self) -> nn.Module:
        """The teacher's backbone, which the paper evaluates."""
        return self.teacher

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """Cross-entropy of every student crop with every other global crop's teacher output."""
        count = views[0].shape[0]
        with torch.no_grad():
            features = self.teacher(views[0].flatten(0, 1))
            teacher_out = self.teacher_head(features)
        students = torch.cat([self.student(group.flatten(0, 1)) for group in views])
        student_out = self.student_head(students)
        with torch.autocast(student_out.device.type, enabled=False):
            teacher_out, student_out = teacher_out.float(), student_out.float()
            assert teacher_out.dtype == student_out.dtype == torch.float32
            temperature = at["teacher_temperature"]
            if self.options.centering == "sinkhorn":
                # The loss subtracts its centre, which weights of an earlier run may have brought, and takes the softmax
                # over the temperature: that gives the targets back.
                targets = sinkhorn(teacher_out / temperature)
                teacher_out = temperature * torch.log(targets + 1e-12) + self.loss.center[0]
            targets = functional.softmax((teacher_out - self.loss.center[0]) / temperature, dim=-1)
            crops = list(student_out.chunk(sum(len(group) for group in views)))
            loss = self.loss(list(teacher_out.chunk(count)), crops, teacher_temp=temperature)
            stats = self._stats(loss, features.float(), targets)
        return loss, stats

    @torch.no_grad()
    def _stats(self, loss: Tensor, features: Tensor, targets: Tensor) -> Stats:
        entropy = torch.special.entr(targets).sum(-1).mean()
        return {
            "teacher_entropy": entropy,
            "kl": loss.detach() - entropy,
            "mean_target_entropy": torch.special.entr(targets.mean(0)).sum(),
            "feature_std": functional.normalize(features, dim=-1).std(dim=0).mean() * math.sqrt(features.shape[1]),
        }

    def schedules(self, steps: int, steps_per_epoch: int) -> dict[str, np.ndarray]:
        """Teacher momentum (cosine to 1), teacher temperature (linear warm-up), last layer frozen (1) or not (0)."""
        options = self.options
        warmup = round(options.warmup_teacher_epochs * steps_per_epoch)
        frozen = np.arange(steps) < options.freeze_last_layer_epochs * steps_per_epoch
        return {
            "momentum": schedules.cosine(options.momentum, 1.0, steps),
            "teacher_temperature": schedules.warmup_constant(
                options.warmup_teacher_temperature, options.teacher_temperature, warmup, steps
            ),
            "last_layer_frozen": frozen.astype(float),
        }

    def before_update(self, at: dict[str, float]) -> None:
        """Cancel the last layer's gradients while it is frozen."""
        if at["last_layer_frozen"]:
            for parameter in self.student_head.last_layer.parameters():
                parameter.grad = None

    def after_update(self, at: dict[str, float]) -> None:
        """Move the teacher towards the student, and the centre towards the teacher's mean output."""
        update_momentum(self.student, self.teacher, at["momentum"])
        update_momentum(self.student_head, self.teacher_head, at["momentum"])
        if self.options.centering == "mean":
            self.loss.move_center()
        else:
            self.loss.forget()

    def skip_update(self) -> None:
        """Leave the centre where it was."""
        self.loss.forget()

    def chance_loss(self, batch: int) -> float:
        """ln K: uniform outputs."""
        return math.log(self.options.out_dim)
