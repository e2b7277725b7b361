"""Curves and pictures: always in the run folder, and elsewhere only what licences let go."""

import json
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import metrics, status

from dermssl import licences
from dermssl.backbone.build import build as build_backbone
from dermssl.backbone.embedding import preprocessing_at
from dermssl.dataset.dataset import open_dataset
from dermssl.files import read_json, write_json
from dermssl.training.options import TrackingOptions
from dermssl.training.watching import tracking
from dermssl.training.watching.online import patch_components
from dermssl.training.watching.pictures import GREEN, RED, neighbour_grid, view_grid
from dermssl.training.watching.tracking import Waiting
from dermssl.training.watching.watch import mixture
from dermssl.views.sampler import Sampler


@pytest.fixture
def service(monkeypatch):
    """A tracker that Accelerate knows as ``memory`` and that keeps what it is sent."""

    class Memory(GeneralTracker):
        name = "memory"
        requires_logging_directory = False
        received: list[tuple] = []  # noqa: RUF012
        fails = False

        def __init__(self, project, **keywords):
            super().__init__()
            self.received.append(("start", project, keywords))

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            self.received.append(("config", values))

        def log(self, values, step=None, **keywords):
            if self.fails:
                raise ConnectionError("the service is away")
            self.received.append(("log", step, values))

        def log_images(self, values, step=None, **keywords):
            self.received.append(("images", step, values))

        def finish(self):
            self.received.append(("finish",))

        def of(self, kind):
            return [entry for entry in self.received if entry[0] == kind]

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "memory", Memory)
    monkeypatch.setattr(tracking, "KNOWN", (*tracking.KNOWN, "memory"))
    return Memory


def under_licence(dataset, tmp_path, licence: str):
    """A copy of the tiny set whose images came under ``licence``."""
    folder = tmp_path / licence
    folder.mkdir()
    for file in dataset.iterdir():
        shutil.copy(file, folder)
    info = read_json(dataset / "dataset.json", "") | {"licence": licences.notice("pictures", licence, "us", False)}
    write_json(folder / "dataset.json", info)
    return folder


SHORT = {"training__epochs": "1", "tracking__trackers": "memory"}


def test_other_trackers_get_curves_and_pictures_but_no_paths(service, pretrain, dataset, tmp_path):
    data = under_licence(dataset, tmp_path, "CC-BY-NC-4.0")
    assert pretrain(data, tmp_path / "run", **SHORT) == 0
    memory = service("read")
    assert {step: values["loss"] for _, step, values in memory.of("log") if "loss" in values} == pytest.approx(
        metrics(tmp_path / "run"), rel=1e-5
    )
    titles = {title for _, _, values in memory.of("images") for title in values}
    assert titles == {"views", "neighbours", "patch_components"}
    config = memory.of("config")[0][1]
    assert config["training.epochs"] == 1 and config["data.sets"] == "pictures"
    assert str(tmp_path) not in json.dumps(config) and memory.of("finish")


@pytest.mark.parametrize("licence", ["PASSION", "SCIN", "unknown"])
def test_pictures_of_restricted_sets_are_withheld(service, pretrain, dataset, tmp_path, licence, caplog):
    caplog.set_level("INFO", logger="dermssl")
    assert pretrain(under_licence(dataset, tmp_path, licence), tmp_path / "run", **SHORT) == 0
    memory = service("read")
    assert memory.of("log") and not memory.of("images")
    assert "pictures are withheld from memory" in caplog.text
    names = set(open_dataset(dataset).column("image_id"))
    assert not any(name in repr(memory.received) for name in names)
    assert (tmp_path / "run" / "neighbours.png").exists()


def test_a_service_that_fails_costs_neither_the_run_nor_its_curves(service, pretrain, dataset, tmp_path, caplog):
    service.fails = True
    assert pretrain(dataset, tmp_path / "run", **SHORT) == 0
    assert "memory is left out from now on (the service is away)" in caplog.text
    assert len(metrics(tmp_path / "run")) > 2


@pytest.mark.parametrize(("fails", "word"), [(False, "done"), (True, "failed")])
def test_how_a_run_ended_is_on_record_before_a_service_is_waited_for(
    service, pretrain, dataset, tmp_path, monkeypatch, fails, word
):
    seen = []

    def give_up(_):
        seen.append(status(tmp_path / "run")["status"])
        raise KeyboardInterrupt

    monkeypatch.setattr(service, "finish", give_up)
    if fails:
        monkeypatch.setattr("dermssl.training.pretrain.project", lambda *_: 1 / 0)
    assert pretrain(dataset, tmp_path / "run", **SHORT) == 1
    assert seen == [word] and status(tmp_path / "run")["status"] == word


