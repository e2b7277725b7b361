"""Comparison: matched by image id, paired by patient, refused where the questions differ; a page that leaks nothing."""

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermeval.cli import main
from dermeval.pages.tables import show
from dermssl.dataset.licence import read_notices

FAST = ["--draws", "200"]


@pytest.fixture
def three(tmp_path, make_embeddings, frame, class_features):
    """Results folders of good, noisy and useless features on the same images: a copy of those made once."""
    noises = {"good": 0.0, "noisy": 4.0, "useless": 1000.0}
    if not (made := tmp_path.parent / "three").exists():
        random = np.random.default_rng(5)
        for name, noise in noises.items():
            features = class_features + noise * random.normal(size=class_features.shape)
            emb = make_embeddings(tmp_path / name, frame, features, fingerprint=name)
            arguments = ["--split", "folds", "--recall", "false", "--out", str(tmp_path / "made" / name), *FAST]
            assert main(["knn", str(emb), *arguments]) == 0
        (tmp_path / "made").rename(made)
    results = shutil.copytree(made, tmp_path / "results")
    return [str(results / name) for name in noises]


def test_differences_are_those_of_the_scores_and_cover_them(tmp_path, three):
    assert main(["compare", *three, "--out", str(tmp_path / "c"), *FAST]) == 0
    table = pd.read_csv(tmp_path / "c" / "comparison.csv").set_index(["level", "score", "result"]).sort_index()
    for level, score in {(level, score) for level, score, _ in table.index}:
        rows = table.loc[level, score]
        expected = rows["value"] - rows.loc["good", "value"]
        assert rows["difference"].drop("good").to_numpy() == pytest.approx(expected.drop("good").to_numpy())
        assert pd.isna(rows.loc["good", "difference"])
    worse = table.loc["image", "balanced_accuracy", "useless"]
    assert worse["difference_high"] < 0 and worse["p"] == pytest.approx(2 / 201)
    stored = json.loads((tmp_path / "results" / "good" / "result.json").read_text())
    value = stored["levels"]["case"]["scores"]["macro_f1"]["value"]
    assert table.loc["case", "macro_f1", "good"]["value"] == pytest.approx(value)


def test_a_p_below_the_last_digit_is_not_shown_as_0():
    entry = {"value": 0.1, "low": 0.05, "high": 0.2}
    assert show(entry | {"p": 2 / 5001}) == "0.100 [0.050, 0.200], p below 0.001"
    assert show(entry | {"p": 2 / 2001}) == "0.100 [0.050, 0.200], p 0.001"


def test_rows_are_matched_by_image_id_not_by_position(tmp_path, three, capsys):
    assert main(["compare", *three, *FAST]) == 0
    before = capsys.readouterr().out
    path = tmp_path / "results" / "noisy" / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array(np.random.default_rng(0).permutation(len(table)))), path)
    assert main(["compare", *three, *FAST]) == 0
    assert capsys.readouterr().out == before


