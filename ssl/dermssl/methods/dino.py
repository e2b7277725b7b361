"""DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294): a student learns its teacher's output across crops."""

import math
import warnings
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
import torch
import torch.distributed as dist
from lightly.models.modules.heads import DINOProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn
from torch.nn import functional

from dermssl.backbone.build import width
from dermssl.methods import schedules
from dermssl.methods.method import Method, Stats, feature_spread, frozen_copy, place_among_ranks
from dermssl.methods.registry import DinoOptions

SINKHORN_ITERATIONS = 3


class Dino(Method):
    """Student and teacher with their heads, and the loss between them."""

    backbones = MappingProxyType({"student": "student", "teacher": "teacher"})

    def __init__(self, build_backbone: Callable[[float], nn.Module], drop_path: float, options: DinoOptions) -> None:
        super().__init__()
        self.options = options
        self.student = build_backbone(drop_path)
        self.student_head = dino_head(width(self.student), options)
        # Some backbones and all weight-normalised heads cannot be deep-copied, so the teacher is built anew.
        self.teacher = frozen_copy(self.student, build_backbone(0.0))
        self.teacher_head = frozen_copy(self.student_head, dino_head(width(self.student), options))
        self.loss = DinoLoss(options)

    def encoder(self) -> nn.Module:
        """The teacher's backbone, which the paper evaluates."""
        return self.teacher

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """Cross-entropy of every student view with the teacher's output for every other global view."""
        with torch.no_grad():
            seen = self.teacher(views[0].flatten(0, 1))
        learned = torch.cat([self.student(group.flatten(0, 1)) for group in views])
        return self.compare(learned, seen, views[0].shape[1], at)

    def compare(self, learned: Tensor, seen: Tensor, batch: int, at: dict[str, float]) -> tuple[Tensor, Stats]:
        """Loss and statistics from the student's features ``learned`` and the teacher's features ``seen``.

        ``learned`` (S * B, D) are of all S views of B = ``batch`` images, ``seen`` (T * B, D) of the T global views.
        """
        with torch.no_grad():
            teacher = self.teacher_head(seen)
        student = self.student_head(learned)
        with torch.autocast(student.device.type, enabled=False):
            by_view = (-1, batch, self.options.out_dim)
            loss, targets = self.loss(
                student.float().view(by_view), teacher.float().view(by_view), at["teacher_temperature"]
            )
            entropy = torch.special.entr(targets).sum(-1).mean()
            stats = {
                "teacher_entropy": entropy,
                "kl": loss.detach() - entropy,
                "mean_target_entropy": torch.special.entr(targets.mean(dim=(0, 1))).sum(),
                "feature_std": feature_spread(seen),
            }
            return loss, stats

    def schedules(self, steps: int, steps_per_epoch: int) -> dict[str, np.ndarray]:
        """Teacher momentum (cosine to 1), teacher temperature (linear warm-up), last layer frozen (1) or not (0)."""
        options = self.options
        start, end = options.warmup_teacher_temperature, options.teacher_temperature
        warmup = round(options.warmup_teacher_epochs * steps_per_epoch)
        frozen = np.arange(steps) < options.freeze_last_layer_epochs * steps_per_epoch
        return {
            "momentum": schedules.cosine(options.momentum, 1.0, steps),
            "teacher_temperature": schedules.warmup_constant(start, end, warmup, steps),
            "last_layer_frozen": frozen.astype(float),
        }

    def heads(self) -> list[tuple[DINOProjectionHead, nn.Module, "DinoLoss"]]:
        """Each head of the student, the teacher's copy of it, and the loss between their outputs."""
        return [(self.student_head, self.teacher_head, self.loss)]

    def before_update(self, at: dict[str, float]) -> None:
        """Drop the gradients of the heads' last layers while these are frozen."""
        if at["last_layer_frozen"]:
            for head, _, _ in self.heads():
                head.last_layer.zero_grad()

    def after_update(self, at: dict[str, float]) -> None:
        """Move the teacher towards the student, and each centre towards the mean output of the teacher."""
        update_momentum(self.student, self.teacher, at["momentum"])
        for student, teacher, loss in self.heads():
            update_momentum(student, teacher, at["momentum"])
            loss.move_center()

    def skip_update(self) -> None:
        """Leave the centres unchanged."""
        for _, _, loss in self.heads():
            loss.forget()

    def chance_loss(self, batch: int) -> float:
        """ln K: uniform outputs."""
        return math.log(self.options.out_dim)