@pytest.mark.parametrize(("name", "words"), [("wandbb", "did you mean 'wandb'?"), ("wandb", "not installed")])
def test_trackers_that_cannot_be_had_are_one_line(pretrain, dataset, tmp_path, capsys, monkeypatch, name, words):
    monkeypatch.setattr("dermssl.training.watching.tracking.get_available_trackers", lambda: ["tensorboard"])
    assert pretrain(dataset, tmp_path / "run", tracking__trackers=name) == 2
    error = capsys.readouterr().err.strip()
    assert words in error.splitlines()[-1] and not (tmp_path / "run").exists()


@pytest.mark.parametrize("licence", ["PASSION", "SCIN"])
def test_trackers_that_may_take_pictures_by_themselves_are_refused_for_restricted_sets(
    service, pretrain, dataset, tmp_path, capsys, monkeypatch, licence
):
    monkeypatch.setattr(tracking, "KNOWN", ("tensorboard", "wandb", "mlflow"))
    assert pretrain(under_licence(dataset, tmp_path, licence), tmp_path / "run", **SHORT) == 2
    assert "--tracking.with memory: its client may send pictures by itself" in capsys.readouterr().err
    assert not service.received and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_resumed_run_is_the_same_run_elsewhere_and_tracking_may_differ(
    service, name, pretrain, dataset, tmp_path, monkeypatch
):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, service)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [name])
    service.info = SimpleNamespace(run_id="made up by the service")
    changes = SHORT | {"tracking__trackers": name}
    with monkeypatch.context() as patch:
        patch.setattr("dermssl.training.pretrain.project", lambda *_: 1 / 0)
        assert pretrain(dataset, tmp_path / "run", **changes) == 1
    assert pretrain(dataset, tmp_path / "run", **changes | {"tracking__projector_images": "3"}) == 0
    key = {"wandb": "id", "mlflow": "run_id"}[name]
    starts = [entry[2] for entry in service("read").of("start") if key in entry[2]]
    assert starts[1][key] == read_json(tmp_path / "run" / "tracking.json", "")[name]
    assert starts[0][key] == (starts[1][key] if name == "wandb" else None)
    assert starts[0].get("tags") == (None if name == "wandb" else {"mlflow.source.name": "dermssl pretrain"})


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    from tiny_runs import arguments

    from dermssl.cli import main

    out = tmp_path_factory.mktemp("runs") / "run"
    changes = {"training__epochs": "2", "online__every_epochs": "1", "tracking__projector_images": "10"}
    assert main(arguments(dataset, out, **changes)) == 0
    return out


