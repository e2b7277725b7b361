"""Weights to start from and to hand on: heads, teacher and student kept or dropped."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block
from tiny_runs import CONVNET, arguments, metrics, saved_tensors
from torch.nn.modules.module import register_module_forward_pre_hook

from dermssl import licences
from dermssl.backbone.build import Normalisation, check_sizes, recompute_activations, write_out_attention
from dermssl.backbone.build import build as build_backbone
from dermssl.backbone.embedding import preprocessing_at
from dermssl.backbone.encoder_folder import load_encoder, write_encoder
from dermssl.backbone.pretrained import initial_facts
from dermssl.backbone.weights import load_weights, read_weights
from dermssl.cli import main
from dermssl.errors import InputError
from dermssl.methods.registry import METHODS, DinoOptions
from dermssl.training.networks import init_of, load_initial
from dermssl.training.options import ModelOptions


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "dino"
    assert main(arguments(dataset, out, training__epochs="1")) == 0
    return out


@pytest.fixture(scope="module")
def state(run):
    return load_file(sorted((run / "state").iterdir())[-1] / "model.safetensors")


def method(name: str = "dino", size: int = 32):
    options = DinoOptions(out_dim=32, hidden_dim=16, bottleneck_dim=8) if name == "dino" else METHODS[name]()
    return METHODS[name].load()(lambda drop: build_backbone("test_vit", size, drop), 0.0, options)


def start(into, init, part="encoder", size: int = 32) -> dict[str, torch.Tensor]:
    load_initial(into, ModelOptions(backbone="test_vit", init=str(init), init_part=part), size)
    return into.state_dict()


@pytest.mark.parametrize(("part", "source"), [("encoder", "teacher"), ("teacher", "teacher"), ("student", "student")])
def test_both_backbones_start_from_the_chosen_network_and_heads_anew(run, state, part, source):
    fresh = method()
    head = fresh.student_head.state_dict()["layers.0.weight"].clone()
    weights = start(fresh, run, part)
    for name in (n for n in state if n.startswith(f"{source}.")):
        inner = name.removeprefix(f"{source}.")
        assert torch.equal(weights[f"student.{inner}"], state[name])
        assert torch.equal(weights[f"teacher.{inner}"], state[name])
    assert torch.equal(weights["student_head.layers.0.weight"], head)


def test_all_of_a_run_is_taken_with_heads_and_centre(run, state):
    weights = start(method(), run, "all")
    assert weights.keys() == state.keys() and all(torch.equal(weights[name], state[name]) for name in state)


def test_heads_of_another_method_are_refused(run):
    with pytest.raises(InputError, match=r"does not fit .* test_vit, the method and its heads"):
        start(method("simclr"), run, "all")


def test_another_image_size_resamples_position_embeddings_and_nothing_else(run, state):
    weights = start(method(size=64), run)
    assert weights["student.pos_embed"].shape[1] > state["student.pos_embed"].shape[1]
    assert torch.equal(weights["student.patch_embed.proj.weight"], state["teacher.patch_embed.proj.weight"])


@pytest.mark.parametrize("kind", ["safetensors", "pth", "dino checkpoint"])
def test_weight_files_of_others_are_read(tmp_path, kind):
    theirs = build_backbone("test_vit", 32).state_dict()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(theirs, path)
    elif kind == "pth":
        torch.save(theirs | {"head.weight": torch.zeros(2, 2)}, path)
    else:
        inner = {f"module.backbone.{name}": value for name, value in theirs.items()}
        torch.save({"teacher": inner | {"module.head.mlp.weight": torch.zeros(2, 2)}, "epoch": 3}, path)
    weights = start(method(), path)
    assert all(torch.equal(weights[f"student.{name}"], value) for name, value in theirs.items())


def test_a_weight_file_of_a_convnext_keeps_its_last_norm(tmp_path):
    theirs = build_backbone("test_convnext", 32).state_dict()
    assert any(name.startswith("head.norm") for name in theirs)
    torch.save(theirs | {"head.fc.weight": torch.zeros(2, 2)}, tmp_path / "weights.pth")
    model = build_backbone("test_convnext", 32)
    load_weights(model, read_weights(tmp_path / "weights.pth"))
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


class Surprise:
    def __reduce__(self):
        return (print, ("code of the file was run",))


def test_code_in_a_weight_file_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": Surprise()}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="read safely"):
        start(method(), tmp_path / "weights.pth")
    assert "was run" not in capsys.readouterr().out


def test_weights_that_are_not_finite_are_refused(tmp_path):
    weights = build_backbone("test_vit", 32).state_dict()
    weights["norm.weight"][0] = float("nan")
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"norm\.weight holds values that are not finite"):
        start(method(), tmp_path / "weights.pth")


def test_a_run_can_go_on_from_all_of_another(run, pretrain, dataset, tmp_path):
    changes = {"training__epochs": "1", "model__init": str(run), "model__init_part": "all"}
    assert pretrain(dataset, tmp_path / "next", **changes) == 0
    last = metrics(run, "online_rankme")
    assert metrics(tmp_path / "next", "online_rankme")[0] == pytest.approx(last[max(last)], rel=1e-4)


def test_a_run_goes_on_without_the_weights_that_it_started_from_and_knows_what_they_have_seen(
    run, pretrain, dataset, tmp_path, monkeypatch
):
    earlier = tmp_path / "earlier"
    shutil.copytree(run, earlier)
    seen = pq.read_table(earlier / "ledger.parquet")
    names = pa.array(["other/1", "other/2"])
    others = seen.slice(0, 2).set_column(seen.column_names.index("image_id"), "image_id", names)
    pq.write_table(pa.concat_tables([seen, others], promote_options="permissive"), earlier / "ledger.parquet")
    config = json.loads((earlier / "encoder" / "config.json").read_text())
    config["dermssl"]["splits"] = "all"
    (earlier / "encoder" / "config.json").write_text(json.dumps(config))
    changes = {"training__epochs": "1", "model__init": str(earlier)}
    with monkeypatch.context() as patch:
        patch.setattr("dermssl.training.pretrain.finish_run", lambda *_: 1 / 0)
        assert pretrain(dataset, tmp_path / "run", **changes) == 1
    shutil.rmtree(earlier)
    assert pretrain(dataset, tmp_path / "run", **changes) == 0
    ledger = pq.read_table(tmp_path / "run" / "ledger.parquet").to_pandas()
    assert ledger["image_id"].is_unique and len(ledger) == len(seen) + 2
    assert list(ledger["image_id"])[-2:] == ["other/1", "other/2"]
    before = seen.to_pandas()["times_seen"]
    assert ledger["times_seen"].sum() == 2 * before.sum() + before[:2].sum()
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text()
    assert "It also lists the training images of the run that this one started from" in card
    assert "**Test rows were trained on** (`data.splits all`, in the run that this one started from)" in card
    assert load_encoder(tmp_path / "run" / "encoder")[1]["dermssl"]["splits"] == "all"


def test_another_patch_size_is_exported_with_the_encoder(pretrain, dataset, tmp_path):
    assert pretrain(dataset, tmp_path / "run", training__epochs="1", model__patch_size="8") == 0
    model, config = load_encoder(tmp_path / "run" / "encoder")
    assert model.patch_embed.patch_size == (8, 8) and config["model_args"]["patch_size"] == 8
    theirs = timm.create_model(f"local-dir:{tmp_path / 'run' / 'encoder'}", pretrained=True, num_classes=0).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), theirs(images))
    out = tmp_path / "student"
    assert main(["export", str(tmp_path / "run"), "--out", str(out), "--which", "student"]) == 0
    assert load_encoder(out)[0].patch_embed.patch_size == (8, 8)


def test_attention_written_out_gives_the_same_features_and_gradients():
    images, model = torch.rand(2, 3, 32, 32), build_backbone("test_vit", 32)
    fused = model(images)
    fused.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    write_out_attention(model)
    assert not any(module.fused_attn for module in model.modules() if hasattr(module, "fused_attn"))
    plain = model(images)
    plain.square().sum().backward()
    assert torch.allclose(fused, plain, atol=1e-5)
    assert all(torch.allclose(p.grad, g, atol=1e-4) for p, g in zip(model.parameters(), gradients, strict=True))


def test_a_patch_size_for_a_backbone_without_patches_is_refused():
    with pytest.raises(InputError, match=r"model.patch_size 8: 'resnet18' has no patches: leave it out"):
        build_backbone("resnet18", 32, patch_size=8)


def test_student_and_heads_are_exported(run, state, tmp_path):
    out = tmp_path / "student"
    assert main(["export", str(run), "--out", str(out), "--which", "student", "--heads"]) == 0
    model, config = load_encoder(out)
    assert all(torch.equal(value, state[f"student.{name}"]) for name, value in model.state_dict().items())
    assert config["dermssl"]["network"] == "student" and config["dermssl"]["licences"]
    heads = load_file(out / "heads.safetensors")
    assert heads and {name.partition(".")[0] for name in heads} == {"student_head", "teacher_head"}


def test_gradient_checkpointing_changes_memory_not_weights(run, pretrain, dataset, tmp_path, state):
    calls = {}
    for name, checkpointing in (("kept", "false"), ("recomputed", "true")):
        changes = {"training__epochs": "1", "model__gradient_checkpointing": checkpointing}
        with counted_blocks() as calls[name]:
            assert pretrain(dataset, tmp_path / name, **changes) == 0
    assert len(calls["recomputed"]) == 2 * len(calls["kept"]) > 0
    ours = load_file(sorted((tmp_path / "recomputed" / "state").iterdir())[-1] / "model.safetensors")
    assert all(torch.allclose(ours[name], state[name], atol=1e-6) for name in state)


def test_gradient_checkpointing_moves_batch_statistics_once(pretrain, dataset, tmp_path):
    changes = CONVNET | {"training__epochs": "1"}
    for name, checkpointing in (("kept", "false"), ("recomputed", "true")):
        assert pretrain(dataset, tmp_path / name, **changes, model__gradient_checkpointing=checkpointing) == 0
    kept, recomputed = (load_file(tmp_path / name / "encoder" / "model.safetensors") for name in ("kept", "recomputed"))
    statistics = [name for name in kept if name.endswith("running_mean")]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(recomputed[name], kept[name], rtol=1e-3, atol=1e-3)


@contextmanager
def counted_blocks() -> Iterator[list[str]]:
    """One entry for every time that a transformer's block computes what is trained."""
    calls = []

    def count(module, _):
        if isinstance(module, Block) and module.training and next(module.parameters()).requires_grad:
            calls.append(type(module).__name__)

    hook = register_module_forward_pre_hook(count)
    try:
        yield calls
    finally:
        hook.remove()


