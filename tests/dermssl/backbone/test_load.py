"""An encoder folder that somebody else made reaches timm by its sizes only."""

import json

import pytest
import torch

from dermssl.backbone.build import build
from dermssl.backbone.embedding import preprocessing_at
from dermssl.backbone.encoder_folder import folder_of, load_encoder, write_encoder
from dermssl.backbone.weights import load_weights, read_weights
from dermssl.errors import InputError


@pytest.fixture
def folder(tmp_path):
    write_encoder(build("test_vit", 32), tmp_path / "e", "test_vit", preprocessing_at(32), [], "test", {"step": 1})
    return tmp_path / "e"


def change(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_folder_may_be_a_path_or_a_text(folder):
    assert all(load_encoder(given)[1]["architecture"] == "test_vit" for given in (folder, str(folder)))


@pytest.mark.parametrize(
    ("entries", "key"),
    [
        ({"architecture": "hf-hub:someone/model"}, "architecture"),
        ({"architecture": "local-dir:/etc"}, "architecture"),
        ({"architecture": "https://example.org/x"}, "architecture"),
        ({"architecture": 3}, "architecture"),
        ({"architecture": "no_such_model"}, "no_such_model"),
        ({"model_args": {"checkpoint_path": "/tmp/x.pth"}}, "checkpoint_path"),
        ({"model_args": {"pretrained_cfg": {"url": "https://example.org"}}}, "pretrained_cfg"),
        ({"model_args": {"pretrained": True}}, "pretrained"),
        ({"model_args": {"img_size": 10**9}}, "img_size"),
        ({"model_args": {"img_size": "224"}}, "img_size"),
        ({"model_args": {"dynamic_img_size": "yes"}}, "dynamic_img_size"),
        ({"model_args": [224]}, "model_args"),
        ({"pretrained_cfg": None}, "pretrained_cfg"),
        ({"dermssl": "mine"}, "dermssl"),
    ],
)
def test_what_is_no_name_and_no_size_never_reaches_timm(folder, monkeypatch, entries, key):
    change(folder, **entries)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("timm was asked"))
    with pytest.raises(InputError, match=key) as refusal:
        load_encoder(folder)
    assert str(folder) in str(refusal.value) and "\n" not in str(refusal.value)


def test_weights_that_were_cut_or_swapped_are_one_line(folder, tmp_path):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="holds no weights that can be read"):
        load_encoder(folder)
    write_encoder(build("test_vit2", 32), tmp_path / "other", "test_vit2", preprocessing_at(32), [], "test", {})
    path.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="do not fit test_vit") as refusal:
        load_encoder(folder)
    assert "\n" not in str(refusal.value)
    change(folder, architecture="vit_giant_patch14_dinov2")  # minutes and gigabytes, were it built
    with pytest.raises(InputError, match="another number of weights"):
        load_encoder(folder)


def test_weights_whose_numbers_were_changed_are_one_line(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x11")
    with pytest.raises(InputError, match=r"model\.safetensors was changed after it was written: run `dermssl pre"):
        load_encoder(folder)
    change(folder, sha256=None)
    load_encoder(folder)  # older versions recorded no hash


def test_weights_that_are_not_finite_are_one_line(tmp_path):
    model = build("test_vit", 32)
    model.norm.weight.data[0] = float("nan")
    write_encoder(model, tmp_path / "e", "test_vit", preprocessing_at(32), [], "test", {})
    with pytest.raises(InputError, match=r"model\.safetensors: norm\.weight holds values that are not finite"):
        load_encoder(tmp_path / "e")


def test_an_image_size_that_the_patches_do_not_divide_is_one_line(folder):
    change(folder, model_args={"img_size": 33, "dynamic_img_size": True, "patch_size": 5})
    with pytest.raises(InputError, match="do not fit test_vit"):
        load_encoder(folder)


def test_the_file_of_an_exported_encoder_stands_for_its_folder(folder, tmp_path):
    assert folder_of(folder / "model.safetensors") == folder
    assert folder_of(tmp_path / "model.safetensors") == tmp_path / "model.safetensors"  # no config beside it


def test_the_weights_of_a_state_are_not_taken_without_what_the_run_knows_of_them(folder):
    (folder / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"model\.safetensors is the state of a run: give the run folder"):
        read_weights(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change_of", "why"),
    [(lambda value: value.to(torch.int8), "holds torch.int8 numbers"), (lambda value: value / 0, "is not finite")],
)
def test_numbers_that_are_no_weights_are_refused(change_of, why):
    model = build("test_vit", 32)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    weights["norm.weight"] = change_of(weights["norm.weight"])
    with pytest.raises(RuntimeError, match=f"'norm.weight' {why}"):
        load_weights(model, weights)
