"""kNN by patient: the vote of DINO's published code, splits that keep patients whole, clear words on bad input."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from dermeval.cli import main
from dermeval.features.embeddings import open_embeddings
from dermeval.probes.folds import Fold, check_folds, copies_of_fitted, grouped, make_folds
from dermeval.probes.knn import feature_space, knn
from dermeval.probes.open_results import read_predictions
from dermeval.probes.options import KnnOptions
from dermeval.probes.predictions import Predictions, by_case, collect
from dermeval.probes.task import open_task, unit_of
from dermeval.retrieval.remove import _from_embeddings
from dermssl import licences
from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.neighbours import recall_at_1

CONDITION = Target("condition", ("Eczema", "Fungal", "Others", "Scabies"), level="case")
FAST = ["--draws", "100"]


def dino_knn(train, train_labels, test, k, temperature, classes):
    """NumPy transcription of ``knn_classifier`` in facebookresearch/dino's eval_knn.py."""
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    test = test / np.linalg.norm(test, axis=1, keepdims=True)
    similarity = test @ train.T
    indices = np.argsort(-similarity, axis=1)[:, :k]
    distances = np.take_along_axis(similarity, indices, axis=1)
    one_hot = np.eye(classes)[train_labels[indices]]
    return (one_hot * np.exp(distances / temperature)[:, :, None]).sum(1)


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_probabilities_are_the_votes_of_dinos_published_code(tmp_path, make_embeddings, frame, class_features):
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["knn", str(emb), "--out", str(tmp_path / "r"), *FAST]) == 0
    table = pd.read_parquet(tmp_path / "r" / "predictions.parquet").set_index("image_id")
    labels = frame["condition"].map(CONDITION.classes.index).to_numpy()
    train, test = (frame["split"] == "train").to_numpy(), (frame["split"] == "test").to_numpy()
    features = class_features.astype(np.float32)
    votes = dino_knn(features[train], labels[train], features[test], 20, 0.07, 4)
    expected = votes / votes.sum(1, keepdims=True)
    got = table.loc[frame["image_id"][test], [f"p_{name}" for name in CONDITION.classes]].to_numpy()
    assert np.allclose(got, expected, atol=1e-4)
    accuracy = (expected.argmax(1) == labels[test]).mean()
    assert result_of(tmp_path / "r")["levels"]["image"]["scores"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_the_majority_vote_is_scikit_learns(tmp_path, make_embeddings, frame, class_features):
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["knn", str(emb), "--k", "5", "20", "--json", str(tmp_path / "j.json"), *FAST]) == 0
    train, test = (frame["split"] == "train").to_numpy(), (frame["split"] == "test").to_numpy()
    rows = {row["k"]: row for row in json.loads((tmp_path / "j.json").read_text())["by_k"]}
    for k in (5, 20):
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        guess = model.fit(class_features[train], frame["condition"][train]).predict(class_features[test])
        truth = frame["condition"][test]
        assert rows[k]["majority_accuracy"] == pytest.approx((guess == truth).mean())
        assert rows[k]["majority_macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert any(rows[k]["accuracy"] != rows[k]["majority_accuracy"] for k in rows)


def test_groups_of_several_kinds_are_called_groups():
    assert unit_of([{"group": "lesion"}, {"group": "lesion"}]) == "lesion"
    assert unit_of([{"group": "lesion"}, {"group": "patient"}]) == "group"


def test_copies_of_scored_images_are_not_fitted_and_kept_in_one_fold(make_embeddings, tmp_path, frame, class_features):
    pixels = frame["image_id"].to_numpy(copy=True)
    trained, tested = (np.flatnonzero(frame["split"] == side)[:3] for side in ("train", "test"))
    pixels[tested] = pixels[trained]
    emb = make_embeddings(tmp_path, frame.assign(pixel_sha256=pixels), class_features)
    data = knn(KnnOptions(embeddings=[str(emb)], draws=100)).data
    assert any("not fitted: 3 copies of test images" in note for note in data["notes"])
    assert data["counts"]["fitted"] == [(frame["split"] == "train").sum() - 3]
    task = open_task([str(emb)], None)
    for seed in range(3):
        folds = make_folds(task, "folds", 4, seed)
        assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(frame)))
        assert not copies_of_fitted(task, folds)


