"""Continued pretraining: what is held of the start stays as it is, and interrupted runs end as uninterrupted ones."""

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import SIMCLR, assert_same_weights, metrics, saved_tensors, stop_after
from torch import nn

from dermssl.backbone.build import build as build_backbone
from dermssl.backbone.encoder_folder import load_encoder
from dermssl.backbone.low_rank import add_low_rank, merge_low_rank
from dermssl.errors import InputError
from dermssl.training.continued import Distilled, hold_start
from dermssl.training.optimizer import make_optimizer, parameter_groups, set_values
from dermssl.training.options import KeepOptions, OptimOptions

CONV = {key.replace(".", "__"): value for key, value in SIMCLR.items()} | {
    "model__backbone": "test_efficientnet",
    "model__drop_path": "0",
    "training__epochs": "1",
}
VIT = {"training__epochs": "1"}


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> dict[str, str]:
    """Files of weights that no seed of a run gives, with batch statistics that are not 0 and 1."""
    folder, files = tmp_path_factory.mktemp("starts"), {}
    for name in ("test_vit", "test_efficientnet"):
        torch.manual_seed(99)
        model = build_backbone(name, 32)
        for _ in range(3):
            model(torch.rand(8, 3, 32, 32))
        files[name] = str(folder / f"{name}.safetensors")
        save_file(model.state_dict(), files[name])
    return files


@pytest.fixture
def continued(pretrain, dataset, tmp_path, starts):
    """A run from `starts` with settings of `keep`; returns its folder."""

    def run(base: dict[str, str], name: str = "run", **changes: str):
        start = starts[base.get("model__backbone", "test_vit")]
        assert pretrain(dataset, tmp_path / name, **(base | changes), model__init=start) == 0
        return tmp_path / name

    return run


def students(run, attribute: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(f"{attribute}."): value
        for name, value in saved_tensors(run).items()
        if name.startswith(f"{attribute}.")
    }


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_each_layer_gets_its_share_of_the_rate_of_the_layer_after_it(name):
    method = nn.ModuleDict({"backbone": build_backbone(name, 32), "head": nn.Linear(4, 4)})
    optimizer = make_optimizer(parameter_groups(method, method["backbone"], 0.5), OptimOptions())
    set_values(optimizer, {"lr": 0.8, "weight_decay": 0.1, "backbone_frozen": 0.0}, 0.25)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates.pop(id(p)) for name, p in method.named_parameters()}
    assert not rates and named["head.weight"] == 0.8
    layers = {
        "test_vit": ["patch_embed.proj", *(f"blocks.{number}.norm1" for number in range(6))],
        "test_efficientnet": ["conv_stem", *(f"blocks.{number}.0.bn1" for number in range(2))],
    }
    for before, after in itertools.pairwise(f"backbone.{layer}.weight" for layer in layers[name]):
        assert named[after] == pytest.approx(2 * named[before])
    assert max(rate for name, rate in named.items() if name != "head.weight" and name != "head.bias") == 0.2
    assert {g["decayed"] for g in optimizer.param_groups if min(p.ndim for p in g["params"]) > 1} == {True}


def test_frozen_layers_keep_weights_and_statistics_and_the_others_move(continued, starts):
    start = load_file(starts["test_efficientnet"])
    weights = students(continued(CONV, keep__frozen_layers="2"), "backbone")
    still = {name for name in start if torch.equal(start[name], weights[name])}
    first = {name for name in start if name.startswith(("conv_stem.", "bn1.", "blocks.0."))}
    assert first and still == first


def test_frozen_batch_norm_keeps_the_starts_statistics_while_scales_learn(continued, starts):
    start = load_file(starts["test_efficientnet"])
    weights = students(continued(CONV, keep__frozen_batch_norm="true"), "backbone")
    still = {name for name in start if torch.equal(start[name], weights[name])}
    assert still == {name for name in start if "running_" in name or "num_batches" in name}


