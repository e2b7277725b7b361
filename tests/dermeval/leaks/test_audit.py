"""The three audits on one page: planted off-topic images and planted label errors come first."""

import functools
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from dermeval.leaks import terminal
from dermeval.leaks.audit import audit, rank_label_errors, rank_off_topic
from dermeval.leaks.label_errors import labels_nearby, self_confidence
from dermeval.leaks.off_topic import off_topic_scores
from dermeval.leaks.options import AuditOptions, LeaksOptions
from dermeval.leaks.records import open_audited
from dermeval.leaks.session import open_review
from dermeval.web.options import ReviewOptions
from dermeval.web.review import review
from dermssl import neighbours
from dermssl.errors import InputError
from dermssl.files import read_json, write_json, write_parquet


def text_page() -> Image.Image:
    page = Image.new("RGB", (96, 96), "white")
    for line in range(8):
        ImageDraw.Draw(page).text((4, 4 + 11 * line), "CONSENT FORM 2019", fill="black")
    return page


@pytest.fixture
def planted(make_dataset, embed_as, draw_skin):
    """29 images of 15 patients in two classes that features tell apart; 3 has the wrong label; the last is a page."""
    images = [draw_skin(number) for number in range(29)] + [text_page()]
    labels = [("eczema", "scabies")[number // 2 % 2] for number in range(30)]
    features = np.random.default_rng(0).normal(0, 0.3, size=(30, 2))
    features[:, 0] += np.array([label == "eczema" for label in labels]) * 2.0
    labels[3] = "eczema"
    folder = make_dataset("set", images, [f"p{number // 2}" for number in range(30)], labels=labels)
    return folder, embed_as(folder, features)


@pytest.fixture(autouse=True)
def no_planted_copies(monkeypatch):
    """Leak audits without the measure of recall, which takes most of their time here."""
    monkeypatch.setattr("dermeval.leaks.audit.LeaksOptions", functools.partial(LeaksOptions, planted=0))


def run(tmp_path, folder, **options):
    return audit(AuditOptions(str(tmp_path / "audit"), [str(folder)], workers=1, shown=6, **options))


made: list = []


@pytest.fixture
def audited(request, tmp_path):
    """The report of ``run(tmp_path, planted[1])``, made once, and a copy of its folder; the data are not to change."""
    if not made:
        folder = request.getfixturevalue("planted")[1]
        made.append((run(tmp_path, folder), (tmp_path / "audit").rename(tmp_path.parent / "audited"), folder))
    report, folder, data = made[0]
    shutil.copytree(folder, tmp_path / "audit")
    return report, data


def test_the_page_shows_what_was_planted_first(audited, tmp_path):
    report, _ = audited
    assert f"label errors      of {report.data['target']}, ranked first: set/3" in report.text
    assert f"Labels of {report.data['target']} that" in (tmp_path / "audit" / "report.html").read_text()
    tables = {name: pd.read_csv(tmp_path / "audit" / f"{name}.csv") for name in ("off_topic", "label_errors")}
    assert tables["off_topic"]["image_id"].iloc[0] == "set/29" and len(tables["off_topic"]) == 30
    first = tables["label_errors"].iloc[0]
    assert (first["image_id"], first["label"], first["likelier"]) == ("set/3", "eczema", "scabies")
    assert "set/2" not in first["nearby"] and "scabies" in first["nearby"]
    path = tmp_path / "audit" / "audit.json"
    path.write_text(path.read_text().replace('"rank": 1,', "", 1))
    with pytest.raises(InputError, match=r"audit\.json is damaged \('rank'\): make it again with `dermeval"):
        open_review(path.parent)
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "stays on this machine" in page and "more likely scabies" in page and "http" not in page
    assert report.data["leaks"]["pairs"] == 0 and (tmp_path / "audit" / "leaks" / "report.html").is_file()


def test_a_data_set_that_was_changed_after_embedding_is_named_once(planted, tmp_path, caplog):
    path = planted[0] / "manifest.parquet"
    write_parquet(path, pq.read_table(path).replace_schema_metadata({"changed": "since"}))
    run(tmp_path, planted[1])
    assert caplog.text.count("was changed after it was embedded") == 1


def test_a_killed_audit_takes_over_its_leaks(planted, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dermeval.leaks.audit.rank_off_topic", stopped)
    for folder in planted:  # the leaks of the data set alone are not those with its embeddings
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, folder)
    assert "embedding" in json.loads((tmp_path / "audit" / "leaks" / "summary.json").read_text())["sources"]
    info = read_json(planted[1] / "embedding.json", "")
    info["encoder"]["fingerprint"] = "trained on since"
    write_json(planted[1] / "embedding.json", info)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, planted[1])
    summary = read_json(tmp_path / "audit" / "leaks" / "summary.json", "")
    assert summary["pretraining"][0]["fingerprint"] == "trained on since"
    monkeypatch.undo()
    monkeypatch.setattr("dermeval.leaks.audit.leaks", stopped)
    (tmp_path / "audit" / ".leaks.unfinished.0a1b2c-1.partial").mkdir()
    assert run(tmp_path, planted[1]).data["leaks"]["images"] == 30
    assert not list((tmp_path / "audit").glob(".*")), "what a kill left is cleared away"
    with pytest.raises(InputError, match="--overwrite"):
        run(tmp_path, planted[1])


def test_a_killed_audit_keeps_no_leaks_of_other_features_of_the_encoder(planted, embed_as, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dermeval.leaks.audit.rank_off_topic", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, planted[1])
    made = []
    monkeypatch.setattr("dermeval.leaks.audit.leaks", lambda *options: made.append(options) or stopped())
    again = embed_as(planted[0], np.eye(30))  # the encoder's fingerprint is the same
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, again)
    assert made, "the leaks were searched for again"


def test_off_topic_images_and_label_errors_are_reviewed_like_pairs(audited, tmp_path, monkeypatch):
    _, data = audited
    folder = tmp_path / "audit"
    _, off_topic, errors = open_review(folder)
    assert (off_topic.title, errors.title) == ("off-topic images", "label errors")
    assert errors.told(0)[0] == "Is the label eczema wrong?" and len(off_topic.pictures(0)) == 1
    off_topic.decide(0, "accept")
    errors.decide(0, "reject")
    errors.undo()
    errors.table.loc[0, "label"] = "no"
    assert errors.told(0)[0] == f"Is the label {errors.target}: no wrong?"
    errors = open_review(folder)[2]
    keys = iter("q" + "u" + "q" + "a" + "q")
    monkeypatch.setattr(terminal, "read_key", lambda: next(keys))
    report = review(ReviewOptions(str(folder), terminal=True))
    assert report.data["images"]["off-topic images"] == {"accept": 1, "reject": 0, "unsure": 1}
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in ("off_topic", "label_errors")}
    assert tables["off_topic"]["decision"].tolist()[:2] == ["accept", "unsure"]
    assert (
        tables["label_errors"]["decision"].iloc[0] == "accept" and tables["label_errors"]["decision"][1:].isna().all()
    )
    page = (folder / "report.html").read_text()
    assert page.count("review: <b>accept</b>") == 2 and page.count("review: <b>unsure</b>") == 1
    run(tmp_path, data, overwrite=True)
    assert pd.read_csv(folder / "off_topic.csv")["decision"][0] == "accept"
    assert (folder / "report.html").read_text() == page
    audited = pd.read_parquet(folder / "leaks" / "images.parquet")
    audited.loc[29, "pixel_sha256"] = "other"
    audited.to_parquet(folder / "leaks" / "images.parquet")
    run(tmp_path, data, overwrite=True)
    assert pd.isna(pd.read_csv(folder / "off_topic.csv")["decision"][0]), "it was about another picture"