def test_a_second_data_set_of_the_same_images_leaves_every_interval_as_it_is(tmp_path, make_embeddings, make_frame):
    """The bootstrap draws the two records of a patient together, and the nearest two neighbours are one image."""
    frames = [make_frame(60, 3, name).assign(lesion_id=None) for name in ("toy", "again")]
    random, pixels = np.random.default_rng(4), frames[0]["image_id"].to_numpy()
    features = random.normal(size=(len(pixels), 4)) + 2 * pd.get_dummies(frames[0]["condition"]).to_numpy()
    folders = [
        str(make_embeddings(tmp_path / str(number), frame.assign(pixel_sha256=pixels), features))
        for number, frame in enumerate(frames)
    ]
    alone = knn(KnnOptions(embeddings=folders[:1], k=[1], draws=100)).data
    both = knn(KnnOptions(embeddings=folders, k=[2], draws=100)).data
    assert both["counts"]["scored"] == 2 * alone["counts"]["scored"]
    for level, scored in alone["levels"].items():
        assert both["levels"][level]["clusters"] == scored["clusters"]
        for name in ("balanced_accuracy", "accuracy", "macro_f1", "macro_auroc", "brier", "ece"):
            assert both["levels"][level]["scores"][name] == pytest.approx(scored["scores"][name]), (level, name)
    (first,), (second, third) = alone["recall_at_1"], both["recall_at_1"]
    assert first["low"] == second["low"] == third["low"] and first["high"] == second["high"] == third["high"]


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_folds_hold_as_many_patients_of_each_class(seed):
    """scikit-learn before 1.8 lost the stratification when it shuffled: folds were random groups."""
    labels, patients = np.repeat([0, 1], [20, 10]), [f"p{number}" for number in range(30)]
    task = SimpleNamespace(labels=labels, groups=np.array(patients), where="toy", unit="patient")
    assert [np.bincount(labels[fold.test]).tolist() for fold in grouped(task, 5, seed)] == [[4, 2]] * 5


def test_folds_score_every_image_once_and_never_share_a_patient(tmp_path, make_embeddings, frame, class_features):
    emb = make_embeddings(tmp_path, frame.drop(columns="split"), class_features)
    assert main(["knn", str(emb), "--split", "folds", "--folds", "4", "--out", str(tmp_path / "r"), *FAST]) == 0
    table = pd.read_parquet(tmp_path / "r" / "predictions.parquet")
    assert table["image_id"].tolist() == frame["image_id"].tolist()
    assert table.groupby("group_id")["fold"].nunique().max() == 1
    assert sorted(table["fold"].unique()) == [0, 1, 2, 3]
    assert table["y_true"].tolist() == frame["condition"].tolist()


def test_predictions_read_back_as_written(tmp_path, make_embeddings, frame, class_features):
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["knn", str(emb), "--out", str(tmp_path / "r"), *FAST]) == 0
    read = read_predictions(tmp_path / "r", CONDITION.classes)
    by_id = frame.set_index("image_id")["condition"].map(CONDITION.classes.index)
    assert (by_id.loc[read.frame["image_id"]].to_numpy() == read.truth).all()
    assert np.allclose(read.probabilities.sum(1), 1)


def test_k_beyond_the_training_images_is_clipped_and_said(tmp_path, make_embeddings, frame, class_features, capsys):
    emb = make_embeddings(tmp_path, frame, class_features)
    train = int((frame["split"] == "train").sum())
    assert main(["knn", str(emb), "--k", "500", "20", "--json", str(tmp_path / "j.json"), *FAST]) == 0
    assert f"k = 500 is more than the {train} training images" in capsys.readouterr().out
    report = json.loads((tmp_path / "j.json").read_text())
    assert [row["k"] for row in report["by_k"]] == [20, train] and report["settings"]["k"] == 20


def test_a_case_is_the_mean_of_its_images_and_conflicting_cases_are_left_out():
    frame = pd.DataFrame({"image_id": list("abcde"), "case_id": list("xxyzz"), "group_id": list("pppqq")})
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.5, 0.5], [0.5, 0.5]])
    images = Predictions(frame.assign(fold=0, seed=0), np.array([0, 0, 1, 0, 1]), probabilities, ("n", "y"))
    cases, conflicting = by_case(images)
    assert cases.frame["case_id"].tolist() == ["x", "y"] and conflicting == 1
    assert np.allclose(cases.probabilities, [[0.6, 0.4], [0.2, 0.8]])
    assert cases.frame["group_id"].tolist() == ["p", "p"]


