"""Pretrained weights: from the installed package or the hub, or one line with the offline remedy."""

import contextlib
import hashlib
import time

import httpx
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError

from dermssl.backbone import pretrained
from dermssl.backbone.build import build
from dermssl.errors import InputError

LITE0 = "tf_efficientnet_lite0"
installed = pytest.mark.skipif(
    pretrained.packaged_weights(LITE0) is None, reason="the extra `weights` is not installed"
)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


@installed
def test_the_packages_weights_are_imagenets():
    model = build(LITE0, 128, pretrained=True).eval()
    with torch.no_grad():
        features = model(torch.rand(2, 3, 128, 128))
    untrained = build(LITE0, 128).eval()
    assert features.shape == (2, 1280) and model.bn1.running_mean.abs().max() > 0
    assert not torch.equal(model.conv_stem.weight, untrained.conv_stem.weight)
    assert pretrained.PACKAGE in pretrained.describe_weights(LITE0)


def test_a_hub_that_does_not_answer_is_told_at_once_with_the_remedy():
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"--encoder timm:resnet18@FILE.*--model.init FILE"):
        build("resnet18", 32, pretrained=True)
    assert time.perf_counter() - start < 10


def test_gated_weights_name_the_page_where_their_terms_are(monkeypatch):
    def refuse(*_, **__):
        raise GatedRepoError("403", response=httpx.Response(403, request=httpx.Request("GET", "http://127.0.0.1:9")))

    monkeypatch.setattr("dermssl.backbone.build.hub_access", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(InputError, match=r"gated: accept their terms at http://127.0.0.1:9/timm/.*dinov3.*log in"):
        build("vit_small_patch16_dinov3", 32, pretrained=True)
    assert constants.HF_HUB_DISABLE_TELEMETRY


def test_an_unknown_tag_names_the_nearest():
    with pytest.raises(InputError, match=r"did you mean 'resnet18.a1_in1k'"):
        build("resnet18.a1_in1", 32)


def test_a_network_without_pretrained_weights_says_so():
    with pytest.raises(InputError, match="no pretrained weights of 'test_vit4"):
        build("test_vit4", 32, pretrained=True)


@pytest.mark.parametrize(
    ("name", "licence", "commercial"),
    [
        ("resnet18", "Apache-2.0", True),
        ("vit_base_patch16_clip_224.dfn2b", "unknown", False),
        ("vit_small_patch16_dinov3", "unknown", False),
        ("convnextv2_atto", "CC-BY-NC-4.0", False),
    ],
)
def test_the_licence_is_the_one_that_timm_states(name, licence, commercial):
    notice = pretrained.pretrained_notice(name)
    assert (notice["id"], notice["commercial"]) == (licence, commercial)


def test_a_file_has_no_licence_that_anybody_knows(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"weights")
    notice = pretrained.file_notice(tmp_path / "w.pth")
    assert hashlib.sha256(b"weights").hexdigest() in notice["attribution"]
    assert notice["id"] == "unknown" and not notice["commercial"] and not notice["redistribution"]
