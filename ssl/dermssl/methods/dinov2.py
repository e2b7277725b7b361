"""DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193): DINO's loss, iBOT's patch loss and KoLeo.

The student sees global crops with masked patches, the teacher sees whole crops. The student learns two outputs of the
teacher: that of the class token across crops (DINO), and that of each masked patch in the same crop (iBOT, Zhou et al.
2022, https://arxiv.org/abs/2111.07832). KoLeo (Sablayrolles et al. 2019) spreads the class tokens of the images of all
ranks, for each global crop separately.
"""

from collections.abc import Callable
from math import isqrt, log

import numpy as np
import torch
from lightly.loss import KoLeoLoss
from lightly.models.modules.heads import DINOProjectionHead
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional

from dermssl.errors import InputError
from dermssl.methods.dino import Dino, DinoLoss, dino_head
from dermssl.methods.method import Stats, frozen_copy, place_among_ranks
from dermssl.methods.registry import Dinov2Options

MASK_STREAM = 11
"""Keeps the random numbers of masks apart from those of views, order and stochastic depth."""
SMALLEST_BLOCK, ASPECT, ATTEMPTS = 4, 0.3, 32
"""Least number of patches of a masked block and least ratio of its sides, as in DINOv2; blocks tried for each image."""


class Dinov2(Dino):
    """DINO, a mask token, and patch heads of student and teacher.

    The mask token belongs to the method, not to the student, so the exported encoder is an ordinary one.
    """

    options: Dinov2Options

    def __init__(self, build_backbone: Callable[[float], nn.Module], drop_path: float, options: Dinov2Options) -> None:
        super().__init__(build_backbone, drop_path, options)
        if not hasattr(self.student, "num_prefix_tokens"):
            raise InputError(
                "method dinov2 masks patches, but this model.backbone has no patch tokens: choose a vision transformer "
                "(vit_...), or method dino"
            )
        self.seed = torch.initial_seed()  # training.seed, which was set before the networks were built
        dim = int(self.student.embed_dim)  # type: ignore[arg-type]
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.student_patch_head = dino_head(dim, options)
        self.teacher_patch_head = frozen_copy(self.student_patch_head, dino_head(dim, options))
        self.patch_loss, self.koleo = PatchLoss(options), KoLeoLoss()
        self.mask: Tensor | None = None
        self.tokens: Tensor | None = None
        self.student.patch_embed.register_forward_hook(self._put_mask_token)  # type: ignore[union-attr]
        for backbone in (self.student, self.teacher):
            backbone.norm.register_forward_hook(self._keep_tokens)  # type: ignore[union-attr]

    def _put_mask_token(self, _module: nn.Module, _images: tuple, patches: Tensor) -> Tensor:
        """The student's patches before their position is added, ``(B, H, W, D)`` or ``(B, H * W, D)``, masked."""
        if self.mask is None:
            return patches
        return torch.where(self.mask.view(*patches.shape[:-1], 1), self.mask_token.to(patches.dtype), patches)

    def _keep_tokens(self, _module: nn.Module, _before: tuple, tokens: Tensor) -> None:
        self.tokens = tokens

    def forward(self, views: list[Tensor], at: dict[str, float]) -> tuple[Tensor, Stats]:
        """The weighted sum of the three losses; the statistic ``loss`` is DINO's alone."""
        batch, crops = views[0].shape[1], views[0].flatten(0, 1)
        with torch.no_grad():
            seen = self.teacher(crops)
            # A GPU still computes the teacher's output while the CPU draws the masks.
            mask = self._draw_mask(views[0], int(at["mask_step"]))
            chosen = mask.flatten().nonzero()[:, 0].to(crops.device, non_blocking=True)
            teacher = self.teacher_patch_head(self._patches(chosen))
        self.mask = mask.to(crops.device, non_blocking=True)
        masked = self.student(crops)
        student = self.student_patch_head(self._patches(chosen))
        self.mask = None
        learned = torch.cat([masked, *(self.student(group.flatten(0, 1)) for group in views[1:])])
        self.tokens = None
        loss, stats = self.compare(learned, seen, batch, at)
        with torch.autocast(crops.device.type, enabled=False):
            weights = mask_weights(mask).to(crops.device, non_blocking=True)
            patch = self.patch_loss(student.float(), teacher.float(), weights, at["teacher_temperature"])
            koleo = sum(self.koleo(_from_all_ranks(crop.float())) for crop in masked.split(batch))
            stats = {"loss": loss.detach(), **stats, "patch_loss": patch.detach(), "koleo": koleo.detach()}
            return loss + self.options.patch_weight * patch + self.options.koleo_weight * koleo, stats

    def _patches(self, chosen: Tensor) -> Tensor:
        """Patch tokens ``(M, D)`` of the last forward pass; ``chosen`` (M,) indexes the patches of all its images."""
        assert self.tokens is not None
        first = int(self.student.num_prefix_tokens)  # type: ignore[arg-type]
        return self.tokens[:, first:].flatten(0, 1).index_select(0, chosen)

    def _draw_mask(self, crops: Tensor, step: int) -> Tensor:
        """Which patches of this rank's global ``crops`` (V, B, 3, S, S) are masked: bool (V * B, patches), on the CPU.

        Each rank draws the masks of all ranks and takes its own, so the number of ranks changes no mask. The
        micro-batches of a step share their masks.
        """
        assert self.tokens is not None
        patches = self.tokens.shape[1] - int(self.student.num_prefix_tokens)  # type: ignore[arg-type]
        rank, ranks = place_among_ranks()
        count, batch = crops.shape[:2]
        masks = block_masks(count * batch * ranks, isqrt(patches), self.options, [MASK_STREAM, self.seed, step])
        own = masks.reshape(count, ranks, batch, patches)[:, rank]
        return torch.from_numpy(own.reshape(count * batch, patches))

    def schedules(self, steps: int, steps_per_epoch: int) -> dict[str, np.ndarray]:
        """DINO's schedules, and the step, from which the masks are drawn."""
        return {**super().schedules(steps, steps_per_epoch), "mask_step": np.arange(steps)}

    def heads(self) -> list[tuple[DINOProjectionHead, nn.Module, DinoLoss]]:
        """DINO's head, and the patch head."""
        return [*super().heads(), (self.student_patch_head, self.teacher_patch_head, self.patch_loss)]