def test_a_case_by_majority_counts_images_and_settles_ties_by_probability():
    frame = pd.DataFrame({"image_id": list("abcde"), "case_id": list("xxxyy"), "group_id": list("ppppp")})
    probabilities = np.array([[0.51, 0.49], [0.51, 0.49], [0.0, 1.0], [0.6, 0.4], [0.1, 0.9]])
    images = Predictions(frame.assign(fold=0, seed=0), np.array([0, 0, 0, 1, 1]), probabilities, ("n", "y"))
    assert by_case(images)[0].probabilities.argmax(1).tolist() == [1, 1]
    votes = by_case(images, "majority")[0].probabilities
    assert votes.argmax(1).tolist() == [0, 1]
    assert np.allclose(votes, [[2 / 3, 1 / 3], [0.5, 0.5]], atol=1e-5)


def test_both_ways_to_score_a_case_are_reported(tmp_path, make_embeddings, frame, class_features, capsys):
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["knn", str(emb), "--out", str(tmp_path / "r"), *FAST]) == 0
    assert "case level by majority vote of the images: accuracy" in capsys.readouterr().out
    read = read_predictions(tmp_path / "r", CONDITION.classes)
    votes = pd.Series(read.probabilities.argmax(1)).groupby(read.frame["case_id"].to_numpy())
    truth = pd.Series(read.truth).groupby(read.frame["case_id"].to_numpy()).first()
    clear = votes.agg(lambda found: (found.value_counts() == found.value_counts().max()).sum() == 1)
    right = votes.agg(lambda found: found.value_counts().index[0]) == truth
    accuracy = result_of(tmp_path / "r")["levels"]["case"]["by_majority"]["accuracy"]["value"]
    # Ties may go either way here; the clear cases may not.
    assert right[clear].sum() <= round(accuracy * len(truth)) <= right[clear].sum() + (~clear).sum()


def test_predictions_do_not_depend_on_the_order_within_a_fold(tmp_path, make_embeddings, frame, class_features):
    task = open_task([str(make_embeddings(tmp_path, frame, class_features))], None)
    rows = np.arange(12)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 12)
    shuffled = np.random.default_rng(1).permutation(12)
    plain = collect(task, [Fold(0, rows, rows)], [probabilities], 0)
    other = collect(task, [Fold(0, rows, rows[shuffled])], [probabilities[shuffled]], 0)
    assert plain.frame.equals(other.frame) and np.array_equal(plain.probabilities, other.probabilities)


def test_unlabelled_images_are_left_out_and_counted(tmp_path, make_embeddings, frame, class_features, capsys):
    frame.loc[frame.index[:7], "condition"] = None
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["knn", str(emb), "--split", "folds", "--out", str(tmp_path / "r"), *FAST]) == 0
    assert f"7 of {len(frame)} images have no label" in capsys.readouterr().out
    assert result_of(tmp_path / "r")["counts"]["scored"] == len(frame) - 7


def test_a_later_split_of_the_dataset_folder_counts(tmp_path, make_embeddings, make_dataset, frame, class_features):
    emb = make_embeddings(tmp_path, frame, class_features)
    (tmp_path / "data").rename(tmp_path / "old")
    last = frame["group_id"].unique()[-8:]
    frame["split"] = np.where(frame["group_id"].isin(last), "test", "train")
    frame.loc[frame["group_id"] == frame["group_id"].iloc[0], "split"] = "test"
    make_dataset(tmp_path / "data", frame, {"condition": CONDITION})
    assert main(["knn", str(emb), "--out", str(tmp_path / "r"), *FAST]) == 0
    scored = pd.read_parquet(tmp_path / "r" / "predictions.parquet")["image_id"]
    assert sorted(scored) == sorted(frame["image_id"][frame["split"] == "test"])


def test_recall_at_1_counts_the_nearest_other_image_of_repeated_ids_only():
    features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.5, 0.5], [0.05, 0.95]])
    ids = np.array(["a", "a", "b", None, "c", "b"], dtype=object)
    queries, hits = recall_at_1(features, ids)
    assert queries.tolist() == [0, 1, 2, 5]
    # Row 5's nearest other row is either neighbour at 0.05; brute force decides.
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = unit @ unit.T - 2 * np.eye(6)
    assert hits.tolist() == [ids[similarity[q].argmax()] == ids[q] for q in queries]


def test_recall_survives_exact_copies():
    features = np.ones((4, 3))
    queries, hits = recall_at_1(features, np.array(["a", "a", "a", "a"], dtype=object))
    assert len(queries) == 4 and hits.all()


@pytest.mark.parametrize("flag", [True, False])
def test_the_report_says_what_the_data_cannot_show(tmp_path, make_embeddings, frame, class_features, capsys, flag):
    emb = make_embeddings(tmp_path, frame, class_features, patient_key=not flag)
    assert main(["knn", str(emb), *FAST]) == 0
    printed = capsys.readouterr().out
    assert ("patient leakage cannot be ruled out" in printed) == flag
    assert "Toy et al." in printed