def test_a_backbone_without_gradient_checkpointing_says_so():
    with pytest.raises(InputError, match="gradient_checkpointing"):
        recompute_activations(torch.nn.Linear(2, 2))


def test_a_backbone_that_refuses_a_size_without_a_word_is_bad_input():
    class Silent(torch.nn.Linear):
        def forward(self, images):
            raise AssertionError

    with pytest.raises(InputError, match="cannot take crops of 50 px: AssertionError"):
        check_sizes(Silent(1, 1), [50])


@pytest.fixture
def hub(monkeypatch, tmp_path) -> dict[str, torch.Tensor]:
    """What timm's hub hands out while the test runs, a file of weights that no seed of ours gives."""
    create_model, generator = timm.create_model, torch.Generator().manual_seed(99)
    at_home = create_model("test_vit", num_classes=0).state_dict()
    given = {name: torch.randn(value.shape, generator=generator) / 9 for name, value in at_home.items()}
    save_file(given, tmp_path / "hub.safetensors")

    def create(name, pretrained=False, **options):
        overlay = {"file": str(tmp_path / "hub.safetensors"), "num_classes": 0}
        return create_model(name, pretrained, pretrained_cfg_overlay=overlay, **options)

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr("dermssl.backbone.pretrained._hub_answers", lambda: True)
    return given


