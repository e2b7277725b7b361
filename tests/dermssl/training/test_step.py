"""A step that was not finite leaves nothing behind; what a rank feeds its networks is enough for them."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import CONVNET, gradients_of_steps, metrics

from dermssl.backbone.build import build as build_backbone
from dermssl.backbone.build import width
from dermssl.training import networks
from dermssl.training import pretrain as loop
from dermssl.training.optimizer import Buffers
from dermssl.training.options import DataOptions, KeepOptions, ModelOptions, PretrainOptions, TrainingOptions
from dermssl.views.recipe import ViewOptions


def test_buffers_are_put_back_as_they_were():
    network = build_backbone("resnet18", 32)
    buffers = Buffers(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    buffers.keep()
    network.train()(torch.full((2, 3, 32, 32), float("nan")))
    assert not torch.isfinite(network.bn1.running_mean).all()
    buffers.put_back()
    counted = {name for name in before if name.endswith("num_batches_tracked")}
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before.keys() - counted)


def test_a_batch_of_nan_leaves_running_statistics_clean_and_the_run_goes_on(pretrain, dataset, tmp_path, monkeypatch):
    calls, to_views = [], loop.to_views

    def broken_once(*arguments):
        views = to_views(*arguments)
        calls.append(1)
        if len(calls) == 2:
            views[0].fill_(float("nan"))
        return views

    monkeypatch.setattr(loop, "to_views", broken_once)
    assert pretrain(dataset, tmp_path / "run", **CONVNET) == 0
    state = load_file(sorted((tmp_path / "run" / "state").iterdir())[-1] / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in state.values())
    assert len(metrics(tmp_path / "run")) >= 3


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet18"])
def test_statistics_shared_by_several_gpus_keep_the_network(name):
    gpus = SimpleNamespace(num_processes=2, device=torch.device("cuda"), is_main_process=True)
    model, images = build_backbone(name, 32).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model(images)
        shared = networks.share_statistics(model, PretrainOptions("run", DataOptions(["data"])), gpus)
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in shared.modules())
        assert torch.allclose(shared.eval()(images), before, atol=1e-5)


def test_statistics_stay_local_where_that_is_asked():
    gpus = SimpleNamespace(num_processes=2, device=torch.device("cuda"), is_main_process=True)
    options = PretrainOptions("run", DataOptions(["data"]), training=TrainingOptions(sync_batch_norm=False))
    kept = networks.share_statistics(build_backbone("resnet18", 32), options, gpus)
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in kept.modules())


def test_heads_share_statistics_though_those_of_the_backbone_are_frozen(tmp_path):
    gpus = SimpleNamespace(num_processes=2, device=torch.device("cuda"), is_main_process=True, mixed_precision="no")
    save_file(build_backbone("test_efficientnet", 32).state_dict(), tmp_path / "start.safetensors")
    options = PretrainOptions(
        str(tmp_path / "run"),
        DataOptions(["data"]),
        method="simclr",
        model=ModelOptions("test_efficientnet", init=str(tmp_path / "start.safetensors"), drop_path=0.0),
        views=ViewOptions(global_size=32, local_count=0),
        keep=KeepOptions(frozen_batch_norm=True),
    )
    method, _ = networks.make_method(options, gpus)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in method.head.modules())


def test_no_parameter_moves_by_a_gradient_above_the_limit(pretrain, dataset, tmp_path):
    with gradients_of_steps() as steps:
        assert pretrain(dataset, tmp_path / "run", optim__clip="0.001", training__epochs="1") == 0
    norms = torch.stack([gradient.norm() for gradients in steps for gradient in gradients])
    assert norms.max() == pytest.approx(0.001, rel=1e-3)


def test_settings_of_accelerate_divide_no_gradient(pretrain, dataset, tmp_path, monkeypatch):
    found = []
    for steps in ("1", "4"):
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", steps)
        with gradients_of_steps() as taken:
            assert pretrain(dataset, tmp_path / steps, optim__clip="0", training__epochs="1") == 0
        found.append(taken[0])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_stochastic_depth_is_drawn_anew_in_every_step_micro_step_and_rank():
    places = list(itertools.product(range(2), range(3), range(2), range(2)))
    assert len({loop.drop_path_seed(*place) for place in places}) == len(places)


def test_one_view_for_batch_norm_is_one_line(pretrain, dataset, tmp_path, capsys):
    changes = CONVNET | {"method": "dino", "views__local_count": "1", "training__batch": "1"}
    assert pretrain(dataset, tmp_path / "run", **changes) == 2
    assert "too few for BatchNorm: raise it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_local_crops_as_large_as_global_ones_stay_the_students(pretrain, dataset, tmp_path, monkeypatch):
    shapes = []

    def watched(*arguments):
        views = to_views(*arguments)
        shapes.append([tuple(view.shape[:2]) for view in views])
        return views

    to_views = loop.to_views
    monkeypatch.setattr(loop, "to_views", watched)
    assert pretrain(dataset, tmp_path / "run", views__local_size="32", training__epochs="1") == 0
    assert shapes[0] == [(2, 8), (1, 8)]


@pytest.mark.parametrize(
    ("name", "words"), [("vgg11", "'vgg11' has no stochastic depth: set model.drop_path 0"), ("vgg1", "did you mean")]
)
def test_backbones_that_cannot_be_had_so_are_one_line(name, words, pretrain, dataset, tmp_path, capsys):
    assert pretrain(dataset, tmp_path / "run", model__backbone=name, model__drop_path="0.1") == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_width_is_what_a_backbone_gives_and_not_its_last_map():
    model = build_backbone("mobilenetv3_small_050", 32).eval()
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, width(model)) and width(model) == 1024


def test_every_step_moves_the_teacher_and_the_centre_and_the_last_layer_only_once_thawed(
    pretrain, dataset, tmp_path, monkeypatch
):
    seen, one_step = [], loop.one_step

    def watched(run, *rest):
        before = {name: value.clone() for name, value in run.method.state_dict().items()}
        step = one_step(run, *rest)
        seen.append((before, {name: value.clone() for name, value in run.method.state_dict().items()}, step[0]))
        return step

    monkeypatch.setattr(loop, "one_step", watched)
    assert pretrain(dataset, tmp_path / "run", dino__freeze_last_layer_epochs="1", training__epochs="2") == 0
    assert len(seen) == 6
    for number, (before, after, values) in enumerate(seen):
        for name in (name for name in before if name.startswith("teacher")):
            student = after[name.replace("teacher", "student", 1)]
            by_hand = values["momentum"] * before[name] + (1 - values["momentum"]) * student
            torch.testing.assert_close(after[name], by_hand)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert "loss.center" in changed
        assert ("student.blocks.0.attn.qkv.weight" in changed) == (values["lr"] > 0)
        assert any(name.startswith("student_head.last_layer") for name in changed) == (number >= 3)