def test_the_unit_and_the_licences_are_those_that_the_dataset_folder_has_now(
    tmp_path, make_embeddings, frame, class_features
):
    """The data set was prepared again, with a patient key and a licence, after it was embedded."""
    emb = make_embeddings(tmp_path, frame, class_features, patient_key=False, group="lesion")
    path = tmp_path / "data" / "dataset.json"
    licence = licences.notice("toy", "PASSION", "Toy et al.", False)
    now = {"patient_key": True, "group": "patient", "licence": licence}
    path.write_text(json.dumps(json.loads(path.read_text()) | now))
    report = knn(KnnOptions(embeddings=[str(emb)], draws=100))
    assert "no patient key" not in report.text and "lesions" not in report.text
    assert "PASSION" in [entry["id"] for entry in report.data["licences"]]


@pytest.mark.parametrize("flag", [True, False])
def test_only_scores_of_synthetic_images_are_called_synthetic(tmp_path, make_embeddings, frame, class_features, flag):
    emb = make_embeddings(tmp_path, frame, class_features, synthetic=flag)
    info = json.loads((emb / "embedding.json").read_text())
    info["licences"].append(licences.notice("pictures", "CC0-1.0", "Drawn.", synthetic=True))  # seen by the encoder
    (emb / "embedding.json").write_text(json.dumps(info))
    report = knn(KnnOptions(embeddings=[str(emb)], target="condition", draws=100))
    assert ("SYNTHETIC data: these scores say nothing about patients" in report.text) == flag
    assert "pictures: SYNTHETIC data" in report.text


def bad(change):
    """A frame spoilt by ``change`` for the next test."""
    return pytest.param(change, id=change.__name__)


def constant(frame):
    frame["condition"] = "Eczema"
    return "nothing to learn"


def unlabelled(frame):
    frame["condition"] = None
    return "no image has a label"


def undeclared(frame):
    frame.loc[3, "condition"] = "Melanoma"
    return "not among its declared classes"


def identifier(frame):
    names = dict(zip(frame["patient_id"].unique(), CONDITION.classes, strict=False))
    frame["condition"] = frame["patient_id"].map(names)
    return "like an identifier"


def straddling(frame):
    first = frame["group_id"].value_counts().index[0]
    rows = frame.index[frame["group_id"] == first]
    frame.loc[rows, "split"] = ["train"] + ["test"] * (len(rows) - 1)
    return "in both train and test"


def without_test(frame):
    frame["split"] = "train"
    return "use --split folds"