def test_timms_weights_reach_both_backbones_and_the_step_before_training_is_scored(hub, pretrain, dataset, tmp_path):
    changes = {"model__init": "timm", "training__epochs": "1", "optim__freeze_backbone_epochs": "1"}
    assert pretrain(dataset, tmp_path / "run", **changes) == 0
    weights = saved_tensors(tmp_path / "run")
    here = {name: weights[f"student.{name}"].shape for name in hub}
    assert len(hub) > 20 and {name for name in hub if hub[name].shape != here[name]} == {"pos_embed"}
    resampled = resample_abs_pos_embed(hub["pos_embed"], [2, 2])
    for name, value in (hub | {"pos_embed": resampled}).items():
        torch.testing.assert_close(weights[f"student.{name}"], value)
        torch.testing.assert_close(weights[f"teacher.{name}"], value)
    record = json.loads((sorted((tmp_path / "run" / "state").iterdir())[-1] / "state.json").read_text())
    for name in ("online_knn_balanced_accuracy", "online_rankme"):
        scores = metrics(tmp_path / "run", name)
        assert min(scores) == 0 and scores[0] == pytest.approx(record["baseline"][name], rel=1e-5)
        assert scores[0] == pytest.approx(scores[max(scores)], rel=1e-3), "the backbone was frozen"
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text()
    assert (
        "| before training (step 0) | 0 |" in card and "started from the pretrained weights of test_vit (timm " in card
    )
    assert "(weights test_vit) may have seen test images" in card


