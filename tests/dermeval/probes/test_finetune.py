"""Fine-tuning: the encoder learns the target on training patients alone, and is judged as every probe is."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dermeval.cli import main
from dermeval.features.encoders import open_encoder
from dermeval.probes import finetune as probe
from dermeval.probes.finetune import FinetuneProbe, TrainingPictures, trained_blocks
from dermeval.probes.folds import Fold
from dermeval.probes.options import FinetuneOptions
from dermssl.backbone.embedding import batches_of_pictures
from dermssl.dataset.dataset import open_dataset
from dermssl.errors import InputError
from dermssl.files import read_parquet, write_parquet

FAST = ["--image-size", "32", "--epochs", "4", "--batch", "16", "--lr", "0.01", "--head-lr", "0.01", "--draws", "40"]


@pytest.fixture
def coloured(make_picture_dataset):
    """Two classes, told apart by colour; 32 patients with an image each, and a fourth of them in test."""
    random = np.random.default_rng(0)
    labels = ["red" if number % 2 else "green" for number in range(32)]
    images = []
    for label in labels:
        pixels = random.integers(0, 80, (40, 40, 3), dtype=np.uint8)
        pixels[..., 0 if label == "red" else 1] += 150
        images.append(Image.fromarray(pixels))
    splits = ["test" if number % 8 < 2 else "train" for number in range(32)]
    return make_picture_dataset("tiny", images, [f"P{number}" for number in range(32)], splits, labels)


def finetune(data, out, *options):
    arguments = ["finetune", "--encoder", "random:test_resnet", "--data", str(data), "--out", str(out), *FAST, *options]
    assert main(arguments) == 0
    return json.loads((out / "result.json").read_text())


def test_it_learns_the_target_and_compares_with_other_probes(tmp_path, coloured, embed_as, capsys, caplog):
    caplog.set_level("INFO", "dermssl")
    result = finetune(coloured, tmp_path / "tuned")
    assert result["levels"]["image"]["scores"]["balanced_accuracy"]["value"] == 1.0
    assert result["counts"]["scored"] == 8 and result["probe"] == "finetune"
    assert "kept-out training patients: epoch" in capsys.readouterr().out
    assert "official split: best epoch" in caplog.text and "fold 0" not in caplog.text
    noise = embed_as(coloured, np.random.default_rng(1).normal(size=(32, 4)))
    assert main(["knn", str(noise), "--k", "3", "--draws", "40", "--out", str(tmp_path / "knn")]) == 0
    assert main(["compare", str(tmp_path / "knn"), str(tmp_path / "tuned"), "--draws", "40"]) == 0


def test_each_epoch_and_fold_and_seed_has_its_own_views_and_worker_processes_change_none(coloured):
    images, preprocessing = open_dataset(coloured).images, open_encoder("random:test_resnet", 32).preprocessing

    def views(*seeds, workers=0):
        pictures = TrainingPictures([images], preprocessing, seeds)
        return torch.cat([batch for _, batch in batches_of_pictures(pictures, [[0, 1], [2, 3]], workers)])

    state = torch.get_rng_state()
    first = views(0, 0, 1)
    assert torch.equal(torch.get_rng_state(), state), "dropout draws from the same numbers with and without workers"
    assert torch.equal(first, views(0, 0, 1, workers=1))
    assert not any(torch.equal(first, views(*seeds)) for seeds in ((0, 0, 2), (0, 1, 1), (1, 0, 1)))


def test_a_command_killed_after_its_only_fold_goes_on_without_training_again(tmp_path, coloured, monkeypatch):
    trained, train = [], FinetuneProbe._train

    def counted(self, *arguments):
        trained.append(1)
        return train(self, *arguments)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(FinetuneProbe, "_train", counted)
    with monkeypatch.context() as patched, pytest.raises(AssertionError):
        patched.setattr("dermeval.probes.finetune.collect", killed)
        finetune(coloured, tmp_path / "tuned")
    assert finetune(coloured, tmp_path / "tuned")["counts"]["scored"] == 8 and len(trained) == 1


def test_the_test_labels_change_nothing_that_is_predicted(tmp_path, coloured):
    tables = []
    for name in ("true", "turned"):
        if name == "turned":
            table = read_parquet(coloured / "manifest.parquet", "").to_pandas()
            test = table["split"] == "test"
            table.loc[test, "dx"] = table.loc[test, "dx"].to_numpy()[::-1]
            old = read_parquet(coloured / "manifest.parquet", "")
            column = old.schema.get_field_index("dx")
            write_parquet(coloured / "manifest.parquet", old.set_column(column, "dx", [table["dx"].tolist()]))
        finetune(coloured, tmp_path / name, "--epochs", "2")
        tables.append(pd.read_parquet(tmp_path / name / "predictions.parquet"))
    assert tables[0].filter(like="p_").equals(tables[1].filter(like="p_"))
    assert not tables[0]["y_true"].equals(tables[1]["y_true"])


@pytest.mark.parametrize(("train", "names"), [("all", None), ("head", set()), ("last", {"layer3", "layer4"})])
def test_only_what_was_asked_for_is_trained(train, names):
    options = FinetuneOptions(encoder="random:resnet10t", data=[], train=train)
    model, _, _ = FinetuneProbe(options, open_encoder("random:resnet10t", 32), []).new_model(3)
    tuned = {name.split(".")[0] for name, weight in model[0].named_parameters() if weight.requires_grad}
    everything = {name.split(".")[0] for name, _ in model[0].named_parameters()}
    assert tuned == (everything if names is None else names)
    assert all(weight.requires_grad for weight in model[1].parameters())


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_adapters_start_as_the_encoder_and_only_they_and_the_classifier_learn(name):
    options = FinetuneOptions(encoder=f"random:{name}", data=[], train="adapters", adapter_rank=2)
    encoder = open_encoder(options.encoder, 32)
    model, optimizer, _ = FinetuneProbe(options, encoder, []).new_model(3)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.eval()
    torch.testing.assert_close(model[0](images), encoder.model(images))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved - {"1.weight", "1.bias"}
    assert all(key.startswith("1.") or key.endswith((".0.up", ".0.down")) for key in moved)


def test_adapters_learn_the_target(tmp_path, coloured):
    result = finetune(coloured, tmp_path / "tuned", "--train", "adapters", "--adapter-rank", "4", "--head-lr", "0.1")
    assert result["levels"]["image"]["scores"]["balanced_accuracy"]["value"] == 1.0
    assert (result["settings"]["train"], result["settings"]["adapter_rank"]) == ("adapters", 4)


def test_what_cannot_be_trained_is_refused(tmp_path, coloured, capsys):
    assert main(["finetune", "--encoder", "pixels:4", "--data", str(coloured)]) == 2
    assert "has no weights to train" in capsys.readouterr().err
    adapters = ["--train", "adapters", "--adapter-rank", "4000"]
    assert main(["finetune", "--encoder", "random:test_resnet", "--data", str(coloured), *adapters]) == 2
    assert "--adapter-rank 4000: the backbone has no layer" in capsys.readouterr().err
    with pytest.raises(InputError, match="--last 9: random:test_resnet has 4 blocks: use --train all"):
        options = FinetuneOptions(encoder="random:test_resnet", data=[], train="last", last=9)
        trained_blocks(open_encoder("random:test_resnet", 32).model, options)
    with pytest.raises(InputError, match="no blocks to count"):
        trained_blocks(open_encoder("pixels:2", 8).model, FinetuneOptions(encoder="x", data=[], train="last"))


def test_as_many_patients_are_kept_out_as_asked_for(tmp_path, coloured, capsys):
    for share, kept in (("0.5", 12), ("0.4", 10), ("0.2", 5)):  # 24 training patients with one image each
        result = finetune(coloured, tmp_path / share, "--held-out", share, "--epochs", "1")
        (said,) = result["settings"]["early_stopping"]
        assert abs(said["kept_out"] - kept) <= 1 and said["trained"] + said["kept_out"] == 24
    assert main(["finetune", "--encoder", "random:test_resnet", "--data", str(coloured), "--held-out", "0.7"]) == 2
    assert "--held-out 0.7: at most 0.5 can be kept out of training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("unused", "words"),
    [
        ({"last": 3}, "--last counts only with --train last"),
        ({"adapter_rank": 4, "train": "last"}, "--adapter-rank counts only with --train adapters"),
        ({"lr": 1e-3, "train": "head"}, "--lr counts only with --train all or last or adapters"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(unused, words):
    with pytest.raises(InputError, match=words):
        probe.finetune(FinetuneOptions(encoder="random:test_resnet", data=["none"], **unused))


@pytest.mark.parametrize("seed", range(4))
def test_a_patient_who_alone_has_a_class_is_not_kept_out(seed):
    labels, groups = np.array([0] * 8 + [1] * 8 + [2, 0]), np.array([*"abcdefghijklmnop", "q", "q"])
    task = SimpleNamespace(labels=labels, groups=groups, where="data", unit="patient")
    options = FinetuneOptions(encoder="random:test_resnet", data=["data"], seed=seed, held_out=0.5)
    fitted, held = FinetuneProbe(options, None, [])._kept_out(task, Fold(0, np.arange(18), np.arange(0)))
    assert set(labels[fitted]) == {0, 1, 2} and 6 <= len(held) <= 9
    assert sorted([*fitted, *held]) == list(range(18)) and not set(groups[fitted]) & set(groups[held])


def test_a_last_batch_of_one_image_is_left_out(tmp_path, coloured):
    # 19 images are trained on; at 32 px the last maps are 1 x 1, of which BatchNorm needs two.
    result = finetune(coloured, tmp_path / "tuned", "--batch", "3", "--epochs", "1", "--encoder", "random:resnet18")
    assert result["settings"]["early_stopping"][0]["trained"] % 3 == 1


def test_the_learning_rate_falls_to_0_also_where_the_last_image_of_each_epoch_is_left_out(
    tmp_path, coloured, monkeypatch
):
    shares, rate = [], probe._rate
    monkeypatch.setattr(probe, "_rate", lambda done: shares.append((done, rate(done))) or shares[-1][1])
    result = finetune(coloured, tmp_path / "tuned", "--batch", "18", "--epochs", "4")
    assert result["settings"]["early_stopping"][0]["trained"] == 19
    expected = [0.01, *(0.5 * (1 + np.cos(np.pi * (step / 4 - 0.1) / 0.9)) for step in range(1, 5))]
    assert sorted({done for done, _ in shares}) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert [share for _, share in sorted(set(shares))] == pytest.approx(expected, abs=1e-12)
    assert max(map(rate, np.linspace(0, 1, 1001))) == 1
