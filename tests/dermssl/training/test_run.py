"""What a finished run leaves behind, and what it never reads."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import SIMCLR, gradients_of_steps, metrics, prepare_pictures, status

from dermssl.atomic import TEMPORARY
from dermssl.backbone.build import IMAGENET
from dermssl.backbone.embedding import preprocessing_at
from dermssl.backbone.encoder_folder import load_encoder
from dermssl.backbone.pretrained import find_ledger
from dermssl.cli import main
from dermssl.dataset.dataset import open_dataset, open_datasets
from dermssl.dataset.manifest import to_table
from dermssl.errors import HealthStop, InputError
from dermssl.files import read_json, write_json, write_parquet
from dermssl.training.options import DataOptions, OnlineOptions, PretrainOptions
from dermssl.training.pool import join_ledgers, select_rows
from dermssl.training.run_folder import open_run_folder
from dermssl.training.watching import online
from dermssl.training.watching.online import online_features, rankme
from dermssl.views.loader import default_workers


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory) -> Path:
    from tiny_runs import arguments

    out = tmp_path_factory.mktemp("runs") / "dino"
    assert main(arguments(dataset, out)) == 0
    return out


def test_the_run_folder_holds_what_the_design_says(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "status.json", "metrics.jsonl", "tensorboard", "state", "encoder", "best"}
    assert names >= {"ledger.parquet", "MODEL_CARD.md", "views.png"}
    assert status(run)["status"] == "done"
    assert not list(run.rglob(".*partial"))


def test_exported_encoder_is_a_timm_folder_with_the_same_features(run):
    model, config = load_encoder(run / "encoder")
    theirs = timm.create_model(f"local-dir:{run / 'encoder'}", pretrained=True, num_classes=0).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), theirs(images))
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert tuple(theirs.pretrained_cfg["mean"]) == IMAGENET.mean


def test_the_encoder_is_the_teacher_of_the_last_state(run):
    from safetensors.torch import load_file

    state = load_file(sorted((run / "state").iterdir())[-1] / "model.safetensors")
    encoder = load_file(run / "encoder" / "model.safetensors")
    assert all(torch.equal(encoder[name], state[f"teacher.{name}"]) for name in encoder)


def test_the_config_is_sufficient_to_rerun(run, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["training"]["epochs"] == 3 and config["model"]["backbone"] == "test_vit"
    code = main(["pretrain", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")])
    assert code == 0
    assert metrics(tmp_path / "again") == metrics(run)


def test_ledger_counts_every_training_image(run, dataset):
    ledger = pq.read_table(run / "ledger.parquet").to_pandas()
    steps = status(run)["steps"]
    assert ledger["times_seen"].sum() == steps * 8
    assert set(ledger["image_id"]) < set(open_dataset(dataset).column("image_id"))


def test_test_rows_and_the_online_patients_are_never_trained_on(run, dataset):
    frame = open_dataset(dataset).frame(["image_id", "split"]).set_index("image_id")
    ledger = pq.read_table(run / "ledger.parquet").to_pandas()
    assert set(frame.loc[ledger["image_id"], "split"]) == {"train"}
    assert len(ledger) < (frame["split"] == "train").sum()


def test_no_patient_is_kept_out_where_the_online_fraction_is_0(dataset, pretrain, tmp_path, capsys):
    train = (open_dataset(dataset).column("split") == "train").sum()
    for target in (None, "label"):
        data = select_rows([open_dataset(dataset)], "train", OnlineOptions(fraction=0, target=target), seed=0)
        assert len(data.rows[0]) == train and not data.online
    assert pretrain(dataset, tmp_path / "run", online__fraction="1") == 2
    assert "online.fraction 1 leaves no patients" in capsys.readouterr().err


def test_images_without_a_split_of_patients_in_test_are_not_trained_on(dataset, tmp_path, caplog):
    frame = open_dataset(dataset).frame().astype({"split": object})
    row, test = (frame.index[frame["split"] == side][0] for side in ("train", "test"))
    frame.loc[row, ["split", "group_id"]] = None, frame.loc[test, "group_id"]
    changed = replace(open_dataset(dataset), table=to_table(frame))
    caplog.set_level("INFO", logger="dermssl")
    assert row not in select_rows([changed], "train", OnlineOptions(), seed=0).rows[0]
    assert "1 of 32 training images of pictures are kept out: the test split holds images of their" in caplog.text
    assert row in select_rows([changed], "all", OnlineOptions(), seed=0).rows[0]


def test_splits_all_reads_test_rows_and_the_card_says_so(pretrain, dataset, tmp_path):
    assert pretrain(dataset, tmp_path / "all", data__splits="all", training__epochs="1") == 0
    ledger = pq.read_table(tmp_path / "all" / "ledger.parquet").to_pandas()
    frame = open_dataset(dataset).frame(["image_id", "split"]).set_index("image_id")
    assert "test" in set(frame.loc[ledger["image_id"], "split"])
    assert "Test rows were trained on" in (tmp_path / "all" / "MODEL_CARD.md").read_text()


def test_curves_are_in_tensorboard_and_in_jsonl(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    points = {event.step: event.value for event in events.Scalars("loss")}
    assert points.keys() == metrics(run).keys()
    assert "views" in events.Tags()["images"]
    assert 0 in metrics(run, "online_knn_balanced_accuracy")


def test_rerunning_a_finished_run_changes_nothing(run, pretrain, dataset, capsys):
    before = (run / "metrics.jsonl").read_text()
    assert pretrain(dataset, run) == 0
    assert "already done" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == before


def test_export_copies_the_encoder_with_its_card(run, tmp_path):
    assert main(["export", str(run), "--out", str(tmp_path / "encoder")]) == 0
    assert {p.name for p in (tmp_path / "encoder").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert main(["export", str(run), "--out", str(tmp_path / "encoder")]) == 2


def test_export_carries_the_ledger_where_the_licence_lets_it_and_else_points_at_it(run, tmp_path):
    assert main(["export", str(run), "--out", str(tmp_path / "closed")]) == 0
    config = json.loads((tmp_path / "closed" / "config.json").read_text())
    assert config["dermssl"]["ledger"] == str((run / "ledger.parquet").resolve())
    shutil.copytree(run, tmp_path / "open")
    for entry in config["dermssl"]["licences"]:
        entry["redistribution"] = True
    (tmp_path / "open" / "encoder" / "config.json").write_text(json.dumps(config))
    assert main(["export", str(tmp_path / "open"), "--out", str(tmp_path / "carried")]) == 0
    assert pq.read_table(tmp_path / "carried" / "ledger.parquet").equals(pq.read_table(run / "ledger.parquet"))
    ledger = tmp_path / "open" / "ledger.parquet"
    ledger.write_bytes(ledger.read_bytes()[:-9])
    assert main(["export", str(tmp_path / "open"), "--out", str(tmp_path / "damaged")]) == 2
    assert not (tmp_path / "damaged").exists()
    config["dermssl"]["licences"][0]["relinking"] = False
    (tmp_path / "open" / "encoder" / "config.json").write_text(json.dumps(config))
    assert main(["export", str(tmp_path / "open"), "--out", str(tmp_path / "unlinked")]) == 0
    assert not (tmp_path / "unlinked" / "ledger.parquet").exists(), "hashes of the images would link its records"


def test_an_export_that_points_at_a_ledger_takes_none_that_another_run_has_written_there_since(run, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")
    assert main(["export", str(again), "--out", str(tmp_path / "encoder")]) == 0
    assert find_ledger(tmp_path / "encoder") == again / "ledger.parquet"
    write_parquet(again / "ledger.parquet", pq.read_table(again / "ledger.parquet").slice(0, 3))
    assert find_ledger(tmp_path / "encoder") is None


def test_an_encoder_that_is_replaced_while_it_is_copied_is_not_exported(run, tmp_path, capsys, monkeypatch):
    """A run that is training may write a better ``best/`` at any time."""
    training, copy = shutil.copytree(run, tmp_path / "training"), shutil.copyfile

    def copy_then_replace(source, target):
        copy(source, target)
        if source.name == "model.safetensors":
            source.with_name("config.json").write_text("{}")

    monkeypatch.setattr(shutil, "copyfile", copy_then_replace)
    assert main(["export", str(training), "--which", "best", "--out", str(tmp_path / "out")]) == 2
    assert "was replaced while it was copied" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_export_follows_no_link_out_of_the_run(run, tmp_path, capsys):
    """A run folder that was received from others may hold links to files of this machine."""
    received = shutil.copytree(run, tmp_path / "received")
    weights = (received / "encoder" / "model.safetensors").rename(tmp_path / "elsewhere")
    (received / "encoder" / "model.safetensors").symlink_to(weights)
    assert main(["export", str(received), "--out", str(tmp_path / "out")]) == 2
    assert "is a link out of its folder" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_simclr_runs_on_pooled_sets_and_keeps_copies_once(pretrain, dataset, tmp_path, caplog):
    twin = prepare_pictures(tmp_path, "twin", 60, seed=0)
    options = SIMCLR | {"training.epochs": "1", "data.weights": "equal"}
    changes = {key.replace(".", "__"): value for key, value in options.items()}
    caplog.set_level("INFO", logger="dermssl")
    assert pretrain([dataset, twin], tmp_path / "run", **changes) == 0
    ledger = pq.read_table(tmp_path / "run" / "ledger.parquet").to_pandas()
    assert ledger["pixel_sha256"].is_unique
    assert any("same pixels as other training images" in message for message in caplog.messages)
    assert any(re.search(r"\d+ of \d+ training images of twin are kept out", message) for message in caplog.messages)


def test_a_copy_in_another_set_of_an_image_that_is_scored_on_is_not_trained_on(dataset, tmp_path):
    sets = open_datasets([str(dataset), str(prepare_pictures(tmp_path, "twin", 60, seed=0))])
    data = select_rows(sets, "train", OnlineOptions(), seed=0)
    assert [one.dataset for one in data.online] == sets and all(len(one.score) for one in data.online)
    scored = {value for one in data.online for value in one.dataset.column("pixel_sha256")[one.score]}
    assert scored <= set(sets[1].column("pixel_sha256"))
    assert not scored & set(data.ledger(np.zeros(sum(map(len, data.rows)), int))["pixel_sha256"].to_pylist())


def test_a_copy_of_a_scored_image_has_no_vote_on_it(dataset):
    plain = open_dataset(dataset)
    (before,) = select_rows([plain], "train", OnlineOptions(), seed=0).online
    frame = plain.frame().astype({"pixel_sha256": object})
    frame.loc[before.fit[0], "pixel_sha256"] = frame.loc[before.score[0], "pixel_sha256"]
    (after,) = select_rows([replace(plain, table=to_table(frame))], "train", OnlineOptions(), seed=0).online
    assert set(before.fit) - set(after.fit) == {before.fit[0]} and set(after.score) == set(before.score)


def test_an_image_of_a_test_patient_that_lacks_the_split_neither_votes_nor_is_scored(dataset):
    plain = open_dataset(dataset)
    frame = plain.frame().astype({"group_id": object, "split": object})
    train, test = (np.flatnonzero(frame["split"] == side)[0] for side in ("train", "test"))
    frame.loc[train, ["group_id", "split"]] = [frame.loc[test, "group_id"], None]
    (one,) = select_rows([replace(plain, table=to_table(frame))], "train", OnlineOptions(), seed=0).online
    assert train not in {*one.fit, *one.score}


def test_a_set_that_holds_nothing_but_copies_is_refused(dataset, tmp_path):
    sets = open_datasets([str(dataset), str(prepare_pictures(tmp_path, "twin", 40, seed=0))])
    with pytest.raises(InputError, match=r"twin has nothing to train on.*copies"):
        select_rows(sets, "train", OnlineOptions(), seed=0)


def test_a_set_that_is_only_scored_takes_no_image_from_another_set(dataset, tmp_path, caplog):
    sets = open_datasets([str(dataset), str(prepare_pictures(tmp_path, "twin", 40, seed=0))])
    data = select_rows(sets, "train", OnlineOptions(), 0, shares=(0.0, 1.0))
    scored = {value for one in data.online for value in one.dataset.column("pixel_sha256")[one.score]}
    trained = set(sets[1].column("pixel_sha256")[data.rows[1]])
    assert trained >= set(sets[0].column("pixel_sha256")[data.rows[0]]) and not trained & scored
    assert "same pixels as other training images" not in caplog.text


def test_continued_pretraining_starts_from_the_earlier_encoder(run, pretrain, dataset, tmp_path, caplog):
    out = tmp_path / "next"
    assert pretrain(dataset, out, model__init=str(run), training__epochs="1", optim__backbone_lr="0") == 0
    first = metrics(out, "online_rankme")[0]
    last = metrics(run, "online_rankme")
    assert first == pytest.approx(last[max(last)], rel=1e-4)
    assert any("the backbone never learns" in m and "optim.backbone_lr is 0" in m for m in caplog.messages)


def test_an_image_with_other_ids_in_an_earlier_ledger_keeps_both_rows():
    own = {"image_id": "a/1", "dataset": "a", "patient_id": "p", "lesion_id": None, "group_id": "p"}
    own |= {"sha256": "s", "pixel_sha256": "x", "phash": [0] * 8, "times_seen": 2}
    ledgers = [pa.Table.from_pylist([own]), pa.Table.from_pylist([own | {"times_seen": 3}, own | {"patient_id": "q"}])]
    joined = join_ledgers(ledgers)
    assert joined["patient_id"].to_pylist() == ["p", "q"] and joined["times_seen"].to_pylist() == [5, 2]


def test_freezing_the_backbone_leaves_it_alone_and_says_so(run, pretrain, dataset, tmp_path, caplog):
    out = tmp_path / "frozen"
    code = pretrain(dataset, out, model__init=str(run), training__epochs="1", optim__freeze_backbone_epochs="1")
    assert code == 0
    assert any("the backbone never learns" in message for message in caplog.messages)
    before, after = (load_encoder(folder / "encoder")[0].state_dict() for folder in (run, out))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_accumulation_gives_dino_the_gradient_of_the_whole_batch(pretrain, dataset, tmp_path):
    gradients = {}
    for name, accumulation in (("whole", "1"), ("parts", "4")):
        changes = {"training__epochs": "1", "model__drop_path": "0", "training__accumulation": accumulation}
        with gradients_of_steps() as gradients[name]:
            assert pretrain(dataset, tmp_path / name, **changes) == 0
    for whole, parts in zip(gradients["whole"][0], gradients["parts"][0], strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-6)
    whole, parts = (list(metrics(tmp_path / name).values()) for name in ("whole", "parts"))
    np.testing.assert_allclose(whole, parts, rtol=1e-4)


def test_rankme_of_independent_features_is_their_number():
    assert rankme(np.eye(8)) == pytest.approx(8, rel=1e-4)
    assert rankme(np.ones((8, 8))) == pytest.approx(1, rel=1e-3)
    assert rankme(np.zeros((8, 8))) == 1.0


def test_what_a_kill_at_the_very_start_leaves_is_no_other_folder(pretrain, dataset, tmp_path):
    leftover = tmp_path / "run" / f".config.yaml.123{TEMPORARY}"
    leftover.parent.mkdir()
    leftover.write_text("method: di")
    assert pretrain(dataset, tmp_path / "run", training__epochs="1") == 0
    assert not leftover.exists()


def test_an_old_dataset_folder_is_refused_on_resume(pretrain, tmp_path):
    data = prepare_pictures(tmp_path, "mine", 40, seed=3)
    assert pretrain(data, tmp_path / "run", training__epochs="1") == 0
    table = pq.read_table(data / "manifest.parquet")
    write_parquet(data / "manifest.parquet", table.slice(0).replace_schema_metadata({"changed": "yes"}))
    assert pretrain(data, tmp_path / "run", training__epochs="1") == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training__batch": "4096"}, "lower it"),
        ({"model__backbone": "resnet19"}, "did you mean"),
        ({"views__local_size": "17"}, "17 px"),
        ({"views__local_size": "96"}, "views.local_size 96 is above views.global_size 32"),
        ({"optim__lr": "1e-12"}, "optim.lr_end 1e-06 is above the peak"),
        ({"data__weights": "nan"}, "one number each"),
        ({"online__target": "sex"}, "online.target: --data has no target 'sex'"),
        ({"online__target": "lable"}, "did you mean 'label'"),
        ({"model__init": "/nowhere"}, "/nowhere does not exist"),
        ({"training__accumulation": "3"}, "equal micro-batches"),
        ({"method": "simclr"}, "views.local_count"),
        ({"method": "simclr", "views__local_count": "0", "training__batch": "1"}, "at least 2 images"),
        ({"model__backbone": "resnet18", "views__local_size": "4", "model__init": "README.md"}, "no weights"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(pretrain, dataset, tmp_path, capsys, changes, words):
    assert pretrain(dataset, tmp_path / "run", **changes) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def without_labels(folder: Path) -> Path:
    data = prepare_pictures(folder, "mine", 40, seed=3)
    table = pq.read_table(data / "manifest.parquet")
    blank = pa.nulls(len(table), table.schema.field("label").type)
    place = table.schema.get_field_index("label")
    write_parquet(data / "manifest.parquet", table.set_column(place, table.schema.field("label"), blank))
    return data


def test_an_online_target_without_labels_is_one_line(pretrain, tmp_path, capsys):
    assert pretrain(without_labels(tmp_path), tmp_path / "run", online__target="label") == 2
    assert "too few train rows with a `label`" in capsys.readouterr().err


def test_without_labels_the_untrained_network_is_never_the_best(pretrain, tmp_path, monkeypatch):
    ranks = iter((9.0, 4.0, 5.0))
    monkeypatch.setattr(online, "rankme", lambda _: next(ranks))
    data, out = without_labels(tmp_path), tmp_path / "run"
    assert pretrain(data, out, training__epochs="2", online__every_epochs="1") == 0
    assert read_json(out / "best" / "config.json", "dermssl pretrain")["dermssl"]["step"] == 8


def test_features_that_are_not_finite_end_the_evaluation_in_plain_words(dataset):
    class Broken(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1).mean(1, keepdim=True) * torch.nan

    with pytest.raises(HealthStop, match="features are not finite"):
        online_features(Broken(), open_dataset(dataset), np.arange(3), preprocessing_at(32), "cpu")


def test_simclr_says_what_accumulation_does_to_negatives(pretrain, dataset, tmp_path, caplog):
    changes = {key.replace(".", "__"): value for key, value in SIMCLR.items()}
    assert pretrain(dataset, tmp_path / "run", training__accumulation="2", training__epochs="1", **changes) == 0
    assert "SimCLR compares only the 4 images of a micro-batch, not the whole batch of 8" in caplog.text


def test_what_each_set_gives_and_repeats_is_said(pretrain, dataset, tmp_path, caplog):
    caplog.set_level("INFO", logger="dermssl")
    small = prepare_pictures(tmp_path, "small", 12, seed=9)
    for name, weights in (("equal", "equal"), ("size", "size")):
        changes = {"data__weights": weights, "training__epochs": "1"}
        assert pretrain([dataset, small], tmp_path / name, **changes) == 0
    lines = [line.strip() for line in caplog.messages if "images per epoch" in line]
    ours = [line for line in lines if line.startswith("small")]
    images = int(re.search(r"each of its (\d+) images", ours[0])[1])
    quota, total = map(int, re.search(r"gives (\d+) of (\d+) images", ours[0]).groups())
    assert quota == pytest.approx(total / 2, abs=1) and total % 8 == 0
    times, once = (float(re.search(r"images ([\d.]+) times,", line)[1]) for line in ours)
    assert times == pytest.approx(quota / images, rel=0.05) and times > 1 > once


def test_another_config_in_the_same_folder_is_refused_by_key(run, pretrain, dataset, capsys):
    assert pretrain(dataset, run, optim__lr="0.1") == 2
    assert "optim.lr (0.0005 -> 0.1)" in capsys.readouterr().err


def test_status_is_json_for_schedulers(run):
    assert json.loads((run / "status.json").read_text()).keys() >= {"status", "step", "steps", "message"}


def test_overwrite_throws_away_runs_and_nothing_else(pretrain, dataset, tmp_path, capsys):
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "config.yaml").write_text("title: mine\n")
    (other / "chapter.txt").write_text("words")
    assert pretrain(dataset, other, overwrite="true") == 2
    assert "not empty and no run folder" in capsys.readouterr().err
    assert (other / "chapter.txt").read_text() == "words"


def test_a_run_is_never_written_into_a_dataset_folder(pretrain, dataset, capsys):
    before = sorted(dataset.iterdir())
    assert pretrain(dataset, dataset / "runs" / "one") == 2
    assert "lies in the dataset folder" in capsys.readouterr().err and sorted(dataset.iterdir()) == before


@pytest.mark.parametrize("named_by", ["config.yaml", "tracking.json"])
@pytest.mark.parametrize(("tracker", "file"), [("wandb", "wandb/run-1/files/x"), ("mlflow", "mlruns/0/meta.yaml")])
def test_overwrite_replaces_a_run_with_the_files_of_its_trackers_and_of_no_others(tmp_path, named_by, tracker, file):
    run = tmp_path / "run"
    options = PretrainOptions(str(run), DataOptions([]), overwrite=True)
    options.tracking.trackers = [tracker] if named_by == "config.yaml" else ["tensorboard"]
    open_run_folder(options).close()
    if named_by == "tracking.json":
        write_json(run / "tracking.json", {tracker: "id"})
    (run / file).parent.mkdir(parents=True)
    (run / file).touch()
    (run / "notes.txt").touch()
    with pytest.raises(InputError, match=r"also holds notes\.txt,"):
        open_run_folder(options)
    (run / "notes.txt").unlink()
    options.tracking.trackers = ["tensorboard"]
    open_run_folder(options).close()
    assert not (run / file).exists()
    (run / file).parent.mkdir(parents=True)
    (run / file).touch()
    with pytest.raises(InputError, match=f"also holds {file}"):
        open_run_folder(options)


def test_weights_may_stand_as_numbers_in_the_config(pretrain, dataset, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("data:\n  weights: [1]\n")
    assert pretrain(dataset, tmp_path / "run", config=str(config), training__epochs="1") == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["weights"] == ["1"]


@pytest.mark.parametrize(("cores", "ranks_here", "workers"), [(64, 8, 7), (2, 1, 1), (2, 2, 1), (16, 1, 15)])
def test_workers_share_the_cores_of_their_own_machine(monkeypatch, cores, ranks_here, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks_here))
    monkeypatch.setenv("WORLD_SIZE", str(4 * ranks_here))
    assert default_workers() == workers