def test_only_adapters_and_heads_learn_and_the_encoder_contains_the_adapters(continued, starts, tmp_path):
    start, run = load_file(starts["test_vit"]), continued(VIT, keep__adapter_rank="2")
    weights = students(run, "student")
    changed = {name for name in start if not torch.equal(weights.get(name, start[name]), start[name])}
    original = {name: value for name, value in weights.items() if name.endswith(".original")}
    assert original and not changed
    for name, value in original.items():
        assert torch.equal(value, start[name.replace("parametrizations.weight.original", "weight")])
    moments = load_file(sorted((run / "state").iterdir())[-1] / "optimizer.safetensors")
    assert {name.split(".")[0] for name in moments if ".parametrizations." not in name} == {"student_head"}
    encoder, _ = load_encoder(run / "encoder")
    teacher = merge_low_rank(students(run, "teacher"))
    assert all(torch.equal(value, teacher[name]) for name, value in encoder.state_dict().items())
    assert not torch.equal(teacher["blocks.0.attn.qkv.weight"], start["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_merged_weights_give_the_features_of_the_backbone_with_adapters(name):
    backbone, plain, images = build_backbone(name, 32).eval(), build_backbone(name, 32).eval(), torch.rand(2, 3, 32, 32)
    before = backbone(images)
    add_low_rank(backbone, 2, seed=0, option="keep.adapter_rank")
    torch.testing.assert_close(backbone(images), before)
    learned = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.data += 0.1 * torch.randn_like(parameter)
    plain.load_state_dict(merge_low_rank(backbone.state_dict()))
    torch.testing.assert_close(plain(images), backbone(images))
    assert not torch.allclose(plain(images), before, atol=1e-3)
    assert sum(p.numel() for p in learned) < 0.25 * sum(p.numel() for p in plain.parameters())


class Constant(nn.Module):
    """A method whose loss is the mean of its student's features."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.start = nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(12, 12))

    def forward(self, views, at):
        features = self.student(views[0].flatten(0, 1))
        self.student(views[1].flatten(0, 1))  # local crops are not compared with the start
        return features.mean(), {}


def test_the_distillation_loss_is_the_mean_of_one_minus_cosine_on_global_crops():
    method = Constant()
    views = [torch.randn(2, 3, 3, 2, 2), torch.randn(4, 3, 3, 1, 1)]
    loss, stats = Distilled(method, method.student, weight=3.0)(views, {})
    ours, theirs = views[0].flatten(0, 1).flatten(1).numpy(), method.start(views[0].flatten(0, 1)).detach().numpy()
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert loss.item() == pytest.approx(ours.mean() + 3 * (1 - cosine).mean(), rel=1e-4)
    assert stats["loss"].item() == pytest.approx(ours.mean(), rel=1e-4)
    assert stats["start_distance"].item() == pytest.approx((1 - cosine).mean(), rel=1e-4)


def test_distillation_holds_the_features_near_the_start(continued):
    last = {}
    for weight in ("0.0001", "100"):
        changes = CONV | {"keep__frozen_batch_norm": "true", "optim__lr": "0.05", "training__epochs": "2"}
        distances = metrics(continued(changes, name=weight, keep__distillation=weight), "start_distance")
        last[weight] = distances[max(distances)]
    assert last["100"] < 0.5 * last["0.0001"]


ALL = {"keep__distillation": "1", "keep__layer_decay": "0.7"}
FROZEN = {"keep__frozen_batch_norm": "true"}


@pytest.mark.parametrize(
    "further", [{"keep__frozen_layers": "1"}, {"keep__adapter_rank": "2"}], ids=["layers", "adapters"]
)
@pytest.mark.parametrize("base", [VIT, CONV | FROZEN], ids=["dino", "simclr"])
def test_interrupted_equals_uninterrupted_also_without_the_start(
    base, further, continued, pretrain, dataset, tmp_path, starts, monkeypatch
):
    changes = base | ALL | further
    whole = continued(changes, name="whole")
    gone = tmp_path / "gone.safetensors"
    save_file(load_file(starts[base.get("model__backbone", "test_vit")]), gone)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert pretrain(dataset, tmp_path / "run", **changes, model__init=str(gone)) == 1
    gone.unlink()
    assert pretrain(dataset, tmp_path / "run", **changes, model__init=str(gone)) == 0
    assert_same_weights(tmp_path / "run", whole)


def test_a_run_that_held_its_start_can_be_started_from_as_any_other(continued, pretrain, dataset, tmp_path):
    earlier = continued(VIT, name="earlier", keep__adapter_rank="2", keep__distillation="1")
    changes = VIT | {"model__init": str(earlier), "model__init_part": "all", "keep__frozen_layers": "1"}
    assert pretrain(dataset, tmp_path / "run", **changes) == 0
    merged, weights = merge_low_rank(students(earlier, "student")), students(tmp_path / "run", "student")
    assert torch.equal(weights["patch_embed.proj.weight"], merged["patch_embed.proj.weight"])
    config = json.loads((tmp_path / "run" / "encoder" / "config.json").read_text())
    assert config["architecture"] == "test_vit"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep__distillation": "1"}, "keep.distillation needs weights to start from: give model.init"),
        ({"keep__frozen_layers": "1"}, "keep.frozen_layers needs weights"),
        ({"keep__layer_decay": "0"}, "keep.layer_decay 0 would freeze all layers of the backbone but the last"),
    ],
)
def test_settings_of_keep_that_make_no_sense_are_one_line(changes, words, pretrain, dataset, tmp_path, capsys):
    assert pretrain(dataset, tmp_path / "run", **changes) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "keep", "words"),
    [
        ("test_vit", KeepOptions(frozen_batch_norm=True), "the backbone has no BatchNorm: leave it out"),
        ("test_efficientnet", KeepOptions(frozen_layers=99), r"keep.frozen_layers 99: the backbone has \d layers"),
        ("test_efficientnet", KeepOptions(adapter_rank=9999), "no layer for adapters of that rank: lower it"),
    ],
)
def test_more_than_the_backbone_has_is_refused(name, keep, words):
    with pytest.raises(InputError, match=words):
        hold_start([build_backbone(name, 32)], keep, seed=0)
