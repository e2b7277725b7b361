"""Losses against the papers' formulas in NumPy and against lightly; schedules against closed forms; EMA by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from launched import Launched
from lightly.loss import DINOLoss
from torch import nn

from dermssl.backbone.build import build as build_backbone
from dermssl.methods import schedules
from dermssl.methods.dino import Dino, DinoLoss, dino_head, sinkhorn
from dermssl.methods.registry import DinoOptions, SimclrOptions
from dermssl.methods.simclr import Simclr

SMALL = DinoOptions(out_dim=16, hidden_dim=8, bottleneck_dim=8)
AT = {"momentum": 0.9, "teacher_temperature": 0.04, "last_layer_frozen": 0.0}


def build(drop_path: float) -> nn.Module:
    return build_backbone("test_vit", 32, drop_path)


@pytest.fixture
def dino() -> Dino:
    torch.manual_seed(0)
    return Dino(build, 0.0, SMALL)


def views(batch: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, batch, 3, 32, 32, generator=generator),
        torch.randn(3, batch, 3, 16, 16, generator=generator),
    ]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_a_start_temperature_without_a_warm_up_is_told():
    (told,) = DinoOptions(warmup_teacher_temperature=0.02).remarks(8, 8)
    assert told.startswith("dino.warmup_teacher_temperature 0.02 has no effect: dino.warmup_teacher_epochs is 0")
    assert not DinoOptions(warmup_teacher_temperature=0.02, warmup_teacher_epochs=1.0).remarks(8, 8)
    assert not DinoOptions(teacher_temperature=0.07).remarks(8, 8)


def test_dino_loss_is_the_papers_formula():
    random = np.random.default_rng(0)
    teacher, student, centre = random.normal(size=(2, 5, 16)), random.normal(size=(4, 5, 16)), random.normal(size=16)
    loss = DinoLoss(SMALL)
    loss.center.copy_(torch.tensor(centre, dtype=torch.float32))
    ours, targets = loss(torch.tensor(student).float(), torch.tensor(teacher).float(), 0.04)
    np.testing.assert_allclose(targets.numpy(), softmax((teacher - centre) / 0.04), rtol=1e-4, atol=1e-6)
    terms = [
        -(softmax((teacher[t] - centre) / 0.04) * np.log(softmax(student[s] / 0.1))).sum(-1).mean()
        for t in range(2)
        for s in range(4)
        if s != t
    ]
    assert float(ours) == pytest.approx(np.mean(terms), rel=1e-5)


def test_dino_loss_is_lightlys():
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 5, 16), torch.randn(4, 5, 16)
    theirs = DINOLoss(output_dim=16)(list(teacher), list(student), teacher_temp=0.05)
    assert torch.equal(DinoLoss(SMALL)(student, teacher, 0.05)[0], theirs)


def test_dino_compares_every_crop_with_every_other_global_view_by_its_options():
    torch.manual_seed(0)
    model = Dino(build, 0.0, replace(SMALL, student_temperature=0.2, center_momentum=0.5))
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        crops = views()
        teacher = np.stack([model.teacher_head(model.teacher(crop)).numpy() for crop in crops[0]])
        student = np.stack([model.student_head(model.student(crop)).numpy() for group in crops for crop in group])
    loss, _ = model(crops, AT)
    terms = [
        -(softmax(teacher[t] / 0.04) * np.log(softmax(student[s] / 0.2))).sum(-1).mean()
        for t in range(2)
        for s in range(5)
        if s != t
    ]
    assert float(loss.detach()) == pytest.approx(np.mean(terms), rel=1e-4)
    model.after_update(AT)
    np.testing.assert_allclose(model.loss.center[0, 0].numpy(), 0.5 * teacher.mean(axis=(0, 1)), rtol=1e-4, atol=1e-7)


def test_only_the_student_has_stochastic_depth():
    torch.manual_seed(0)
    model, images = Dino(build, 0.5, SMALL).train(), views()[0][0]
    with torch.no_grad():
        assert torch.equal(model.teacher(images), model.teacher(images))
        assert not torch.equal(model.student(images), model.student(images))


@pytest.mark.parametrize("normalised", [True, False])
def test_the_last_layers_length_learns_only_if_it_is_not_normalised(normalised):
    head = dino_head(8, replace(SMALL, norm_last_layer=normalised))
    assert head.last_layer.weight_g.requires_grad != normalised


def test_ntxent_is_the_papers_formula():
    torch.manual_seed(0)
    model = Simclr(build, 0.0, SimclrOptions(temperature=0.3, hidden_dim=8, out_dim=4, batch_norm=False))
    x = views(5)[:1]
    loss, _ = model(x, {})
    with torch.no_grad():
        z = torch.nn.functional.normalize(model.head(model.backbone(x[0].flatten(0, 1))), dim=1).numpy()
    s = z @ z.T / 0.3
    terms = []
    for i in range(10):
        others = np.delete(s[i], i)
        terms.append(-s[i, (i + 5) % 10] + np.log(np.exp(others).sum()))
    assert float(loss.detach()) == pytest.approx(np.mean(terms), rel=1e-5)


def test_centre_moves_once_per_update_over_all_micro_batches(dino):
    random = torch.Generator().manual_seed(0)
    outputs = [torch.randn(2, 3, 16, generator=random) for _ in range(4)]
    for output in outputs:
        dino.loss(output, output, 0.04)
        assert not dino.loss.center.any()
    dino.loss.move_center()
    mean = torch.cat(outputs).mean(dim=(0, 1))
    torch.testing.assert_close(dino.loss.center[0, 0], 0.1 * mean)


def test_a_skipped_update_leaves_the_centre(dino):
    dino.loss(*[torch.full((2, 3, 16), float("nan"))] * 2, 0.04)
    dino.skip_update()
    dino.loss.move_center()
    assert not dino.loss.center.any()


@pytest.mark.parametrize("method", ["dino", "simclr"])
def test_losses_are_computed_in_float32_inside_autocast(method, monkeypatch):
    torch.manual_seed(0)
    model = Dino(build, 0.0, SMALL) if method == "dino" else Simclr(build, 0.0, SimclrOptions(hidden_dim=8, out_dim=4))
    seen = []
    model.loss.register_forward_pre_hook(lambda _, inputs: seen.append((torch.is_autocast_enabled("cpu"), inputs)))
    with torch.autocast("cpu", torch.bfloat16):
        loss, stats = model(views(), AT)
    enabled, inputs = seen[0]
    tensors = [t for value in inputs for t in (value if isinstance(value, list) else [value])]
    assert not enabled and {t.dtype for t in tensors if isinstance(t, torch.Tensor)} == {torch.float32}
    assert loss.dtype == torch.float32 and all(value.dtype == torch.float32 for value in stats.values())


@pytest.mark.parametrize(("follower", "leader"), [("teacher", "student"), ("teacher_head", "student_head")])
def test_teacher_starts_as_the_student_and_follows_by_ema(dino, follower, leader):
    teacher, student = getattr(dino, follower), getattr(dino, leader)
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    dino.after_update(AT)
    for (name, ours), theirs in zip(teacher.named_parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours, 0.9 * before[name] + 0.1 * theirs)


def test_only_the_student_learns(dino):
    loss, _ = dino(views(), AT)
    loss.backward()
    assert all(p.grad is None for p in dino.teacher.parameters())
    assert all(p.grad is not None for p in dino.student.parameters() if p.requires_grad)


def test_last_layer_is_frozen_as_long_as_asked(dino):
    frozen = dino.schedules(steps=10, steps_per_epoch=4)["last_layer_frozen"]
    assert list(frozen) == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    dino(views(), AT)[0].backward()
    dino.before_update({"last_layer_frozen": 1.0})
    assert all(p.grad is None for p in dino.student_head.last_layer.parameters())


def test_dino_statistics(dino):
    loss, stats = dino(views(), AT)
    assert float(stats["kl"] + stats["teacher_entropy"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert 0 < float(stats["teacher_entropy"]) <= dino.chance_loss(3) + 1e-6


def test_chance_loss_is_the_loss_of_equal_features():
    model = Simclr(build, 0.0, SimclrOptions(hidden_dim=8, out_dim=4))
    same = torch.ones(6, 4)
    assert float(model.loss(same, same)) == pytest.approx(model.chance_loss(6), rel=1e-5)
    uniform, _ = DinoLoss(SMALL)(*[torch.zeros(2, 6, 16)] * 2, 0.04)
    assert float(uniform) == pytest.approx(math.log(16), rel=1e-5)


def test_cosine_follows_the_closed_form_to_the_last_step():
    values = schedules.cosine(0.996, 1.0, 100)
    expected = [1.0 - (1 - 0.996) * (math.cos(math.pi * t / 100) + 1) / 2 for t in range(100)]
    np.testing.assert_allclose(values, expected)
    assert values[-1] < 1.0


def test_warmup_rises_linearly_then_decays():
    values = schedules.warmup_cosine(1.0, 0.1, warmup=5, steps=20)
    np.testing.assert_allclose(values[:5], [0, 0.25, 0.5, 0.75, 1.0])
    assert values[5] == pytest.approx(1.0) and len(values) == 20 and values[-1] > 0.1


def test_teacher_temperature_warms_up():
    values = schedules.warmup_constant(0.02, 0.04, 3, 6)
    np.testing.assert_allclose(values, [0.02, 0.03, 0.04, 0.04, 0.04, 0.04])


def test_sinkhorn_targets_are_swavs_and_spread_over_the_prototypes():
    logits = np.random.default_rng(0).normal(size=(12, 5)) * 3 + np.array([4, 0, 0, 0, 0])
    q = np.exp(logits).T / np.exp(logits).sum()
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True) * 5
        q /= q.sum(axis=0, keepdims=True) * 12
    expected = (q / q.sum(axis=0, keepdims=True)).T
    ours = sinkhorn(torch.tensor(logits, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-7)
    assert ours.sum(axis=0).max() < softmax(logits).sum(axis=0).max()


def test_sinkhorn_of_a_very_sharp_teacher_stays_finite():
    targets = sinkhorn(torch.tensor([[50.0, -50.0, 0.0], [49.0, -50.0, -50.0]]) / 0.5)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2))


def test_sinkhorn_centring_leaves_the_centre_alone():
    torch.manual_seed(0)
    model = Dino(build, 0.0, DinoOptions(out_dim=16, hidden_dim=8, bottleneck_dim=8, centering="sinkhorn"))
    loss, stats = model(views(), AT)
    model.after_update(AT)
    assert torch.isfinite(loss) and not model.loss.center.any()
    assert float(stats["mean_target_entropy"]) > 0.5 * math.log(16)


def test_a_centre_that_an_earlier_run_left_changes_no_target_of_sinkhorn():
    torch.manual_seed(0)
    model = Dino(build, 0.0, replace(SMALL, centering="sinkhorn"))
    before, _ = model(views(), AT)
    model.loss.center += torch.randn(16)
    after, _ = model(views(), AT)
    torch.testing.assert_close(after, before)


SINKHORN_OF_A_RANK = """
import sys
import numpy as np
import torch
import torch.distributed as dist
from dermssl.methods.dino import sinkhorn

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
logits = torch.from_numpy(np.load(f"{folder}/logits{rank}.npy"))
np.save(f"{folder}/targets{rank}.npy", sinkhorn(logits).numpy())
dist.destroy_process_group()
"""


def test_sinkhorn_over_two_ranks_is_that_of_the_joined_batch(tmp_path):
    logits = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32) * 3
    logits[:5] += np.array([9, 0, 0, 0, 0], np.float32)
    parts = logits[:5], logits[5:]
    for rank, part in enumerate(parts):
        np.save(tmp_path / f"logits{rank}.npy", part)
    ranks = [Launched(("-c", SINKHORN_OF_A_RANK), [str(tmp_path), str(rank)]) for rank in range(2)]
    told = [rank.communicate(timeout=180)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    ours = np.concatenate([np.load(tmp_path / f"targets{rank}.npy") for rank in range(2)])
    np.testing.assert_allclose(ours, sinkhorn(torch.from_numpy(logits)).numpy(), rtol=1e-6, atol=1e-9)
    alone = np.concatenate([sinkhorn(torch.from_numpy(part)).numpy() for part in parts])
    assert np.abs(ours - alone).max() > 0.1
