"""DINOv2's three losses against the papers' formulas in NumPy and against lightly; its masks; refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightly.loss import IBOTPatchLoss
from lightly.models.utils import random_block_mask

from dermssl.backbone.build import build as build_backbone
from dermssl.errors import InputError
from dermssl.methods.dinov2 import Dinov2, PatchLoss, block_masks, mask_weights
from dermssl.methods.registry import Dinov2Options
from dermssl.views.recipe import ViewOptions

SMALL = Dinov2Options(out_dim=16, hidden_dim=8, bottleneck_dim=8, centering="mean")
AT = {"momentum": 0.9, "teacher_temperature": 0.04, "last_layer_frozen": 0.0, "mask_step": 3.0}


def views(batch: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (2, batch, 3, 64, 64), (3, batch, 3, 32, 32)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def make(options: Dinov2Options = SMALL, backbone: str = "test_vit", seed: int = 0) -> Dinov2:
    torch.manual_seed(seed)
    return Dinov2(lambda drop: build_backbone(backbone, 64, drop), 0.0, options)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_masks_cover_the_asked_share_of_half_the_images_as_lightlys_do():
    ours = block_masks(400, 14, SMALL, [0]).reshape(400, -1).mean(axis=1)
    theirs = random_block_mask((400, 14, 14)).flatten(1).float().mean(dim=1).numpy()
    for shares in (ours, theirs):
        assert (shares > 0).sum() == 200
        assert 0.09 < shares[shares > 0].min() < 0.12 and 0.48 < shares.max() <= 0.5
    np.testing.assert_allclose(np.sort(ours), np.sort(theirs), atol=0.02)


def test_masks_are_blocks():
    assert not block_masks(20, 14, replace(SMALL, masked_images=0.0), [0]).any()
    for mask in block_masks(20, 14, replace(SMALL, masked_images=1.0), [0]):
        alone = [
            (row, column)
            for row, column in np.argwhere(mask)
            if mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].sum() == 1
        ]
        assert len(alone) <= 2  # the last patch or two of a mask


def test_patch_loss_is_the_papers_formula_and_lightlys():
    random = np.random.default_rng(0)
    mask = torch.from_numpy(random.random((6, 3, 3)) < 0.4)
    mask[2] = False
    teacher, student = random.normal(size=(2, int(mask.sum()), 16)).astype(np.float32)
    centre = random.normal(size=16).astype(np.float32)
    loss = PatchLoss(SMALL)
    loss.center.copy_(torch.from_numpy(centre))
    weights = mask_weights(mask.flatten(1))
    ours = loss(torch.from_numpy(student), torch.from_numpy(teacher), weights, 0.05).item()
    terms = -(softmax((teacher - centre) / 0.05) * np.log(softmax(student / 0.1))).sum(-1)
    crop_of = np.nonzero(mask.flatten(1).numpy())[0]
    by_hand = sum(terms[crop_of == crop].mean() for crop in set(crop_of)) / 6
    assert ours == pytest.approx(by_hand, rel=1e-5)
    theirs = IBOTPatchLoss(output_dim=16)
    theirs.center.value.copy_(torch.from_numpy(centre))
    assert ours == pytest.approx(theirs(*map(torch.from_numpy, (teacher, student)), mask, 0.05).item(), rel=1e-5)
    loss.move_center()
    np.testing.assert_allclose(loss.center[0, 0], 0.9 * centre + 0.1 * teacher.mean(axis=0), rtol=1e-4, atol=1e-6)


def tokens_of(backbone, images: torch.Tensor, mask: torch.Tensor | None = None, token: torch.Tensor | None = None):
    """Class token and patch tokens by timm's own parts, masked before the position is added."""
    patches = backbone.patch_embed(images)
    if mask is not None:
        patches[mask.view(patches.shape[:-1])] = token
    tokens = backbone.norm(backbone.blocks(backbone.norm_pre(backbone._pos_embed(patches))))
    return tokens[:, 0], tokens[:, 1:]