@pytest.mark.parametrize("between", [[], [0], [0, 0]])  # audits without embeddings, which judge no labels
def test_a_decision_about_a_label_ends_with_that_label(planted, tmp_path, between):
    folder = tmp_path / "audit"
    run(tmp_path, planted[1])
    errors = open_review(folder)[2]
    assert errors.table["image_id"][0] == "set/3"
    for row in (0, 1):
        errors.decide(row, "accept")
    for part in between:
        run(tmp_path, planted[part], overwrite=True)
    manifest = planted[0] / "manifest.parquet"
    table = pq.read_table(manifest)
    labels = table["dx"].to_pylist()
    labels[3] = "scabies"  # as it is mended after the review
    pq.write_table(table.set_column(table.column_names.index("dx"), "dx", pa.array(labels)), manifest)
    run(tmp_path, planted[1], overwrite=True)
    after = pd.read_csv(folder / "label_errors.csv").set_index("image_id")["decision"]
    assert pd.isna(after["set/3"]) and after.notna().sum() == 1


def test_a_decision_about_a_label_is_not_taken_for_one_about_another_target(planted, tmp_path, caplog):
    path, table = planted[0] / "dataset.json", pq.read_table(planted[0] / "manifest.parquet")
    write_parquet(planted[0] / "manifest.parquet", table.append_column("other", table["dx"]))  # both say eczema
    info = read_json(path, "")
    info["targets"]["other"] = info["targets"]["dx"] | {"column": "other"}
    write_json(path, info)
    run(tmp_path, planted[1], target="dx")
    folder = tmp_path / "audit"
    open_review(folder)[2].decide(0, "accept")
    run(tmp_path, planted[1], target="dx", overwrite=True)
    assert pd.read_csv(folder / "label_errors.csv")["decision"][0] == "accept"
    run(tmp_path, planted[1], target="other", overwrite=True)
    assert pd.read_csv(folder / "label_errors.csv")["decision"].isna().all()
    assert "1 decision about dx dropped, since labels of other are checked now" in caplog.text


