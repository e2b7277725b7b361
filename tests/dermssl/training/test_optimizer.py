"""Parameter groups, schedules of the learning rate, clipping and LARS against the papers' formulas."""

import numpy as np
import pytest
import torch
from tiny_runs import metrics
from torch import nn

from dermssl.backbone.build import build as build_backbone
from dermssl.methods.registry import METHODS, DinoOptions, SimclrOptions
from dermssl.training.optimizer import clip_each, make_optimizer, parameter_groups, set_values
from dermssl.training.options import OptimOptions

DINO = DinoOptions(out_dim=32, hidden_dim=16, bottleneck_dim=8)
SIMCLR = SimclrOptions(hidden_dim=16, out_dim=8)
NORMS = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
TRUST = 0.001


@pytest.fixture(params=[("dino", "test_vit"), ("simclr", "resnet18")], ids=lambda pair: "-".join(pair), scope="module")
def method(request) -> nn.Module:
    name, architecture = request.param
    options = {"dino": DINO, "simclr": SIMCLR}[name]
    return METHODS[name].load()(lambda drop: build_backbone(architecture, 32, drop), 0.0, options)


def trained(method: nn.Module) -> nn.Module:
    return method.network("student")


def members(groups: list[dict], **flags: bool) -> set[int]:
    chosen = [group for group in groups if all(group[key] == value for key, value in flags.items())]
    return {id(parameter) for group in chosen for parameter in group["params"]}


def test_every_trainable_parameter_is_in_exactly_one_group(method):
    grouped = [id(p) for group in parameter_groups(method, trained(method)) for p in group["params"]]
    trainable = [id(p) for p in method.parameters() if p.requires_grad]
    assert len(grouped) == len(set(grouped)) and set(grouped) == set(trainable)


def test_backbone_and_heads_are_apart(method):
    groups = parameter_groups(method, trained(method))
    inside = {id(p) for p in trained(method).parameters()}
    assert members(groups, backbone=True) == inside
    heads = members(groups, backbone=False)
    assert heads and not heads & inside


def test_biases_and_norms_are_never_decayed_and_matrices_and_kernels_are(method):
    groups = parameter_groups(method, trained(method))
    named = {name: p for name, p in method.named_parameters() if p.requires_grad}
    spared = {id(p) for name, p in named.items() if name.endswith("bias")}
    spared |= {id(p) for m in method.modules() if isinstance(m, NORMS) for p in m.parameters() if p.requires_grad}
    layers = [m for m in method.modules() if type(m) in (nn.Linear, nn.Conv2d)]
    weights = {id(p) for m in layers for p in m.parameters() if p.requires_grad} - spared
    assert spared and weights
    assert spared <= members(groups, decayed=False)
    assert weights <= members(groups, decayed=True)


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_weight_decay_reaches_the_decayed_groups_only_at_the_start_and_at_every_step(method, name):
    options = OptimOptions(name=name, weight_decay=0.04)
    optimizer = make_optimizer(parameter_groups(method, trained(method)), options)
    for decay in (0.04, 0.3):
        assert {g["weight_decay"] for g in optimizer.param_groups if g["decayed"]} == {decay}
        assert {g["weight_decay"] for g in optimizer.param_groups if not g["decayed"]} == {0.0}
        set_values(optimizer, {"lr": 0.1, "weight_decay": 0.3, "backbone_frozen": 0.0}, 1.0)


@pytest.mark.parametrize(("frozen", "share"), [(False, 0.1), (True, 0.0)])
def test_the_backbone_gets_its_share_of_the_learning_rate_or_none_while_frozen(method, frozen, share):
    optimizer = make_optimizer(parameter_groups(method, trained(method)), OptimOptions())
    set_values(optimizer, {"lr": 0.5, "weight_decay": 0.1, "backbone_frozen": float(frozen)}, 0.1)
    assert {g["lr"] for g in optimizer.param_groups if g["backbone"]} == {0.5 * share}
    assert {g["lr"] for g in optimizer.param_groups if not g["backbone"]} == {0.5}


def parameters_with_gradients() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((4, 5), (7,), (2, 3, 3, 3), (6,))]
    for parameter, scale in zip(parameters, (5.0, 0.01, 2.0, 0.0), strict=True):
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return [*parameters, nn.Parameter(torch.zeros(3))]