def dino_head(in_dim: int, options: DinoOptions) -> DINOProjectionHead:
    """A three-layer MLP, L2 normalisation, and a weight-normalised last layer without bias."""
    with warnings.catch_warnings():
        # lightly uses an older form of weight normalisation; the user cannot change that.
        warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
        sizes = options.hidden_dim, options.bottleneck_dim, options.out_dim
        how = {"batch_norm": options.batch_norm, "norm_last_layer": options.norm_last_layer}
        return DINOProjectionHead(in_dim, *sizes, **how)


class DinoLoss(nn.Module):
    """DINO's cross-entropy with a centre (algorithm 1 and equation 4 of the paper), or with Sinkhorn targets.

    The centre moves once per optimizer step, by the outputs of all micro-batches and ranks.
    """

    center: Tensor

    def __init__(self, options: DinoOptions) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("center", torch.zeros(1, 1, options.out_dim))
        self._sum: Tensor | None = None
        self._count = 0

    def forward(self, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Mean of -P_t log P_s over images and pairs of a global view t and another view s; and the targets P_t.

        ``student`` (S, B, K) are the outputs of all views, the T global ones first. ``teacher`` (T, B, K) are the
        outputs of the global views, whose softmax has ``temperature``. Both are float32, as are the targets (T, B, K).
        """
        assert student.dtype == teacher.dtype == torch.float32
        targets = self.targets(teacher, temperature)
        log_p = functional.log_softmax(student / self.options.student_temperature, dim=-1)
        pairs = -torch.einsum("tbk,sbk->ts", targets, log_p)
        pairs.fill_diagonal_(0)
        return pairs.sum() / ((pairs.numel() - len(pairs.diagonal())) * student.shape[1]), targets

    @torch.no_grad()
    def targets(self, teacher: Tensor, temperature: float) -> Tensor:
        """The probabilities that the student learns, from the teacher's outputs; both ``(T, B, K)``."""
        if self.options.centering == "sinkhorn":
            return sinkhorn(teacher.flatten(0, 1) / temperature).view_as(teacher)
        total = teacher.sum(dim=(0, 1))
        self._sum = total if self._sum is None else self._sum + total
        self._count += teacher[..., 0].numel()
        return functional.softmax((teacher - self.center) / temperature, dim=-1)

    @torch.no_grad()
    def move_center(self) -> None:
        """Equation 4: move the centre towards the mean of all outputs since the last call, on all ranks."""
        if self._sum is not None:
            count = torch.tensor(float(self._count), device=self.center.device)
            mean = over_ranks(self._sum) / over_ranks(count).clamp(min=1)  # there may be no masked patch
            self.center.lerp_(mean, 1 - self.options.center_momentum)
        self.forget()

    def forget(self) -> None:
        """Drop the sum of the outputs since the centre last moved."""
        self._sum, self._count = None, 0


@torch.no_grad()
def sinkhorn(logits: Tensor) -> Tensor:
    """Teacher targets that use all K prototypes evenly: Sinkhorn-Knopp over the images of all ranks.

    Caron et al. 2020 (SwAV, section 3.1), as in DINOv2. ``logits`` (N, K) float32 are already divided by the
    temperature. Returns (N, K) float32; each row adds up to 1.
    """
    count = torch.tensor(float(len(logits)), device=logits.device)
    # In float64, because the smallest scores of a sharp teacher are below the range of float32.
    largest = logits.max() if len(logits) else logits.new_tensor(-math.inf)
    scores = torch.exp((logits - over_ranks(largest, dist.ReduceOp.MAX)).double())
    scores /= over_ranks(scores.sum())
    for _ in range(SINKHORN_ITERATIONS):
        scores /= over_ranks(scores.sum(dim=0, keepdim=True)) * scores.shape[1]
        scores /= scores.sum(dim=1, keepdim=True) * over_ranks(count.clone())
    return (scores / scores.sum(dim=1, keepdim=True)).float()


def over_ranks(value: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """``value`` reduced over all ranks, in place."""
    if place_among_ranks()[1] > 1:
        dist.all_reduce(value, operation)
    return value