def test_without_an_encoder_labels_are_not_judged_and_nothing_of_an_earlier_audit_is_left(planted, tmp_path):
    earlier = {"audit.json": '{"finished": true}', "label_errors.csv": "rank", f"images/{0:016}.jpg": "removed since"}
    (tmp_path / "audit" / "images").mkdir(parents=True)
    for name, content in earlier.items():
        (tmp_path / "audit" / name).write_text(content)
    report = run(tmp_path, planted[0], overwrite=True)
    assert [(tmp_path / "audit" / name).exists() for name in earlier] == [True, False, False]
    assert report.data["label_errors"] is None and "dermeval embed" in report.text


def test_two_kinds_of_features_of_one_encoder_are_two_sources(make_dataset, embed_as, draw_skin):
    one, other = (
        make_dataset(name, [draw_skin(n, 32) for n in range(3)], ["a", "b", "c"]) for name in ("one", "other")
    )
    folders = [embed_as(one, np.eye(3)), embed_as(other, np.eye(3, 6))]
    info = read_json(folders[1] / "embedding.json", "")
    info["encoder"]["features"] = "last4"
    write_json(folders[1] / "embedding.json", info)
    found = open_audited([str(folder) for folder in folders]).embedded
    assert [(source.name, source.features.shape[1]) for source in found] == [("embedding 1", 3), ("embedding 2", 6)]


def test_images_whose_scores_round_to_the_same_number_keep_their_order(make_dataset, draw_skin, monkeypatch):
    folder = make_dataset("set", [draw_skin(0)] * 3, ["p0", "p1", "p2"])
    monkeypatch.setattr("dermeval.leaks.audit.off_topic_scores", lambda _: np.array([0.99991, 0.99994, 0.99993]))
    table = rank_off_topic(open_audited([str(folder)]), workers=1)
    assert table["image_id"].tolist() == ["set/1", "set/2", "set/0"] and set(table["score"]) == {0.9999}


