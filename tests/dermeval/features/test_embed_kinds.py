"""Kinds of features, further views and number types: what is written, what is recorded, what may be mixed."""

import json

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from timm.models.beit import Beit

from dermeval.cli import main
from dermeval.features.embed import VIEWS
from dermeval.features.embeddings import open_embeddings
from dermeval.features.encoders import Encoder, open_encoder
from dermssl.dataset.dataset import open_dataset

SMALL = ["--image-size", "32", "--precision", "fp32", "--workers", "0"]


@pytest.fixture
def data(tmp_path, make_dataset, make_frame):
    return make_dataset(tmp_path / "data", make_frame(4, seed=1), {}, size=40)


@pytest.fixture
def embed(tmp_path, data):
    """``embed(name, encoder, ...)`` writes an embeddings folder and returns it."""

    def run(name, encoder, *options):
        out = tmp_path / name
        assert main(["embed", "--encoder", encoder, "--data", str(data), "--out", str(out), *SMALL, *options]) == 0
        return out

    return run


def pixels_of(data, encoder, change=lambda image: image):
    dataset = open_dataset(data)
    transform = timm.data.create_transform(**encoder.preprocessing)
    return torch.stack([transform(change(dataset.images.image(row))) for row in range(len(dataset))])


@torch.inference_mode()
def block_by_block(model, images):
    """Normed tokens after every block of a vision transformer ``(blocks, B, N, D)``, without timm's readers."""
    tokens, found = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images)))), []
    for block in model.blocks:
        tokens = block(tokens)
        found.append(model.norm(tokens))
    return torch.stack(found)


def test_features_of_a_transformer_are_those_of_its_blocks_computed_by_hand(embed, data):
    encoder = open_encoder("random:test_vit@3", 32)
    blocks = block_by_block(encoder.model, pixels_of(data, encoder))
    expected = {
        "cls": blocks[-1, :, 0],
        "cls+mean": torch.cat([blocks[-1, :, 0], blocks[-1, :, 1:].mean(1)], dim=1),
        "last4": torch.cat([blocks[i, :, 0] for i in (-4, -3, -2, -1)], dim=1),
    }
    for kind, values in expected.items():
        embeddings = open_embeddings(embed(kind, "random:test_vit@3", "--features", kind))
        assert np.allclose(embeddings.features, values, atol=1e-5)
        assert embeddings.encoder["features"] == kind and embeddings.encoder["dim"] == values.shape[1]


def test_a_norm_behind_the_pooling_is_the_final_norm():
    model = Beit(img_size=32, patch_size=16, embed_dim=12, depth=4, num_heads=2, num_classes=0).eval()
    torch.nn.init.normal_(model.fc_norm.weight)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        both, last4 = (Encoder(model, {}, {}, kind)(images) for kind in ("cls+mean", "last4"))
        tokens = model.forward_features(images)
        assert torch.allclose(both[:, 12:], model(images))
        assert torch.allclose(both[:, :12], model.fc_norm(tokens[:, 0])) and torch.equal(both[:, :12], last4[:, -12:])


def test_last4_of_a_resnet_are_the_averages_of_its_stages(embed, data):
    encoder = open_encoder("random:resnet18", 32)
    model, images = encoder.model, pixels_of(data, encoder)
    with torch.inference_mode():
        x = model.maxpool(model.act1(model.bn1(model.conv1(images))))
        averages = [(x := stage(x)).mean((2, 3)) for stage in (model.layer1, model.layer2, model.layer3, model.layer4)]
    features = open_embeddings(embed("e", "random:resnet18", "--features", "last4")).features
    assert features.shape[1] == 64 + 128 + 256 + 512
    assert np.allclose(features, torch.cat(averages, dim=1), atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "kind", "words"),
    [
        ("random:resnet18", "cls+mean", "resnet18 has no class token"),
        ("random:vit_pwee_patch16_reg1_gap_256", "cls+mean", "gap_256 has no class token"),  # but a register token
        ("random:vit_pwee_patch16_reg1_gap_256", "last4", "gap_256 has no class token in its last"),
        ("random:xcit_nano_12_p16_224", "last4", "p16_224 has no class token in its last four blocks"),
        ("pixels:2", "last4", "use --features cls"),
        ("random:vit_tiny_patch16_224", "cls-mean", "cls+mean"),
    ],
)
def test_features_that_an_encoder_cannot_give_are_refused(tmp_path, data, capsys, encoder, kind, words):
    arguments = ["embed", "--encoder", encoder, "--data", str(data), "--out", str(tmp_path / "e"), *SMALL]
    assert main([*arguments, "--features", kind]) == 2
    assert words in capsys.readouterr().err


def test_views_are_features_of_the_changed_image_in_the_same_rows(embed, data):
    embeddings = open_embeddings(embed("e", "random:resnet18", "--views", "flip", "turn90", "zoom"))
    assert embeddings.info["views"] == ["flip", "turn90", "zoom"] == list(embeddings.views)
    encoder = open_encoder("random:resnet18", 32)
    for view, features in embeddings.views.items():
        with torch.inference_mode():
            expected = encoder(pixels_of(data, encoder, VIEWS[view]))
        assert np.allclose(features, expected, atol=1e-5)
        assert not np.allclose(features, embeddings.features, atol=1e-2)


def test_views_turn_and_crop_as_they_are_called():
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)
    seen = {name: np.asarray(view(Image.fromarray(pixels))) for name, view in VIEWS.items()}
    assert np.array_equal(seen["flip"], pixels[:, ::-1])
    for turns in (1, 2, 3):
        assert np.array_equal(seen[f"turn{90 * turns}"], np.rot90(pixels, turns))
    assert np.array_equal(seen["zoom"], pixels[3:17, 4:25])


def test_float16_is_the_rounded_float32(embed):
    full, half = (open_embeddings(embed(kind, "random:resnet18", "--dtype", kind)) for kind in ("float32", "float16"))
    assert half.features.dtype == np.float16 and half.info["dtype"] == "float16"
    assert np.array_equal(half.features, np.asarray(full.features).astype(np.float16))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("random:test_vit@2",), "fingerprint"),
        (("random:test_vit", "--image-size", "48"), "preprocessing"),
        (("random:test_vit", "--features", "last4"), "features"),
        (("random:test_vit", "--dtype", "float16"), "dtype"),
    ],
)
def test_probes_refuse_to_pool_features_made_in_different_ways(embed, capsys, changed, named):
    one, other = embed("one", "random:test_vit"), embed("other", *changed)
    for command in ("knn", "linear"):
        assert main([command, str(one), str(other)]) == 2
        assert f"{named}): embed both" in capsys.readouterr().err


def test_a_view_given_twice_is_refused(tmp_path, data, capsys):
    arguments = ["embed", "--encoder", "pixels:2", "--data", str(data), "--out", str(tmp_path / "e"), *SMALL]
    assert main([*arguments, "--views", "flip", "flip"]) == 2
    assert "twice" in capsys.readouterr().err


def test_views_with_other_rows_than_the_manifest_are_named(embed):
    folder = embed("e", "random:resnet18", "--views", "flip")
    np.save(folder / "features.flip.npy", np.zeros((1, 512), np.float32))
    with pytest.raises(Exception, match=r"features\.flip\.npy has shape"):
        open_embeddings(folder).views  # noqa: B018
    assert json.loads((folder / "embedding.json").read_text())["views"] == ["flip"]
