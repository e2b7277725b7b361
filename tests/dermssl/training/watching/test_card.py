"""The model card: a header that the Hub can read, and plain words about limits."""

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard

from dermssl import licences
from dermssl.training.options import DataOptions, HealthOptions, ModelOptions, PretrainOptions
from dermssl.training.pool import OnlineSet, TrainingData
from dermssl.training.progress import Progress
from dermssl.training.watching.card import card_of_export, write_card
from dermssl.training.watching.health import Health

FACTS = {
    "steps": 30,
    "planned_steps": 30,
    "images": 6,
    "splits": "train",
    "unrecorded": [],
    "seconds": 90.0,
    "ranks": 1,
    "hardware": "CPU x86_64, 1 thread of 2 cores",
    "precision": "fp32",
    "energy_kwh": None,
    "baseline": {"online_knn_balanced_accuracy": 0.5, "online_rankme": 3.0},
    "best": {"step": 20, "online_knn_balanced_accuracy": 0.75, "online_rankme": 5.0},
    "last": {"step": 30, "online_knn_balanced_accuracy": 0.7, "online_rankme": 5.5},
    "skipped_steps": 2,
}


class Skin:
    """A data set of which the card needs only names, tones and licence."""

    def __init__(
        self, name: str, fitzpatrick: list, licence: str, synthetic: bool = False, times_seen: int = 5
    ) -> None:
        groups = [None if f is None else ("I-II", "III-IV", "V-VI")[(f - 1) // 2] for f in fitzpatrick]
        self.name, self.times_seen = name, times_seen
        self.info = {"synthetic": synthetic, "patient_key": name != "ham10000"}
        self.frame = pd.DataFrame({"fitzpatrick": np.array(fitzpatrick, float), "tone_group": groups})
        self.frame["group_id"] = [f"{name}/{row // 2}" for row in range(len(groups))]
        self.licence = licences.notice(name, licence, "Somebody, 2020.", synthetic)

    def column(self, name: str) -> np.ndarray:
        return self.frame[name].to_numpy()


def card(tmp_path, *datasets: Skin, labelled: bool = True, online: list[OnlineSet] | None = None) -> ModelCard:
    rows = [np.arange(len(dataset.frame)) for dataset in datasets]
    labels = np.zeros(2, int)
    first = [OnlineSet(datasets[0], "condition", ("a", "b"), rows[0][:1], rows[0][1:2], labels)] if labelled else []
    data = TrainingData(datasets, rows, first if online is None else online)
    model = ModelOptions(init="/anna/run1")
    options = PretrainOptions(out="/anna/x", data=DataOptions(folders=["/anna/data"]), model=model)
    seen = np.repeat([dataset.times_seen for dataset in datasets], [len(chosen) for chosen in rows])
    write_card(tmp_path, options, data, [dataset.licence for dataset in datasets], seen, FACTS)
    return ModelCard.load(tmp_path / "MODEL_CARD.md")


PASSION = Skin("passion", [3, 4, 4, 5, 6, None], "PASSION")
PAD = Skin("pad", [1, 2, 2], "CC-BY-4.0")


def test_scores_without_a_patient_key_say_what_cannot_be_ruled_out(tmp_path):
    told = "It has no patient key: patient leakage cannot be ruled out."
    assert told in card(tmp_path, Skin("ham10000", [1, 2, 2], "CC-BY-NC-4.0")).text
    assert told not in card(tmp_path, PAD).text


def test_one_licence_that_the_hub_knows_is_named_as_the_hub_does(tmp_path):
    header = card(tmp_path, PAD).data
    assert (header.license, header.license_name, header.library_name) == ("cc-by-4.0", None, "timm")
    assert header.datasets == ["pad"] and header.metrics == ["balanced_accuracy"]
    assert {"dermatology", "self-supervised", "dino"} <= set(header.tags)


def test_pooled_licences_are_other_and_duties_are_listed(tmp_path):
    page = card(tmp_path, PASSION, PAD)
    assert (page.data.license, page.data.license_name) == ("other", "cc-by-4.0-passion")
    assert page.data.datasets == ["passion", "pad"]
    assert "**Non-commercial use only**" in page.text and "Never try to re-identify" in page.text
    assert "Somebody, 2020." in page.text


def test_a_licence_that_is_not_recorded_is_not_called_non_commercial(tmp_path):
    text = card(tmp_path, PAD, Skin("found", [2], "unknown")).text
    assert "**It is not known whether commercial use is allowed**" in text and "Non-commercial use only" not in text


def test_the_card_is_handed_on_so_it_names_no_path_of_this_machine(tmp_path):
    text = card(tmp_path, PAD).text
    assert "anna" not in text and "started from run1" in text and "backbone: vit_small" in text


def test_the_card_says_how_to_train_the_encoder_again_with_its_methods_settings_only(tmp_path):
    text = card(tmp_path, PASSION, PAD).text
    command = "dermssl pretrain --config recipe.yaml --model.init run1 --data passion pad --out checkpoints/again"
    assert command in text and "\ndino:" in text and "\nsimclr:" not in text
    assert "Test rows were not read." in text


def test_an_exported_encoder_is_told_apart_from_the_run(tmp_path):
    text = card_of_export(card(tmp_path, PAD).text, "best", 20)
    assert "local-dir:<this folder>'" in text and "the run's `best` at step 20" in text
    assert "<this folder>/encoder" not in text


def test_a_set_that_was_only_scored_is_not_counted_as_trained_on(tmp_path):
    unseen = Skin("pad", [1, 2, 2], "CC-BY-4.0", times_seen=0)
    text = card(tmp_path, PASSION, unseen).text
    assert "| pad | 0 | 0 | 0 | 0 |" in text and "I 0, II 0, III 1" in text


def test_scores_stand_beside_those_before_training(tmp_path):
    text = card(tmp_path, PASSION).text
    assert "| before training (step 0) | 0 | 0.500 | 3.000 |" in text
    assert "| best (`best/` of the run) | 20 | 0.750 | 5.000 |" in text
    assert "| end (`encoder/` of the run) | 30 |" in text
    assert "chance 0.500" in text and "| passion | III-IV | 1 | 1 | 1 of 2 | not scored |" in text
    assert "1.5 minutes" in text and "2 steps were not finite" in text


def test_skin_types_are_counted_and_what_is_missing_is_said(tmp_path):
    text = card(tmp_path, PASSION).text
    assert "| passion | 0 | 3 | 2 | 1 |" in text
    assert "I 0, II 0, III 1, IV 2, V 1, VI 1" in text
    assert "unknown): I-II 0, III-IV 2, V-VI 2." in text
    assert "No image is known to show type I-II." in text and "17% of the training images is not recorded" in text


def test_scores_by_skin_type_stand_with_the_images_and_patients_they_rest_on(tmp_path, monkeypatch):
    many, few = Skin("passion", [5] * 40 + [1] * 4, "PASSION"), Skin("ham", [None] * 2, "CC-BY-NC-4.0")
    rows = np.arange(44)
    online = [OnlineSet(skin, "dx", ("a", "b", "c"), r[:0], r, r % 2) for skin, r in ((many, rows), (few, rows[:2]))]
    monkeypatch.setitem(FACTS, "last", FACTS["last"] | {"online_by_tone/passion/V-VI": 0.61})
    text = card(tmp_path, many, few, online=online).text
    assert "| passion | I-II | 4 | 2 | 2 of 3 | not scored | not scored | not scored |" in text
    assert "| passion | V-VI | 40 | 20 | 2 of 3 | not scored | not scored | 0.610 |" in text
    assert "| end (`encoder/` of the run) | 30 | 0.700 | 5.500 |" in text


def test_rare_types_are_named(tmp_path):
    text = card(tmp_path, Skin("many", [2] * 30 + [5], "CC0-1.0")).text
    assert "Type V-VI is rare (under 10% of the known)." in text


def test_nothing_recorded_is_said(tmp_path):
    assert "skin type of none of the 4 training images" in card(tmp_path, Skin("ham", [None] * 4, "CC-BY-NC-4.0")).text


def test_without_labels_the_card_says_what_was_measured(tmp_path):
    page = card(tmp_path, PAD, labelled=False)
    assert page.data.metrics == ["rankme"] and "No labels" in page.text


def test_energy_of_gpus_is_told_and_none_is_guessed_for_a_cpu(tmp_path):
    assert "energy of" not in card(tmp_path, PAD).text
    FACTS["energy_kwh"] = 0.25
    try:
        assert "energy of the GPUs: 0.25 kWh" in card(tmp_path, PAD).text
    finally:
        FACTS["energy_kwh"] = None


def progress() -> Progress:
    return Progress(Health(HealthOptions(), 1.0, 10))


def test_energy_follows_the_power_that_is_read(monkeypatch):
    readings = iter([200_000, 400_000])
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: next(readings))
    run = progress()
    run.spend(10.0, torch.device("cuda"), ranks=2)
    run.spend(10.0, torch.device("cuda"), ranks=2)
    assert run.joules == pytest.approx(2 * (200 * 10 + 400 * 10)) and run.seconds == 20


class NVMLError(Exception):
    """As in NVIDIA's library, where it is no RuntimeError."""


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'pynvml'"), NVMLError("Not Supported")])
def test_energy_that_cannot_be_read_is_not_invented(monkeypatch, error):
    def no_power(device):
        raise error

    monkeypatch.setattr(torch.cuda, "power_draw", no_power)
    run = progress()
    run.spend(10.0, torch.device("cuda"), ranks=1)
    assert run.joules is None and run.seconds == 10