class Loads(HTMLParser):
    """Every address that a page would load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [tag] if tag in ("script", "img", "image", "iframe", "link") else []
        self.found += [value for name, value in attributes if name == "src"]


def test_the_page_is_self_contained_and_holds_no_image(tmp_path, three):
    assert main(["compare", *three, "--out", str(tmp_path / "c"), *FAST]) == 0
    text = (tmp_path / "c" / "comparison.html").read_text()
    page = Loads()
    page.feed(text)
    assert page.found == [] and "@import" not in text
    assert text.count("<svg") == 4
    for shown in ("good", "noisy", "useless", "Toy et al."):
        assert shown in text
    assert (tmp_path / "c" / "comparison.tex").read_text().count(r"\\") == 4


def test_the_report_says_what_may_be_done_with_it(tmp_path, three):
    assert main(["compare", *three, "--out", str(tmp_path / "c"), "--json", str(tmp_path / "printed.json"), *FAST]) == 0
    assert [entry["id"] for entry in read_notices(tmp_path / "c")] == ["CC-BY-4.0"]
    printed = json.loads((tmp_path / "printed.json").read_text())
    assert {"report_of": "dermeval compare"} | json.loads((tmp_path / "c" / "comparison.json").read_text()) == printed


def test_notes_are_escaped_in_latex(tmp_path, three):
    path = tmp_path / "results" / "noisy" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"notes": [r"~/runs\a^b_c"]}))
    assert main(["compare", *three, "--out", str(tmp_path / "c"), *FAST]) == 0
    told = (tmp_path / "c" / "comparison.tex").read_text().splitlines()[-1]
    assert told == r"\textasciitilde{}/runs\textbackslash{}a\textasciicircum{}b\_c"


def test_names_are_escaped_in_the_page(tmp_path, three):
    odd = tmp_path / "results" / "<b>odd"
    (tmp_path / "results" / "noisy").rename(odd)
    assert main(["compare", three[0], str(odd), "--out", str(tmp_path / "c"), *FAST]) == 0
    assert "<b>odd" not in (tmp_path / "c" / "comparison.html").read_text()


def test_results_on_other_images_are_refused(tmp_path, three, make_embeddings, frame, class_features, capsys):
    fewer = frame["patient_id"] != frame["patient_id"].iloc[0]
    emb = make_embeddings(tmp_path / "fewer", frame[fewer], class_features[fewer])
    arguments = ["knn", str(emb), "--split", "folds", "--out", str(tmp_path / "results" / "fewer")]
    assert main([*arguments, *FAST]) == 0
    assert main(["compare", three[0], str(tmp_path / "results" / "fewer")]) == 2
    assert f"{int(fewer.sum())} are shared" in capsys.readouterr().err


def test_results_with_other_labels_are_refused(tmp_path, three, capsys):
    path = tmp_path / "results" / "noisy" / "predictions.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "y_true"] = next(name for name in ("Eczema", "Fungal") if name != table.loc[0, "y_true"])
    table.to_parquet(path)
    assert main(["compare", *three]) == 2
    assert table.loc[0, "image_id"] in capsys.readouterr().err


@pytest.mark.parametrize(("column", "what"), [("case_id", "cases"), ("group_id", "groups")])
def test_results_with_other_cases_or_patients_are_refused(tmp_path, three, capsys, column, what):
    path = tmp_path / "results" / "noisy" / "predictions.parquet"
    table = pd.read_parquet(path)
    table.loc[[0, 1], column] = "another"
    table.to_parquet(path)
    assert main(["compare", *three]) == 2
    assert f"different {what} for 2 images" in capsys.readouterr().err


def test_a_result_of_another_kind_is_named_by_its_key(three, tmp_path, capsys):
    path = tmp_path / "results" / "noisy" / "result.json"
    stored = json.loads(path.read_text())
    changes = {
        "datasets.0": {"datasets": [{}]},
        "licences.0": {"licences": [None]},
        "protocol.seed": {"protocol": {"split": "folds", "folds": 5}},
        "counts": {"counts": 3},
        "classes": {"classes": ["Eczema"]},
        "'positive' is not one of the classes": {"positive": "none of them"},
    }
    for key, change in changes.items():
        path.write_text(json.dumps(stored | change))
        assert main(["compare", *three]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and key in error[0] and str(path) in error[0]


@pytest.mark.parametrize(("pick", "words"), [([0], "at least two"), ([0, 0], "given twice")])
def test_one_folder_or_one_twice_is_refused(three, capsys, pick, words):
    assert main(["compare", *(three[index] for index in pick)]) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def seeds(tmp_path, make_embeddings, frame, class_features):
    """``seeds(name, noise, numbers)``: a folder of one encoder's results, one per seed."""

    def make(name, noise, numbers):
        for seed in numbers:
            random = np.random.default_rng(seed)
            features = class_features + noise * random.normal(size=class_features.shape)
            emb = make_embeddings(tmp_path / f"{name}{seed}", frame, features, fingerprint=f"{name}{seed}")
            folder = tmp_path / "seeds" / name / str(seed)
            arguments = ["--split", "folds", "--recall", "false", "--seed", str(seed), "--out", str(folder)]
            assert main(["knn", str(emb), *arguments, *FAST]) == 0
        return tmp_path / "seeds" / name

    return make


def test_a_folder_of_seeds_is_the_mean_of_their_scores_with_their_deviation(tmp_path, seeds, capsys):
    one, several = seeds("one", 6.0, [7]) / "7", seeds("several", 2.0, [1, 2, 3])
    assert main(["compare", str(one), str(several), "--out", str(tmp_path / "c"), *FAST]) == 0
    table = pd.read_csv(tmp_path / "c" / "comparison.csv").set_index(["level", "score", "result"])
    stored = [json.loads((several / str(seed) / "result.json").read_text()) for seed in (1, 2, 3)]
    for level, score in (("image", "balanced_accuracy"), ("case", "macro_auroc")):
        values = [result["levels"][level]["scores"][score]["value"] for result in stored]
        row, reference = table.loc[level, score, "several"], table.loc[level, score, "7"]
        assert row["value"] == pytest.approx(np.mean(values)) and row["seeds"] == 3
        assert row["seed_sd"] == pytest.approx(np.std(values, ddof=1)) and pd.isna(reference["seed_sd"])
        assert row["difference"] == pytest.approx(row["value"] - reference["value"])
    assert "several: mean of 3 seeds" in capsys.readouterr().out