class PatchLoss(DinoLoss):
    """iBOT's cross-entropy of masked patches (equation 2 of the paper), with a centre or Sinkhorn targets."""

    def forward(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, weights: Tensor, temperature: float
    ) -> Tensor:
        """Sum of -weight P_t log P_s over the M masked patches of all crops, a scalar.

        ``student`` and ``teacher`` are outputs ``(M, K)`` float32; ``weights`` (M,) come from `mask_weights`.
        """
        assert student.dtype == teacher.dtype == torch.float32
        targets = self.targets(teacher[None], temperature)[0]
        log_p = functional.log_softmax(student / self.options.student_temperature, dim=-1)
        return -(targets * log_p).sum(dim=-1) @ weights


def mask_weights(mask: Tensor) -> Tensor:
    """Weight ``(M,)`` of each masked patch in ``mask``, bool ``(crops, patches)``.

    All masked crops have the same weight; the weights add up to the share of masked crops.
    """
    return (1 / mask.sum(dim=1, keepdim=True).clamp(min=1) / len(mask)).expand_as(mask)[mask]


def block_masks(images: int, side: int, options: Dinov2Options, seed: list[int]) -> np.ndarray:
    """Masks of rectangular blocks (BEiT, DINOv2) over ``side`` x ``side`` patches: bool ``(images, side, side)``.

    Like lightly's ``random_block_mask`` in a seventh of the time, because all images are drawn at once. A block that
    is longer than the image is cut to it; DINOv2 and lightly draw another one. So 6% of the masks hold a whole row or
    column, there 3% (14 x 14 patches). A share ``options.masked_images`` of the images has a mask. The numbers of
    masked patches are spread evenly over ``options.mask_share``; a mask has fewer if no further block fits.
    """
    random = np.random.default_rng(seed)
    count = max(1, int(images * options.masked_images)) if options.masked_images else 0
    edges = np.linspace(options.mask_share[0], options.mask_share[1], count + 1) * side * side
    wanted = np.maximum(1, random.uniform(edges[:-1], edges[1:]).astype(int))
    masks, line = np.zeros((count, side, side), bool), np.arange(side)
    for _ in range(ATTEMPTS):
        room = wanted - masks.sum(axis=(1, 2))
        area = random.uniform(np.minimum(SMALLEST_BLOCK, room), room)
        ratio = np.exp(random.uniform(log(ASPECT), -log(ASPECT), count))
        sides = np.clip(np.rint(np.sqrt([area * ratio, area / ratio])).astype(int), 1, side)
        first = random.integers(0, side - sides + 1)
        rows, columns = (line >= first[..., None]) & (line < (first + sides)[..., None])
        grown = masks | (rows[:, :, None] & columns[:, None, :])
        fits = grown.sum(axis=(1, 2)) <= wanted
        masks[fits] = grown[fits]
    every = np.zeros((images, side, side), bool)
    every[random.permutation(images)[:count]] = masks
    return every


def _from_all_ranks(features: Tensor) -> Tensor:
    """The features ``(B, D)`` of all ranks, concatenated, with gradients."""
    return torch.cat(all_gather(features)) if place_among_ranks()[1] > 1 else features