def test_pictures_are_drawn_at_every_online_evaluation(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    evaluated = list(metrics(run, "online_rankme"))
    assert len(evaluated) == 3
    for title in ("neighbours", "patch_components"):
        assert [image.step for image in events.Images(title)] == evaluated
        assert Image.open(run / f"{title}.png").mode == "RGB"


def test_the_projector_holds_the_stated_number_of_points_with_labels(run):
    folder = run / "tensorboard" / "00000" / "features"
    points = np.loadtxt(folder / "tensors.tsv")
    header, *labels = (folder / "metadata.tsv").read_text().splitlines()
    assert len(points) == len(labels) == 10 and header == "label\timage"
    assert {line.split("\t")[0] for line in labels} <= {"across", "along"}
    assert (folder / "sprite.png").exists()


def test_the_grid_of_views_has_a_column_per_image_and_a_row_per_view():
    large, small = torch.zeros(2, 3, 3, 32, 32), torch.zeros(1, 3, 3, 16, 16)
    large[1, 2], small[0, 0] = 1, 1  # the second large view of the third image, the small view of the first one
    grid = view_grid([large, small])
    side = grid.shape[0] // 3
    cells = grid[:, :, 0].reshape(3, side, 3, side).mean(axis=(1, 3)) > 200
    assert grid.shape == (3 * side, 3 * side, 3) and np.argwhere(cells).tolist() == [[1, 2], [2, 0]]


def test_frames_of_the_neighbour_grid_tell_labels_apart_and_have_a_legend():
    image = np.zeros((10, 10, 3), np.uint8)
    grid = neighbour_grid([image], [[image, image]], np.array([[True, False]]))
    plain = neighbour_grid([image], [[image, image]], None)
    counts = [int((grid.reshape(-1, 3) == colour).all(axis=1).sum()) for colour in (GREEN, RED)]
    assert counts[0] == counts[1] > 0
    above = grid[: -plain.shape[0] + 24]
    assert len(plain) > 24 and (above == GREEN).all(axis=2).any() and (above == RED).all(axis=2).any()


def test_patch_components_tell_the_halves_of_a_picture_apart():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[:, :, 32:] = 255
    maps = patch_components(build_backbone("test_vit", 64), images, preprocessing_at(64), "cpu")
    left, right = maps[:, :, : maps.shape[2] // 2, 0], maps[:, :, maps.shape[2] // 2 :, 0]
    assert maps.shape[3] == 3 and abs(left.mean() - right.mean()) > 0.5


def test_convnets_have_no_patch_components():
    images = np.zeros((2, 32, 32, 3), np.uint8)
    assert patch_components(build_backbone("resnet18", 32), images, preprocessing_at(32), "cpu") is None


def test_neither_what_is_printed_nor_the_command_line_goes_to_wandb():
    settings = tracking.WANDB
    assert settings["console"] == "off" and settings["x_disable_meta"] and settings["disable_git"]


def test_a_run_says_what_each_set_gives_and_what_equal_weights_would_change():
    small, large = mixture(Sampler((100, 300), None, 4, 0), ["a", "b"], 5)
    assert small == "a gives 100 of 400 images per epoch (25%): each image once, 5 times in the whole run"
    assert large.startswith("b gives 300 of 400")
    part, rest = mixture(Sampler((986,), None, 256, 0), ["pad"], 2)
    assert part.endswith("(100%): each of its 986 images 0.78 times, 1.56 times in the whole run")
    assert rest.startswith("218 of 986 images (22%) do not fill a batch") and rest.endswith("leaves out fewer")
    uneven = mixture(Sampler((100, 9_900), None, 4, 0), ["a", "b"], 5)[-1]
    assert uneven == (
        "the largest set has 99 times the images of the smallest; with data.weights equal each set gives 5,000 images "
        "per epoch, so an image comes so many times per epoch: a 50, b 0.51"
    )
    equal = mixture(Sampler((100, 9_900), (0.5, 0.5), 4, 0), ["a", "b"], 5)
    assert len(equal) == 2 and "each of its 100 images 50 times" in equal[0]


def test_what_is_done_in_a_pause_counts_as_no_training_time():
    batches = Waiting([1, 2])
    next(iter(batches))
    with batches.paused():
        time.sleep(0.3)
    speed, _ = batches.read()
    assert speed > 1 / 0.3


def test_a_run_goes_on_after_a_crash_that_damaged_lines_of_its_curves(tmp_path):
    whole = [json.dumps({"step": step, "loss": 1.0}) for step in range(4)]
    zeros = "\0" * 40 + whole[1]  # a crash of the machine leaves these where it had not yet written
    (tmp_path / "metrics.jsonl").write_text("\n".join([whole[0], zeros, "[]", whole[2], whole[3], whole[3][:9]]))
    tracking.Tracker(tmp_path, 2, TrackingOptions(), {}, True).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [whole[0], whole[2]]


def test_a_resumed_run_writes_its_points_anew_without_a_warning(tmp_path, capsys):
    for step in (0, 5):
        tracker = tracking.Tracker(tmp_path, step, TrackingOptions(), {}, True)
        tracker.projector(np.eye(4), [[f"from {step}", "a"]] * 4, ["step", "label"], np.zeros((4, 8, 8, 3), np.uint8))
        tracker.close()
    assert "warning" not in capsys.readouterr().out
    (points,) = tmp_path.rglob("metadata.tsv")
    assert "from 5" in points.read_text() and "from 0" not in points.read_text()


@pytest.mark.parametrize("branches", [1, 2], ids=["mixer", "crossvit"])
def test_networks_of_tokens_that_do_not_tell_which_are_patches_have_no_patch_components(branches):
    class Tokens(torch.nn.Module):
        def forward_features(self, images):
            tokens = images.flatten(2).transpose(1, 2)
            return tokens if branches == 1 else [tokens] * branches

    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert patch_components(Tokens(), images, preprocessing_at(8), "cpu") is None