def test_an_unknown_target_names_the_nearest(planted, tmp_path):
    with pytest.raises(InputError, match="did you mean 'dx'"):
        run(tmp_path, planted[1], target="dxx")


def test_a_label_is_never_judged_by_images_of_its_own_group():
    """Each group has its own feature and label, so only its own images could know the label."""
    groups = np.arange(40) // 2
    features, labels = np.eye(20)[groups], groups % 2
    believed = self_confidence(features, labels, groups)
    assert believed[np.arange(40), labels].max() < 0.75


def test_a_label_is_never_judged_by_a_copy_of_the_image(make_dataset, embed_as, draw_skin):
    """Each image stands under two patients, with the same label, which no other image could know."""
    random, labels = np.random.default_rng(0), [("eczema", "scabies")[number % 2] for number in range(12)] * 2
    images = [draw_skin(number, 32) for number in range(12)] * 2
    folder = make_dataset("set", images, [f"p{number}" for number in range(24)], labels=labels)
    embedded = embed_as(folder, np.tile(random.normal(size=(12, 50)), (2, 1)))
    table, _ = rank_label_errors(open_audited([str(embedded)]), None)
    assert table is not None and table["score"].mean() > 0.4


@pytest.mark.parametrize("images", [4, 6, 8])
def test_a_small_data_set_has_fewer_folds_than_groups(images):
    """No class has as many images as there would be folds."""
    labels = np.arange(images) % 2
    believed = self_confidence(np.eye(2)[labels] + 0.01 * np.arange(images)[:, None], labels, np.arange(images))
    assert believed.shape == (images, 2) and (believed.argmax(axis=1) == labels).all()


def test_a_label_that_no_fitted_image_has_is_not_doubted():
    """All images of class 2 are in the largest group, so nothing else can show what the class looks like."""
    labels = np.r_[np.arange(20) % 2, np.full(10, 2)]
    groups = np.r_[np.arange(20), np.full(10, 20)]
    believed = self_confidence(np.eye(3)[labels], labels, groups)
    assert (believed[20:, 2] == 1).all() and believed[np.arange(20), labels[:20]].min() > 0.5


@pytest.mark.parametrize("name", ["unknown", "UNK", "N/A"])
def test_a_review_keeps_a_label_that_reads_like_a_missing_value(audited, tmp_path, name):
    path = tmp_path / "audit" / "label_errors.csv"
    pd.read_csv(path).replace("eczema", name).to_csv(path, index=False)
    errors = open_review(tmp_path / "audit")[2]
    assert errors.told(0)[0] == f"Is the label {name} wrong?"
    errors.decide(0, "accept")
    errors.write()
    first = pd.read_csv(path, keep_default_na=False).iloc[0]
    assert (first["label"], first["likelier"], first["decision"]) == (name, "scabies", "accept")


def test_a_large_group_takes_no_memory_for_every_pair_of_its_images(monkeypatch):
    """ISIC 2024 has patients of 9,000 images."""
    groups, search, held = np.maximum(np.arange(3000) - 2989, 0), neighbours.search_exact, []

    def counted(queries, gallery, k):
        held.append(len(queries) * k)
        return search(queries, gallery, k)

    monkeypatch.setattr(neighbours, "search_exact", counted)
    near = labels_nearby(np.random.default_rng(0).normal(size=(3000, 4)), np.arange(3000), groups)
    assert sorted(near[0]) == list(range(2990, 3000)) and max(held) < 3000 * 2990 / 2


def test_many_off_topic_images_of_one_kind_do_not_hide_each_other():
    random = np.random.default_rng(0)
    skin = random.normal(size=(80, 16)) * 0.3 + np.eye(16)[0] * 3
    rulers = random.normal(size=(15, 16)) * 0.01 + np.eye(16)[1]
    vectors = np.concatenate([rulers, skin]).astype(np.float32)
    scores = off_topic_scores([vectors / np.linalg.norm(vectors, axis=1, keepdims=True)])
    assert set(np.argsort(-scores)[:15]) == set(range(15))
