"""Data that cannot be judged, or hardly: clear words, exit code 2 or a note, never a traceback."""

import json

import numpy as np
import pytest

from dermeval.cli import main
from dermssl.dataset.targets import Target

FAST = ["--draws", "40"]
KNN, LINEAR = ["knn", "--recall", "false"], ["linear", "--c-values", "2"]


@pytest.fixture
def judge(tmp_path, make_embeddings, frame, capsys):
    """``judge(command, targets, **columns)`` -> exit code and what was said, on a changed copy of ``frame``."""

    def run(command, targets=None, **columns):
        changed = frame.assign(**columns)
        features = np.random.default_rng(0).normal(size=(len(frame), 5))
        folder = make_embeddings(tmp_path, changed, features, targets)
        code = main([command[0], str(folder), *command[1:], *FAST])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.mark.parametrize("command", [["knn", "e"], ["linear", "e"], ["evaluate", "e"], ["compare", "a", "b"]])
def test_too_few_draws_for_an_interval_are_refused(tmp_path, make_embeddings, frame, capsys, command):
    folder = make_embeddings(tmp_path, frame, np.random.default_rng(0).normal(size=(len(frame), 5)))
    arguments = [str(folder) if argument == "e" else argument for argument in command]
    assert main([*arguments, "--draws", "39"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith("--draws 39 is too few for 95% intervals: give 40 or more")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["knn", "--folds", "9"], "--folds counts only with --split folds: leave it out, or give --split folds"),
        (["knn", "--shot-draws", "3"], "--shot-draws counts only with --shots"),
        (["knn", "--choose-k", "true", "--k", "5", "5"], "--choose-k has a single --k, which leaves no choice"),
        (["linear", "--solver", "sgd", "--c-values", "9"], "--c-values counts only with --solver lbfgs"),
        (["linear", "--steps", "9"], "--steps counts only with --solver sgd"),
        (["linear", "--batch", "9"], "--batch counts only with --solver sgd"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(judge, command, words):
    code, said = judge(command)
    assert code == 2 and words in said


def _two_kinds(frame):
    return np.where(np.arange(len(frame)) % 2, "Eczema", "Fungal")


@pytest.mark.parametrize("command", [KNN, LINEAR, ["evaluate", "--probe", "knn"]])
@pytest.mark.parametrize("side", ["train", "test"])
def test_one_class_on_a_side_of_the_split_is_refused(judge, frame, command, side):
    labels = np.where(frame["split"] == side, "Eczema", _two_kinds(frame))
    code, said = judge(command, condition=labels)
    images = (frame["split"] == side).sum()
    assert code == 2
    assert f"all {images} {'fitted' if side == 'train' else 'scored'} images have 'condition' = Eczema" in said


@pytest.mark.parametrize("command", [KNN, ["evaluate", "--probe", "knn"]])
def test_images_that_the_split_leaves_out_are_counted(judge, frame, command):
    left = frame["patient_id"].isin(["toy/P001", "toy/P002"])
    code, said = judge(command, split=frame["split"].where(~left, None))
    assert code == 0 and f"{left.sum()} of {len(frame)} labelled images have no split and are left out" in said


@pytest.mark.parametrize("command", [KNN, [*LINEAR, "--split", "folds"]])
def test_a_class_with_one_patient_is_noted(judge, frame, command):
    labels = np.where(frame["patient_id"] == "toy/P001", "Scabies", _two_kinds(frame))
    code, said = judge(command, condition=labels)
    assert code == 0 and "class Scabies occurs in one patient only" in said


def test_a_fold_without_a_class_is_noted(judge, frame):
    labels = np.where(frame["patient_id"] == "toy/P001", "Scabies", _two_kinds(frame))
    code, said = judge([*KNN, "--split", "folds"], condition=labels)
    assert code == 0 and "the train images lack class Scabies, which cannot be predicted there" in said


def test_data_without_a_target_is_refused(judge):
    code, said = judge(KNN, {})
    assert code == 2 and "declares no target" in said


def _target(name, values):
    return {name: Target(name, tuple(sorted(set(values))))}


def test_a_target_that_is_the_patient_is_refused(judge, frame):
    names = frame["patient_id"].str.removeprefix("toy/")
    code, said = judge(KNN, _target("who", names), who=names)
    assert code == 2 and "like an identifier" in said


def test_a_target_that_is_nearly_the_patient_is_noted(judge, frame):
    pairs = (frame["patient_id"].str[-3:].astype(int) // 2).astype(str)
    code, said = judge([*KNN, "--split", "folds"], _target("pair", pairs), pair=pairs)
    assert code == 0 and "classes of 'pair' belong to at most 2 patients each, like an identifier" in said


def test_evaluate_leaves_out_a_target_that_cannot_be_judged_and_scores_the_others(
    tmp_path, make_embeddings, frame, capsys
):
    frame["who"] = frame["patient_id"].str.removeprefix("toy/")
    targets = _target("who", frame["who"]) | {"sex": Target("sex", ("female", "male"))}
    folder = make_embeddings(tmp_path, frame, np.random.default_rng(0).normal(size=(len(frame), 5)), targets)
    assert main(["evaluate", str(folder), "--probe", "knn", "--json", str(tmp_path / "j.json"), *FAST]) == 0
    result = json.loads((tmp_path / "j.json").read_text())
    assert {entry["target"] for entry in result["experiments"]} == {"sex"}
    assert "who is not evaluated" in capsys.readouterr().out


def test_too_few_patients_for_the_inner_folds_are_called_so(judge, frame):
    few = frame["patient_id"].isin(["toy/P000", "toy/P001", "toy/P002"])
    code, said = judge(LINEAR, condition=np.where(few, _two_kinds(frame), None))
    assert code == 2 and "--inner-folds within the training patients: 5 folds of 2 patients" in said


def test_pooled_data_sets_with_another_positive_class_are_told_apart(tmp_path, make_embeddings, make_frame, capsys):
    folders, classes = [], ("no impetigo", "impetigo")
    for name, declared in (("one", {"kind": "binary", "positive": "impetigo"}), ("two", {})):
        frame = make_frame(40, 1, name)
        target = {"impetigo": Target("impetigo", classes, **declared)}
        folders.append(str(make_embeddings(tmp_path / name, frame, np.eye(len(frame)), target)))
    assert main(["knn", *folders, "--target", "impetigo", *FAST]) == 2
    told = "one: binary, of the image, positive class impetigo; two: multiclass, of the image, positive class not named"
    assert f"the data sets declare 'impetigo' differently ({told})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "second", "union"),
    [
        (("Scabies", "Eczema", "Fungal"), ("Fungal", "Scabies"), "Scabies, Eczema, Fungal"),
        (("Fungal", "Scabies"), ("Scabies", "Eczema", "Fungal"), "Scabies, Eczema, Fungal"),
        (("Eczema", "Scabies"), ("Eczema", "Fungal"), "Eczema, Fungal, Scabies"),
        (("Eczema", "Fungal"), ("Others", "Scabies"), ""),
    ],
)
def test_pooled_data_sets_have_the_classes_of_all_if_they_share_one(
    tmp_path, make_embeddings, make_frame, capsys, first, second, union
):
    folders, random = [], np.random.default_rng(0)
    for name, classes in (("one", first), ("two", second)):
        frame = make_frame(40, 1, name)
        frame["condition"] = frame["condition"].where(frame["condition"].isin(classes))
        features, target = random.normal(size=(len(frame), 5)), {"condition": Target("condition", classes)}
        folders.append(str(make_embeddings(tmp_path / name, frame, features, target)))
    code = main([*KNN, *folders, "--json", str(tmp_path / "j.json"), *FAST])
    assert code == (0 if union else 2)
    if not union:
        assert "no class in common" in capsys.readouterr().err
        return
    data = json.loads((tmp_path / "j.json").read_text())
    assert ", ".join(data["classes"]) == union
    for name, classes in (("one", first), ("two", second)):
        lacking = ", ".join(label for label in data["classes"] if label not in classes)
        assert any(f"{name} has no class {lacking}, which" in note for note in data["notes"]) == bool(lacking)