@pytest.mark.parametrize("change", map(bad, (constant, unlabelled, undeclared, identifier, straddling, without_test)))
def test_labels_that_cannot_be_judged_are_refused(tmp_path, make_embeddings, frame, class_features, capsys, change):
    words = change(frame)
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["knn", str(emb), *FAST]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1] and not any("Traceback" in line for line in error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "conditon"], "did you mean 'condition'"),
        (["--split", "folds", "--folds", "99"], "99 folds of 40 patients"),
        (["--split", "folds", "--folds", "1"], "1 folds of 40 patients"),
        (["--temperature", "0"], "--temperature"),
        (["--k", "0"], "--k"),
    ],
)
def test_bad_options_name_the_remedy(tmp_path, make_embeddings, frame, class_features, capsys, arguments, words):
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["knn", str(emb), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_nan_features_are_refused_by_image(tmp_path, make_embeddings, frame, class_features, capsys):
    class_features[5, 2] = np.nan
    emb = make_embeddings(tmp_path, frame, class_features)
    assert main(["knn", str(emb)]) == 2
    assert frame["image_id"][5] in capsys.readouterr().err


def test_features_of_two_encoders_are_not_pooled(tmp_path, make_embeddings, frame, class_features, capsys):
    one = make_embeddings(tmp_path / "1", frame, class_features)
    other = frame.assign(**{c: "other/" + frame[c].str[4:] for c in ("image_id", "group_id", "case_id", "patient_id")})
    two = make_embeddings(tmp_path / "2", other, class_features, fingerprint="e" * 64)
    assert main(["knn", str(one), str(two)]) == 2
    assert "different encoders" in capsys.readouterr().err
    assert main(["knn", str(one), str(one)]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_only_the_result_of_the_same_command_is_replaced(tmp_path, make_embeddings, frame, class_features, capsys):
    emb, out = str(make_embeddings(tmp_path / "e", frame, class_features)), tmp_path / "r"
    arguments = [emb, "--draws", "40", "--out", str(out), "--overwrite"]
    assert main(["knn", *arguments]) == 0 and main(["knn", *arguments]) == 0
    assert main(["linear", *arguments]) == 2 and main(["evaluate", *arguments]) == 2
    (out / "mine.csv").write_text("mine")
    assert main(["knn", *arguments]) == 2 and (out / "mine.csv").exists()
    assert "mine.csv" in capsys.readouterr().err


def test_pooled_folders_are_judged_together(tmp_path, make_embeddings, frame, class_features):
    one = make_embeddings(tmp_path / "1", frame, class_features)
    other = frame.assign(**{c: "other/" + frame[c].str[4:] for c in ("image_id", "group_id", "case_id", "patient_id")})
    two = make_embeddings(tmp_path / "2", other, class_features)
    assert main(["knn", str(one), str(two), "--out", str(tmp_path / "r"), *FAST]) == 0
    assert result_of(tmp_path / "r")["counts"]["scored"] == 2 * (frame["split"] == "test").sum()


def test_a_pooled_folder_whose_images_were_all_removed_is_refused(tmp_path, make_embeddings, frame, class_features):
    other = frame.assign(**{c: "other/" + frame[c].str[4:] for c in ("image_id", "group_id", "case_id", "patient_id")})
    one = make_embeddings(tmp_path / "1", frame, class_features)
    two = make_embeddings(tmp_path / "2", other, class_features)
    _from_embeddings(open_embeddings(two), np.zeros(len(other), bool))
    with pytest.raises(InputError, match="2/emb: no images left, all were removed"):
        open_task([str(one), str(two)], None)


def test_a_fold_that_shares_a_patient_is_an_input_error_naming_it(tmp_path, make_embeddings, frame, class_features):
    task = open_task([str(make_embeddings(tmp_path, frame, class_features))], None)
    patient = frame["group_id"].value_counts().index[0]
    mine, others = (np.flatnonzero((task.groups == patient) == own) for own in (True, False))
    with pytest.raises(InputError, match=rf"patients in both train and test \(1: {patient}\)"):
        check_folds(task, [Fold(0, np.r_[others[:20], mine[:1]], np.r_[others[20:], mine[1:]][-1:])])


def test_balanced_votes_and_whitened_features_find_rare_classes(tmp_path, make_embeddings, make_frame, capsys):
    frame = make_frame(120, seed=2)
    random = np.random.default_rng(0)
    rare = frame["patient_id"].map({name: random.random() < 0.15 for name in frame["patient_id"].unique()})
    frame["condition"] = np.where(rare, "Scabies", "Eczema")
    # One strong direction that says nothing, and a weak one that tells the classes apart.
    features = random.normal(size=(len(frame), 3)) * [30, 1, 1]
    features[:, 1] += 2.5 * rare
    emb = make_embeddings(tmp_path, frame, features)
    scores = {}
    for name, options in {
        "plain": [],
        "whitened": ["--space", "whitened"],
        "both": ["--space", "whitened", "--votes", "balanced", "--choose-k"],
    }.items():
        arguments = ["knn", str(emb), "--split", "folds", "--k", "5", "20", "--json", str(tmp_path / "j.json")]
        assert main([*arguments, *options, *FAST]) == 0
        report = json.loads((tmp_path / "j.json").read_text())
        scores[name] = report["levels"]["image"]["scores"]["balanced_accuracy"]["value"]
    assert scores["plain"] < scores["whitened"] < scores["both"]
    assert report["settings"]["votes"] == "balanced" and set(report["settings"]["k"]) <= {5, 20}
    assert "space whitened, votes balanced, choose_k True" in capsys.readouterr().out


def test_whitened_features_are_uncorrelated_on_train_alone():
    random = np.random.default_rng(0)
    train = random.normal(size=(400, 5)) @ random.normal(size=(5, 5)) + 3
    white = feature_space(train, "whitened")(train)
    assert np.allclose(white.mean(0), 0, atol=1e-9) and np.allclose(np.cov(white, rowvar=False), np.eye(5), atol=0.05)
    assert np.allclose(feature_space(train, "centred")(train[:2]), train[:2] - train.mean(0))
    assert np.isclose(feature_space(train[:, :1], "whitened")(train[:, :1]).std(), 1, atol=0.01)  # a single feature


def test_features_that_are_all_equal_are_told(tmp_path, make_embeddings, make_frame, capsys, recwarn):
    frame = make_frame(30, seed=1)
    folder = make_embeddings(tmp_path, frame, np.ones((len(frame), 4)))
    assert main(["knn", str(folder), "--space", "whitened", "--draws", "40"]) == 0
    assert "all images have the same features, so these cannot tell classes apart" in capsys.readouterr().out
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]
