"""Embedding: each image once, in manifest order, prepared as the encoder asks, whatever the number of ranks."""

import numpy as np
import pytest
import timm
import timm.data
import torch
from launched import Launched
from PIL import Image
from sklearn.decomposition import PCA

from dermeval.cli import main
from dermeval.features.embed import choose_precision, in_row_order
from dermeval.features.embeddings import open_embeddings
from dermeval.features.encoders import open_encoder
from dermssl.backbone.build import build as build_backbone
from dermssl.backbone.embedding import Pictures, preprocessing_at
from dermssl.backbone.encoder_folder import write_encoder
from dermssl.cli import main as dermssl
from dermssl.dataset.dataset import open_dataset
from dermssl.errors import InputError
from dermssl.files import sha256_file

SMALL = ["--image-size", "32", "--precision", "fp32", "--workers", "0"]


@pytest.fixture
def data(tmp_path, make_dataset, frame):
    return make_dataset(tmp_path / "data", frame, {}, size=40)


def test_features_are_those_of_timms_own_evaluation_pipeline_in_manifest_order(tmp_path, data):
    model = build_backbone("resnet18", 32)
    write_encoder(model, tmp_path / "run" / "encoder", "resnet18", preprocessing_at(32), [], "test", {"splits": "all"})
    assert main(["embed", "--encoder", str(tmp_path / "run"), "--data", str(data), "--out", str(tmp_path / "e")]) == 0

    model = timm.create_model(f"local-dir:{tmp_path / 'run' / 'encoder'}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    dataset = open_dataset(data)
    with torch.no_grad():
        images = torch.stack([transform(dataset.images.image(row)) for row in range(len(dataset))])
        expected = model(images).numpy()
    embeddings = open_embeddings(tmp_path / "e")
    assert embeddings.features.dtype == np.float32
    cosine = (embeddings.features * expected).sum(1) / np.linalg.norm(expected, axis=1)
    assert np.allclose(cosine / np.linalg.norm(embeddings.features, axis=1), 1, atol=1e-3)  # bf16 where it is native
    assert np.argmax(embeddings.features @ expected.T / np.linalg.norm(expected, axis=1), axis=1).tolist() == list(
        range(len(dataset))
    )
    assert embeddings.table["image_id"].to_pylist() == dataset.table["image_id"].to_pylist()


def test_two_ranks_write_what_one_rank_writes(tmp_path, data):
    arguments = ["embed", "--encoder", "random:resnet18@1", "--data", str(data), *SMALL]
    process = Launched(("-m", "dermeval"), [*arguments, "--out", str(tmp_path / "two")], ranks=2)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "2 processes" in told and told.count("images/s") == 1
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    one, two = open_embeddings(tmp_path / "one"), open_embeddings(tmp_path / "two")
    assert two.info["ranks"] == 2
    assert np.allclose(one.features, two.features, atol=1e-6)
    assert len(np.unique(one.features, axis=0)) == len(one)
    assert one.encoder == two.encoder


@pytest.mark.parametrize("encoder", ["random:resnet18", "pixels:5"])
def test_changed_images_that_a_worker_meets_are_told_in_one_line(tmp_path, data, encoder, capfd):
    dataset = open_dataset(data)
    row = dataset.column("split").tolist().index("train")
    shard, jpeg = data / "images-00000.arrow", bytes(dataset.images.jpeg(row))
    shard.write_bytes(shard.read_bytes().replace(jpeg, jpeg[:-9] + bytes([jpeg[-9] ^ 1]) + jpeg[-8:]))
    arguments = ["--encoder", encoder, "--data", str(data), "--image-size", "32", "--workers", "1"]
    assert main(["embed", *arguments, "--out", str(tmp_path / "e")]) == 2
    (told,) = (line for line in capfd.readouterr().err.splitlines() if "%|" not in line)
    assert told.startswith(f"dermeval: {data}: the stored image ")
    assert told.endswith(" was changed after it was written: run `dermssl prepare` again")


@pytest.mark.parametrize("rows", [[0, 1, 1], [0, 2, 3], [0, 1]])
def test_a_row_that_is_missing_or_doubled_is_never_written(rows):
    with pytest.raises(RuntimeError, match="exactly once"):
        in_row_order(np.array(rows), np.zeros((len(rows), 2)), range(3))


def test_pixels_are_scikit_learns_components_of_the_train_images(tmp_path, data):
    arguments = ["embed", "--encoder", "pixels:5", "--data", str(data), "--image-size", "8", "--workers", "0"]
    assert main([*arguments, "--out", str(tmp_path / "e")]) == 0
    dataset = open_dataset(data)
    encoder = open_encoder("pixels:5", 8)
    transform = timm.data.create_transform(**encoder.preprocessing)
    pixels = np.stack([transform(dataset.images.image(row)).numpy().ravel() for row in range(len(dataset))])
    pca = PCA(5, svd_solver="full").fit(pixels[dataset.column("split") == "train"])
    embeddings = open_embeddings(tmp_path / "e")
    # Randomized components approximate the exact ones; the leading variances agree closely.
    assert np.allclose(embeddings.features.std(0)[:2], pca.transform(pixels).std(0)[:2], rtol=0.1)
    assert embeddings.encoder["fit"]["images"] == (dataset.column("split") == "train").sum()


def test_the_fingerprint_tells_seeds_apart_and_is_the_same_for_the_same_seed():
    prints = [open_encoder(f"random:resnet18@{seed}", 32).record()["fingerprint"] for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


def test_pooled_data_sets_keep_their_order(tmp_path, make_dataset, frame):
    other = frame.head(5).copy()
    for column in ("image_id", "group_id", "case_id", "patient_id"):
        other[column] = other[column].str.replace("toy/", "other/")
    folders = [make_dataset(tmp_path / "a", frame, {}), make_dataset(tmp_path / "b", other, {})]
    arguments = ["embed", "--encoder", "pixels:4", "--data", *map(str, folders), "--out", str(tmp_path / "e"), *SMALL]
    assert main(arguments) == 0
    embeddings = open_embeddings(tmp_path / "e")
    assert embeddings.table["image_id"].to_pylist() == [*frame["image_id"], *other["image_id"]]
    assert np.allclose(embeddings.features[:5], embeddings.features[-5:], atol=1e-5)  # the noise images are the same


@pytest.mark.parametrize(
    ("encoder", "remedy"),
    [
        ("nowhere", "give a run folder"),
        ("random:resnet19", "did you mean 'resnet18'"),
        ("random:resnet18@one", "whole number"),
        ("timm:resnet18@nowhere.pth", "nowhere.pth is not a file"),
        ("pixels:many", "for example pixels:128"),
        ("pixels:4000", "fewer components"),
        ("pixels:99999999999999", "1 to 4800 components"),
        ("pixels:\u00b2", "for example pixels:128"),
        ("random:test_vit@" + "9" * 40, "whole number"),
        ("random:test_vit@\u00b2", "whole number"),
        ("random:vit_tiny_patch16_224", "divisible by patch size"),
    ],
)
def test_an_unusable_encoder_is_one_line_with_a_remedy(tmp_path, data, capsys, encoder, remedy):
    arguments = ["embed", "--encoder", encoder, "--data", str(data), "--out", str(tmp_path / "e"), "--workers", "0"]
    assert main([*arguments, "--image-size", "40"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert remedy in error
    assert not (tmp_path / "e").exists()


def test_weights_of_a_file_are_those_that_embed(tmp_path):
    theirs = timm.create_model("resnet18", num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    encoder = open_encoder(f"timm:resnet18@{tmp_path / 'w.pth'}", 32)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encoder(images), theirs.forward_head(theirs.forward_features(images), pre_logits=True))
    assert encoder.record()["fingerprint"] == sha256_file(tmp_path / "w.pth")
    with pytest.raises(InputError, match="do not fit resnet26"):
        open_encoder(f"timm:resnet26@{tmp_path / 'w.pth'}", 32)


def test_the_network_of_an_exported_encoder_may_be_named_too(tmp_path):
    """Its own normalisation, size and record of the training count, not those of timm's network of that name."""
    name, folder, facts = "vit_tiny_patch16_224", tmp_path / "exported", {"splits": "all"}
    write_encoder(build_backbone(name, 96), folder, name, preprocessing_at(96), [], "test", facts)
    encoder = open_encoder(f"timm:{name}@{folder / 'model.safetensors'}", None)
    assert encoder.record() == open_encoder(folder, None).record()
    assert encoder.image_size == 96 and encoder.origin["training"] == facts
    with pytest.raises(InputError, match=f"exported is of {name}: give --encoder {folder}"):
        open_encoder(f"timm:vit_small_patch16_224@{folder / 'model.safetensors'}", None)


def test_a_file_of_weights_says_by_itself_which_network_it_fits(tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    weights = {f"backbone.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"teacher": weights | {"head.last_layer.weight_g": torch.ones(1, 1)}}, tmp_path / "dino.pth")
    encoder = open_encoder(tmp_path / "dino.pth", None)  # a Path, as a notebook gives it
    assert encoder.origin["name"] == "vit_tiny_patch16_224" and encoder.image_size == 224
    assert encoder.preprocessing["mean"] == (0.485, 0.456, 0.406)  # DINO's, where timm's weights of that name have 0.5
    torch.save({"a": torch.ones(2)}, tmp_path / "unknown.pth")
    with pytest.raises(InputError, match="give it as timm:NAME@FILE"):
        open_encoder(str(tmp_path / "unknown.pth"), None)


def test_the_licence_of_a_files_weights_is_unknown_and_spreads(tmp_path, data, capsys):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    out = str(tmp_path / "e")
    assert main(["embed", "--encoder", str(tmp_path / "w.pth"), "--data", str(data), "--out", out, *SMALL]) == 0
    assert [entry["id"] for entry in open_embeddings(out).info["licences"]] == ["CC-BY-4.0", "unknown"]
    assert dermssl(["licence", out]) == 0
    assert "commercial use: not known, as no licence of weights w.pth is recorded" in capsys.readouterr().out


def test_of_a_very_long_picture_only_the_middle_is_enlarged(tmp_path, monkeypatch, make_dataset, make_frame):
    dataset = open_dataset(make_dataset(tmp_path / "d", make_frame(1, seed=0), {}))
    pictures = Pictures([dataset.images], open_encoder("random:resnet18", 32).preprocessing)
    enlarged = []
    for size in ((1, 65_000), (65_000, 2)):
        with monkeypatch.context() as patched:
            resize = pictures.transform.transforms[0]
            patched.setattr(type(resize), "forward", lambda _, image: enlarged.append(image.size) or image)
            pictures.prepare(Image.new("RGB", size))
        assert max(enlarged[-1]) <= 8 * min(enlarged[-1])
        assert pictures.prepare(Image.new("RGB", size)).shape == (1, 3, 32, 32)
    middle = Image.new("RGB", (8, 800))
    middle.paste((255, 255, 255), (0, 390, 8, 410))
    assert pictures.prepare(middle).float().mean() > 250


def test_an_encoder_that_gives_nan_is_refused_with_the_first_image(tmp_path, data, capsys, frame):
    model = build_backbone("resnet18", 32)
    torch.nn.init.constant_(next(model.parameters()), 3e38)  # the sums overflow
    write_encoder(model, tmp_path / "encoder", "resnet18", preprocessing_at(32), [], "test", {})
    arguments = ["embed", "--encoder", str(tmp_path / "encoder"), "--data", str(data), "--out", str(tmp_path / "e")]
    assert main(arguments) == 2
    assert frame["image_id"][0] in capsys.readouterr().err


def test_an_existing_folder_is_kept_unless_overwrite_is_given(tmp_path, data, capsys):
    arguments = ["embed", "--encoder", "pixels:4", "--data", str(data), "--out", str(tmp_path / "e"), *SMALL]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    for mine in ("features.mine.npy", "notes.json", "poetry.lock"):
        (tmp_path / "e" / mine).write_text("mine")
        assert main([*arguments, "--overwrite"]) == 2 and mine in capsys.readouterr().err
        (tmp_path / "e" / mine).unlink()


def test_bf16_on_a_device_without_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    with pytest.raises(InputError, match="use fp32"):
        choose_precision("bf16", torch.device("cpu"))


def test_pixels_are_fitted_on_images_without_a_split_too(tmp_path, make_dataset, frame):
    folder = make_dataset(tmp_path / "a", frame.assign(split=None), {})
    arguments = ["embed", "--encoder", "pixels:4", "--data", str(folder), "--out", str(tmp_path / "e"), *SMALL]
    assert main(arguments) == 0
    assert open_embeddings(tmp_path / "e").encoder["fit"]["images"] == len(frame)


def test_pixels_are_not_fitted_on_a_test_patients_images_without_a_split(tmp_path, make_dataset, frame):
    first = frame.groupby("group_id").cumcount() == 0
    folder = make_dataset(tmp_path / "a", frame.assign(split=frame["split"].where(first, None)), {})
    arguments = ["embed", "--encoder", "pixels:4", "--data", str(folder), "--out", str(tmp_path / "e"), *SMALL]
    assert main(arguments) == 0
    assert open_embeddings(tmp_path / "e").encoder["fit"]["images"] == (frame["split"] == "train").sum()


def test_pixels_are_not_fitted_on_test_images_alone(tmp_path, make_dataset, frame, capsys):
    folder = make_dataset(tmp_path / "a", frame.head(5).assign(split="test"), {})
    arguments = ["embed", "--encoder", "pixels:4", "--data", str(folder), "--out", str(tmp_path / "e"), *SMALL]
    assert main(arguments) == 2
    assert "but there are none" in capsys.readouterr().err.strip().splitlines()[-1]