def test_each_gradient_is_clipped_as_torch_clips_it_alone():
    ours, theirs = parameters_with_gradients(), parameters_with_gradients()
    before = torch.cat([p.grad.flatten() for p in ours if p.grad is not None]).norm()
    returned = clip_each(torch.optim.SGD(ours, lr=1.0), 3.0)
    alone = [torch.nn.utils.clip_grad_norm_([p], 3.0) for p in theirs if p.grad is not None]
    assert max(alone) > 3 and min(alone) < 3
    for mine, reference in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(mine.grad, reference.grad)
    assert ours[-1].grad is None
    torch.testing.assert_close(returned, before)


def test_limit_zero_measures_and_changes_nothing():
    parameters = parameters_with_gradients()
    before = [p.grad.clone() for p in parameters[:-1]]
    returned = clip_each(torch.optim.SGD(parameters, lr=1.0), 0.0)
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(parameters[:-1], before, strict=True))
    torch.testing.assert_close(returned, torch.cat([gradient.flatten() for gradient in before]).norm())


def test_the_learning_rate_is_scaled_by_the_batch_warms_up_and_falls_on_a_cosine(pretrain, dataset, tmp_path):
    changes = {"optim__lr": "0.064", "optim__lr_end": "0.0005", "training__epochs": "4", "training__accumulation": "2"}
    assert pretrain(dataset, tmp_path / "run", **changes) == 0
    lr = np.array(list(metrics(tmp_path / "run", "lr").values()))
    steps, warmup, peak = len(lr), len(lr) // 4, 0.064 * 8 / 256
    cosine = 0.0005 + (peak - 0.0005) * (1 + np.cos(np.pi * np.arange(steps - warmup) / (steps - warmup))) / 2
    assert warmup >= 3
    np.testing.assert_allclose(lr, [*np.linspace(0, peak, warmup), *cosine], rtol=1e-5)


def test_momentum_temperature_and_weight_decay_follow_the_papers_schedules(pretrain, dataset, tmp_path):
    changes = {
        "training__epochs": "4",
        "optim__weight_decay": "0.04",
        "optim__weight_decay_end": "0.4",
        "dino__momentum": "0.9",
        "dino__warmup_teacher_temperature": "0.02",
        "dino__teacher_temperature": "0.05",
        "dino__warmup_teacher_epochs": "2",
    }
    assert pretrain(dataset, tmp_path / "run", **changes) == 0
    ours = {
        name: np.array(list(metrics(tmp_path / "run", name).values()))
        for name in ("weight_decay", "momentum", "teacher_temperature")
    }
    steps = len(ours["momentum"])
    down = (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2
    np.testing.assert_allclose(ours["weight_decay"], 0.4 - 0.36 * down, rtol=1e-5)
    np.testing.assert_allclose(ours["momentum"], 1 - 0.1 * down, rtol=1e-5)
    temperature = [*np.linspace(0.02, 0.05, steps // 2), *[0.05] * (steps // 2)]
    np.testing.assert_allclose(ours["teacher_temperature"], temperature, rtol=1e-5)


def lars_groups() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layer = nn.Linear(5, 4)
    groups = parameter_groups(layer, nn.Identity())
    return layer, make_optimizer(groups, OptimOptions(name="lars", lr=0.8, weight_decay=0.05))


def gradients(layer: nn.Linear, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(steps, *p.shape, generator=generator) for p in (layer.weight, layer.bias)]
    return list(zip(*draw, strict=True))


def test_lars_moves_a_decayed_weight_by_the_papers_formula():
    layer, optimizer = lars_groups()
    weight = layer.weight.detach().double().numpy().copy()
    velocity = np.zeros_like(weight)
    for of_weight, of_bias in gradients(layer, 4):
        layer.weight.grad, layer.bias.grad = of_weight.clone(), of_bias.clone()
        optimizer.step()
        gradient = of_weight.double().numpy()
        size = np.linalg.norm(weight)
        local = TRUST * size / (np.linalg.norm(gradient) + 0.05 * size)
        velocity = 0.9 * velocity + 0.8 * local * (gradient + 0.05 * weight)
        weight = weight - velocity
        np.testing.assert_allclose(layer.weight.detach().numpy(), weight, rtol=1e-5, atol=1e-7)


def test_lars_moves_biases_and_norms_by_plain_sgd_with_momentum():
    layer, optimizer = lars_groups()
    bias = nn.Parameter(layer.bias.detach().clone())
    plain = torch.optim.SGD([bias], lr=0.8, momentum=0.9)
    for of_weight, of_bias in gradients(layer, 4):
        layer.weight.grad, layer.bias.grad, bias.grad = of_weight.clone(), of_bias.clone(), of_bias.clone()
        optimizer.step()
        plain.step()
        torch.testing.assert_close(layer.bias, bias)