def test_the_loss_is_dinos_and_the_masked_patches_and_koleo_of_each_global_crop():
    model, crops = make(replace(SMALL, patch_weight=0.7, koleo_weight=0.3)), views()
    loss, stats = model(crops, AT)
    mask = torch.from_numpy(block_masks(6, 4, SMALL, [11, 0, 3])).flatten(1)
    plain = make(replace(SMALL, patch_weight=0.7, koleo_weight=0.3))
    with torch.no_grad():
        seen, whole = tokens_of(plain.teacher, crops[0].flatten(0, 1))
        masked, guessed = tokens_of(plain.student, crops[0].flatten(0, 1), mask, plain.mask_token)
        local, _ = tokens_of(plain.student, crops[1].flatten(0, 1))
        dino, _ = plain.compare(torch.cat([masked, local]), seen, 3, AT)
        patches = PatchLoss(SMALL)(
            plain.student_patch_head(guessed[mask]), plain.teacher_patch_head(whole[mask]), mask_weights(mask), 0.04
        )
    unit = masked.numpy().reshape(2, 3, -1) / np.linalg.norm(masked, axis=1).reshape(2, 3, 1)
    distances = np.linalg.norm(unit[:, :, None] - unit[:, None], axis=-1) + 9 * np.eye(3)
    koleo = -np.log(distances.min(axis=2)).mean(axis=1).sum()
    expected = {"loss": dino.item(), "patch_loss": patches.item(), "koleo": koleo}
    assert {name: stats[name].item() for name in expected} == pytest.approx(expected, rel=1e-4)
    assert loss.item() == pytest.approx(dino.item() + 0.7 * patches.item() + 0.3 * koleo, rel=1e-4)


@pytest.mark.parametrize("backbone", ["test_vit", "test_vit2"], ids=["class token", "registers"])
def test_all_that_the_student_has_learns_and_nothing_else(backbone):
    model = make(backbone=backbone)
    model(views(), AT)[0].backward()
    moving = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moving == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name in moving if name.startswith("teacher")] and model.mask_token.grad.any()
    model.before_update(AT | {"last_layer_frozen": 1.0})
    heads = model.student_head, model.student_patch_head
    assert all(p.grad is None for head in heads for p in head.last_layer.parameters())


def test_masks_follow_from_the_seed_and_the_step():
    same, again, other_step, other_seed = (
        make(seed=seed)(views(), AT | {"mask_step": step})[1]["patch_loss"].item()
        for seed, step in ((0, 1.0), (0, 1.0), (0, 2.0), (1, 1.0))
    )
    assert same == again and len({same, other_step, other_seed}) == 3
    assert list(make().schedules(3, 3)["mask_step"]) == [0, 1, 2]


def test_the_patch_heads_teacher_and_centre_follow_and_a_skipped_step_leaves_them():
    model = make()
    model(views(), AT)
    model.skip_update()
    model.patch_loss.move_center()
    assert not model.patch_loss.center.any()
    with torch.no_grad():
        model.student_patch_head.layers[0].weight.add_(1.0)
    before = model.teacher_patch_head.layers[0].weight.clone()
    model(views(), AT)
    model.after_update(AT)
    torch.testing.assert_close(model.teacher_patch_head.layers[0].weight, before + 0.1)
    assert model.patch_loss.center.any() and model.loss.center.any()


def test_a_step_without_masked_patches_leaves_the_patch_centre_finite():
    model = make(replace(SMALL, masked_images=0.0, centering="mean"))
    model(views(), AT)
    model.after_update(AT)
    assert not model.patch_loss.center.any() and model.loss.center.any()


def test_patch_loss_and_koleo_are_computed_in_float32_inside_autocast():
    model, seen = make(), []
    for part in (model.loss, model.patch_loss, model.koleo):
        part.register_forward_pre_hook(lambda _, inputs: seen.append((torch.is_autocast_enabled("cpu"), inputs)))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model(views(), AT)
    assert len(seen) == 4 and not any(enabled for enabled, _ in seen)
    assert {t.dtype for _, inputs in seen for t in inputs if isinstance(t, torch.Tensor)} == {torch.float32}
    assert loss.dtype == torch.float32


def test_a_backbone_without_patches_is_refused():
    with pytest.raises(InputError, match="no patch tokens: choose a vision transformer"):
        make(backbone="resnet18")


@pytest.mark.parametrize("share", [[0.1], [0.5, 0.1], [0.0, 0.5], [0.1, 1.0]])
def test_shares_that_make_no_sense_are_refused(share):
    with pytest.raises(ValueError, match=r"dinov2.mask_share must be two numbers"):
        replace(SMALL, mask_share=share).check(ViewOptions())


def test_one_image_has_no_nearest_one():
    with pytest.raises(ValueError, match="2 images"):
        SMALL.remarks(1, 8)
    assert not replace(SMALL, koleo_weight=0.0).remarks(1, 8)


def test_each_part_that_compares_only_a_micro_batch_is_named():
    told = replace(SMALL, centering="sinkhorn").remarks(4, 8)
    assert [line.split(" compares only the 4 images")[0] for line in told] == ["KoLeo", "Sinkhorn centring"]


def test_a_head_with_one_prototype_is_refused():
    with pytest.raises(ValueError, match=r"dinov2.out_dim 1 cannot tell images apart: give 2 or more"):
        replace(SMALL, out_dim=1).check(ViewOptions())