def test_what_differs_in_more_than_its_seed_is_not_averaged(three, seeds, capsys):
    several = seeds("several", 2.0, [1, 2])
    path = several / "2" / "result.json"
    stored = json.loads(path.read_text())
    for change, words in (
        ({"settings": stored["settings"] | {"k": 5}}, "differ in k (20, 5)"),
        ({"settings": stored["settings"] | {"votes": "balanced"}}, "differ in votes (None, balanced)"),
        ({"probe": "linear"}, "differ in probe"),
        ({"protocol": stored["protocol"] | {"seed": 1}, "encoder": _encoder(several / "1")}, "the same encoder and"),
    ):
        path.write_text(json.dumps(stored | change))
        assert main(["compare", three[0], str(several)]) == 2
        assert words in capsys.readouterr().err


def _encoder(folder):
    return json.loads((folder / "result.json").read_text())["encoder"]


def test_whole_protocols_compare_experiment_by_experiment(tmp_path, make_embeddings, frame, class_features, capsys):
    folders = []
    for name, noise in (("a", 0.0), ("b", 5.0)):
        features = class_features + noise * np.random.default_rng(0).normal(size=class_features.shape)
        emb = make_embeddings(tmp_path / name, frame, features, fingerprint=name * 64)
        folders.append(str(tmp_path / "protocols" / name))
        arguments = ["--probe", "both", "--draws", "40", "--out", folders[-1]]
        assert main(["evaluate", str(emb), *arguments]) == 0
    capsys.readouterr()
    assert main(["compare", *folders, "--out", str(tmp_path / "c"), *FAST]) == 0
    table = pd.read_csv(tmp_path / "c" / "comparison.csv")
    assert set(table["experiment"]) == {"condition, knn, official split", "condition, linear, official split"}
    stored = json.loads((tmp_path / "protocols" / "b" / "result.json").read_text())["experiments"]
    for entry in stored:
        rows = table[table["experiment"] == f"condition, {entry['probe']}, official split"].set_index(
            ["level", "score", "result"]
        )
        value = entry["levels"]["case"]["scores"]["macro_f1"]["value"]
        assert rows.loc[("case", "macro_f1", "b"), "value"] == pytest.approx(value)
    tex = (tmp_path / "c" / "comparison.tex").read_text()
    assert tex.count("toprule") == 2
    assert r"\caption{scores, condition, linear, official split, case level, by patient}" in tex


def test_an_experiment_that_only_one_protocol_has_is_told(tmp_path, make_embeddings, frame, class_features, capsys):
    folders = [str(tmp_path / name) for name in ("knn", "both")]
    for folder in folders:
        emb = make_embeddings(Path(folder + "-data"), frame, class_features)
        assert main(["evaluate", str(emb), "--probe", Path(folder).name, "--draws", "40", "--out", folder]) == 0
    capsys.readouterr()
    assert main(["compare", *folders, *FAST]) == 0
    assert "note: left out, as not all results have it: condition, linear, official split" in capsys.readouterr().out


def test_a_protocol_and_a_probe_have_nothing_to_compare(
    tmp_path, three, make_embeddings, frame, class_features, capsys
):
    emb = make_embeddings(tmp_path / "p", frame, class_features)
    assert main(["evaluate", str(emb), "--probe", "knn", "--draws", "40", "--out", str(tmp_path / "protocol")]) == 0
    assert main(["compare", three[0], str(tmp_path / "protocol")]) == 2
    assert "no experiment in common" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, -0.1, 2.0])
def test_probabilities_that_are_none_are_refused(three, tmp_path, capsys, value):
    path = tmp_path / "results" / "noisy" / "predictions.parquet"
    table = pd.read_parquet(path)
    table.loc[3, "p_Eczema"] = value
    table.to_parquet(path)
    assert main(["compare", *three]) == 2
    assert f"a probability of {table.loc[3, 'image_id']} is not from 0 to 1" in capsys.readouterr().err


def test_a_folder_whose_name_is_not_utf_8_compares(three, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path / "results") + b"/caf\xe9")
    (tmp_path / "results" / "noisy").rename(odd)
    assert main(["compare", three[0], odd, "--out", str(tmp_path / "c"), "--json", str(tmp_path / "j"), *FAST]) == 0
    assert "caf" in (tmp_path / "c" / "comparison.html").read_text()


def test_results_are_compared_whose_probes_were_fitted_with_and_without_a_further_data_set(
    tmp_path, make_embeddings, make_frame
):
    """The further set has copies of test images, and its name comes first."""
    toy, more = make_frame(40, 0), make_frame(40, 0, "another").assign(split="train")
    features, pixels = np.random.default_rng(1).normal(size=(len(toy), 6)), toy["image_id"].to_numpy()
    made = [
        str(make_embeddings(tmp_path / str(number), rows.assign(pixel_sha256=pixels), features))
        for number, rows in enumerate((toy, more))
    ]
    for name, folders in (("alone", made[:1]), ("pooled", made)):
        assert main(["knn", *folders, "--recall", "false", "--out", str(tmp_path / name), *FAST]) == 0
    assert main(["compare", str(tmp_path / "alone"), str(tmp_path / "pooled"), *FAST]) == 0