def test_without_network_timms_weights_are_refused_in_one_line(pretrain, dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    assert pretrain(dataset, tmp_path / "run", model__init="timm") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(errors) == 1 and "cannot get pretrained weights of 'test_vit'" in errors[0]
    assert "run this command where there is a network" in errors[0] and "--model.init FILE" in errors[0]
    assert pretrain(dataset, tmp_path / "run", model__init=str(tmp_path / "no.pth")) == 2
    assert "no.pth does not exist: give a run, an exported encoder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_images_are_normalised_as_for_the_weights_that_a_run_starts_from(dataset, tmp_path):
    half = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    start, out, exported = tmp_path / "start", tmp_path / "run", tmp_path / "exported"
    notices = [licences.notice("weights", "CC-BY-NC-4.0", "Somebody.", synthetic=False)]
    write_encoder(build_backbone("test_vit", 32), start, "test_vit", preprocessing_at(32, half), notices, "test", {})
    command = arguments(dataset, out, training__epochs="1", model__init=str(start))
    assert main(command) == 0
    stated = initial_facts(str(start), "test_vit", out)["licences"]
    shutil.rmtree(start)  # the state knows it
    assert main(command) == 0 and main(["export", str(out), "--which", "student", "--out", str(exported)]) == 0
    for folder in (out / "encoder", exported):
        assert Normalisation.of(load_encoder(folder)[1]["pretrained_cfg"]) == half
    assert stated == notices
    known = initial_facts(str(start), "test_vit", out)["licences"]
    assert all(notice in known for notice in notices)  # the run states it too


def test_init_takes_the_words_that_the_encoder_of_embed_takes(tmp_path):
    given = {None: None, "timm": "timm", "run": "run", "timm:test_vit": "timm", "timm:test_vit@a@b.pth": "a@b.pth"}
    for init, meant in given.items():
        assert init_of(ModelOptions(backbone="test_vit", init=init)) == meant
    with pytest.raises(InputError, match=r"timm:resnet18: model\.backbone is test_vit: use the same"):
        init_of(ModelOptions(backbone="test_vit", init="timm:resnet18"))
    write_encoder(build_backbone("test_vit", 32), tmp_path, "test_vit", preprocessing_at(32), [], "test", {})
    file = tmp_path / "model.safetensors"  # stands for its folder, which says how images are normalised
    assert init_of(ModelOptions(backbone="test_vit", init=f"timm:test_vit@{file}")) == str(tmp_path)
