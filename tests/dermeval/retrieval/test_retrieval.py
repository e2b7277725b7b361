"""Retrieval measures against ir-measures (trec_eval) and by hand; junk, groups and paired encoders."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from dermeval.features.embeddings import write_embeddings
from dermeval.retrieval.measures import majority_at, measures_at
from dermeval.retrieval.options import RetrievalOptions
from dermeval.retrieval.retrieval import retrieval
from dermssl.dataset.dataset import open_dataset
from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.files import read_parquet, write_parquet

NAMED = ("condition", "diagnosis")


@pytest.mark.parametrize("k", [1, 5, 10])
def test_the_measures_equal_those_of_trec_eval(k):
    ir = pytest.importorskip("ir_measures", reason="needs ir-measures")
    random = np.random.default_rng(k)
    relevant = random.random((20, 30)) < 0.2
    relevant[:, 29] = True  # every query has something to find
    total = relevant.sum(1)
    qrels = [ir.Qrel(str(q), str(d), int(relevant[q, d])) for q in range(20) for d in range(30)]
    run = [ir.ScoredDoc(str(q), str(d), float(100 - d)) for q in range(20) for d in range(30)]
    ours = measures_at(relevant, total, k)
    ours["mAP"] *= np.minimum(k, total) / total  # trec_eval divides by all relevant images, this one by at most k
    wanted = dict(zip([ir.Success @ k, ir.R @ k, ir.P @ k, ir.AP @ k, ir.nDCG @ k], ours.values(), strict=True))
    for measure, values in wanted.items():
        theirs = {entry.query_id: entry.value for entry in ir.iter_calc([measure], qrels, run)}
        assert np.allclose(values, [theirs[str(q)] for q in range(20)], rtol=0, atol=1e-12)


def test_a_perfect_ranking_scores_one_also_where_more_than_k_are_relevant():
    relevant, total = np.ones((1, 5), dtype=bool), np.array([50])
    scores = measures_at(relevant, total, 5)
    assert scores["mAP"] == scores["nDCG"] == 1


@pytest.mark.parametrize(("labels", "right"), [([1, 1, 0], 1), ([0, 1, 1], 1), ([0, 1, 2], 0), ([1, 0, -1], 1)])
def test_the_majority_votes_and_the_nearest_breaks_a_tie(labels, right):
    assert majority_at(np.array([labels]), np.array([1]), 3) == right


@pytest.fixture
def embedded(make_dataset, embed_as, draw_skin):
    """Four patients with two images each on a circle; labels a, a, b, b by patient; two encoders."""
    groups, labels = [f"p{n // 2}" for n in range(8)], list("aaaabbbb")
    data = make_dataset("set", [draw_skin(n, 16) for n in range(8)], groups, ["test"] * 8, labels)
    angles = np.radians([0, 1, 10, 11, 90, 91, 100, 101])
    good = np.stack([np.cos(angles), np.sin(angles)], 1)
    return str(embed_as(data, good)), str(embed_as(data, good[[4, 1, 6, 3, 0, 5, 2, 7]], "bad"))


def test_the_own_patient_is_junk_for_a_target_and_a_hit_for_patients(embedded):
    options = {"k": [1, 3], "draws": 40}
    report = retrieval(RetrievalOptions(sources=[embedded[0]], **options)).data["encoders"][0]
    assert report["scores"]["hit@1"]["value"] == 1
    assert report["scores"]["P@3"]["value"] == pytest.approx(2 / 3)  # two others of the label, then the other label
    assert report["scores"]["mAP@3"]["value"] == report["scores"]["recall@3"]["value"] == 1
    assert report["scores"]["mMV@3"]["value"] == 1
    patients = retrieval(RetrievalOptions(sources=[embedded[0]], relevance="patient", **options)).data["encoders"][0]
    assert patients["scores"]["hit@1"]["value"] == 1 and "mMV@1" not in patients["scores"]


@pytest.mark.parametrize(("others", "said"), [("abab", False), ("abAB", True)])
def test_data_sets_that_name_their_classes_differently_are_told(make_dataset, draw_skin, tmp_path, others, said):
    images = [draw_skin(n, 16) for n in range(8)]
    parts = [("one", images[:4], "abab"), ("two", images[4:], others)]
    data = [open_dataset(make_dataset(name, own, list("pqrs"), None, list(labels))) for name, own, labels in parts]
    record = {"path": "e", "fingerprint": "e", "preprocessing": {"input_size": [3, 32, 32]}}
    write_embeddings(
        tmp_path / "both", np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), data, record, {}
    )
    text = retrieval(RetrievalOptions(sources=[str(tmp_path / "both")], draws=40)).text
    assert ("declare 'dx' with different classes" in text) == said


@pytest.mark.parametrize(("relevance", "groups", "patients"), [(None, "ppqqrs", 3), ("patient", "pxpprs", 1)])
def test_a_copy_of_the_query_is_no_hit(make_dataset, embed_as, draw_skin, relevance, groups, patients):
    """Images 0 and 2 have the same pixels, so p and q are drawn as one. No image is nearest to one of its label."""
    pictures = [draw_skin(n, 16) for n in (0, 1, 0, 2, 3, 4)]
    angles = np.radians([0, 90, 0, 190, 10, 200])
    data = make_dataset("set", pictures, list(groups), labels=list("aaaabb"))
    folder = embed_as(data, np.stack([np.cos(angles), np.sin(angles)], 1))
    report = retrieval(RetrievalOptions([str(folder)], relevance=relevance, k=[1], draws=40))
    assert report.data["encoders"][0]["scores"]["hit@1"]["value"] == 0
    assert report.data["encoders"][0]["patients"] == patients


def test_two_encoders_are_compared_query_by_query(embedded):
    report = retrieval(RetrievalOptions(sources=list(embedded), k=[1], draws=40))
    first, second = (part["scores"]["hit@1"]["value"] for part in report.data["encoders"])
    assert report.data["difference"]["hit@1"]["value"] == pytest.approx(second - first) and second < first
    same = retrieval(RetrievalOptions(sources=[embedded[0]] * 2, k=[1], draws=40)).data["difference"]["hit@1"]
    assert same == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize(("column", "what"), [("dx", "labels"), ("group_id", "groups"), ("image_id", "images")])
def test_encoders_are_not_compared_on_different_data(make_dataset, embed_as, draw_skin, tmp_path, column, what):
    """The second encoder was run on a later copy of the data set, of which a gallery image is not the same."""
    groups = [f"p{n // 2}" for n in range(8)]
    data = make_dataset("set", [draw_skin(n, 16) for n in range(8)], groups, ["test"] * 7 + ["train"], list("aaaabbbb"))
    features = np.random.default_rng(0).normal(size=(8, 4))
    first, copy = embed_as(data, features), shutil.copytree(data, tmp_path / "copy")
    table = read_parquet(copy / "manifest.parquet", "")
    values = [*table[column].to_pylist()[:7], "a" if column == "dx" else "set/new"]
    place = table.column_names.index(column)
    table = table.set_column(place, table.schema.field(place), pa.array(values))
    write_parquet(copy / "manifest.parquet", table)
    with pytest.raises(InputError, match=f"differ in their {what}"):
        retrieval(RetrievalOptions([str(first), str(embed_as(copy, features, "other"))], split="test", draws=40))


def test_the_first_target_is_that_of_the_first_data_set(make_toy_dataset, make_frame, tmp_path):
    parts = [make_frame(8, seed=n, name=name) for n, name in enumerate(("one", "two"))]
    parts[1] = parts[1].rename(columns={"condition": "diagnosis"})
    targets = [Target(column, tuple(sorted(set(part[column])))) for column, part in zip(NAMED, parts, strict=True)]
    data = [
        open_dataset(make_toy_dataset(tmp_path / target.column, part, {target.column: target}))
        for target, part in zip(targets, parts, strict=True)
    ]
    features = np.random.default_rng(0).normal(size=(sum(map(len, data)), 4)).astype(np.float32)
    write_embeddings(tmp_path / "e", features, data, {"path": "e", "fingerprint": "e", "preprocessing": {}}, {})
    assert retrieval(RetrievalOptions([str(tmp_path / "e")], draws=40)).data["relevance"] == "condition"


def test_the_report_says_what_makes_its_scores_doubtful(make_toy_dataset, make_frame, tmp_path):
    frame = make_frame(8, seed=0)
    targets = {"condition": Target("condition", tuple(sorted(set(frame["condition"]))))}
    data = open_dataset(make_toy_dataset(tmp_path / "data", frame, targets, patient_key=False, synthetic=True))
    encoder = {"path": "e", "fingerprint": "e", "preprocessing": {}, "training": {"splits": "all"}}
    features = np.random.default_rng(0).normal(size=(len(data), 4)).astype(np.float32)
    write_embeddings(tmp_path / "e", features, [data], encoder, {})
    text = retrieval(RetrievalOptions([str(tmp_path / "e")], draws=40)).text
    assert "toy has no patient key: patient leakage cannot be ruled out" in text
    assert "SYNTHETIC data: these scores" in text and "pretrained on all splits, test images included" in text


def test_intervals_of_few_patients_are_called_too_narrow(embedded):
    assert "the intervals are too narrow: fewer than 15 patients" in retrieval(RetrievalOptions([embedded[0]])).text


def test_a_relevance_that_is_none_names_the_nearest(embedded):
    with pytest.raises(InputError, match="did you mean 'lesion'"):
        retrieval(RetrievalOptions(sources=[embedded[0]], relevance="lesions"))


def test_lesions_without_a_second_image_leave_nothing_to_judge(embedded):
    with pytest.raises(InputError, match="no query"):
        retrieval(RetrievalOptions(sources=[embedded[0]], relevance="lesion"))


def test_what_is_printed_fits_100_columns_and_the_report_holds_all(embedded):
    report = retrieval(RetrievalOptions([*embedded], k=[1, 2, 3, 4, 5], draws=40))
    assert max(len(line) for line in report.text.splitlines() if str(embedded[0]) not in line) <= 100
    assert "the scores at 4, 5 are in the report of --json" in report.text and "P@5" in report.data["difference"]
