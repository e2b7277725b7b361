"""The whole audit on drawn data sets with planted copies: what it finds, what licences forbid, what it writes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from launched import Launched
from PIL import Image, ImageEnhance

from dermeval.features.ledger import Seen
from dermeval.leaks import find
from dermeval.leaks.leaks import leaks
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.records import open_audited
from dermeval.leaks.session import PairReview
from dermeval.leaks.work import Work
from dermssl import licences
from dermssl.dataset.hashes import perceptual_hashes
from dermssl.dataset.manifest import to_table
from dermssl.dataset.options import SplitOptions
from dermssl.dataset.split import split
from dermssl.errors import InputError
from dermssl.files import read_json, write_json, write_parquet


def photographed(image):
    """A photo of the photo, which its perceptual hash does not give away."""
    turned = image.rotate(9, Image.Resampling.BICUBIC)
    copy = ImageEnhance.Brightness(turned.resize(image.size, box=(8, 8, 88, 88))).enhance(1.1)
    assert np.bitwise_count(perceptual_hashes(image)[0] ^ perceptual_hashes(copy)).min() > 8
    return copy


@pytest.fixture
def audit(tmp_path):
    def run(*folders, **options):
        out = tmp_path / "leaks"
        chosen = {"planted": 0, "workers": 1, "overwrite": True, "neighbours": 3} | options
        made = LeaksOptions(str(out), [str(folder) for folder in folders], **chosen)
        return leaks(made), out

    return run


@pytest.fixture
def planted(make_dataset, embed_as, draw_skin):
    """20 patients with one image each, then copies of 0 (same file), 1 (flipped), 2 (photographed), 3 (own patient)."""
    images = [draw_skin(n) for n in range(20)]
    images += [images[0], images[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT), photographed(images[2]), images[3]]
    groups = [f"p{n}" for n in range(20)] + ["c0", "c1", "c2", "p3"]
    splits = ["train"] * 20 + ["test", "train", "test", "train"]
    features = np.random.default_rng(0).normal(size=(24, 16))
    features[20:] = features[:4] + 0.05
    folder = make_dataset("set", images, groups, splits, ["a"] * 21 + ["b"] * 3)
    return embed_as(folder, features)


made: list = []


@pytest.fixture
def found(request):
    """Report and folder of ``audit(planted)``, made once: for tests that read and change nothing."""
    if not made:
        made.append(request.getfixturevalue("audit")(request.getfixturevalue("planted")))
    return made[0]


def test_each_planted_copy_is_found_with_its_evidence_and_nothing_else(found):
    report, out = found
    pairs = pd.read_parquet(out / "pairs.parquet").set_index("group_id_b")
    assert pairs["group_id_a"].to_dict() == {"set/c0": "set/p0", "set/c1": "set/p1", "set/c2": "set/p2"}
    assert set(pairs.loc["set/c0", "evidence"]) == {"file", "pixels"}
    assert "hash" in pairs.loc["set/c1", "evidence"] and pairs.loc["set/c1", "mirrored"]
    assert {"embedding", "local features"} <= set(pairs.loc["set/c2", "evidence"])
    assert pairs.loc["set/c2", "correlation"] > 0.6 and (pairs["kind"] == "same scene").all()
    assert pairs["across_splits"].to_dict() == {"set/c0": True, "set/c1": False, "set/c2": True}
    assert pairs.loc["set/c0", "labels_agree"] and not pairs.loc["set/c1", "labels_agree"]
    assert not re.search(r"\d\.\d{6}", (out / "ranking.csv").read_text())
    assert "at most 3.0 confirmed pairs are false (95% confidence), which is enough for precision 0.95" in report.text
    assert "with 2 pairs the threshold rests on the extrapolated tail" in report.text


def test_a_mirrored_copy_is_no_false_match(audit, planted):
    """c1 is p1 mirrored. It is no background pair, so the false-match ratio of its data set leaves it out too."""
    found = audit(planted, neighbours=10)[0].data["certainty"]
    ratio = found["false_match_ratio"]["data set set"]
    assert found["background_pairs"] == found["compared"] - 1
    assert ratio == {"background_pairs": found["background_pairs"], "ratio": 1.0}


def test_identical_images_make_no_copy_easier_to_confirm(audit, make_dataset, draw_skin, monkeypatch):
    """300 pairs of identical images lower no threshold: a copy above all others needs a score as high as ever."""
    images = [draw_skin(n) for n in range(20)] + [draw_skin(0)] * 24
    folder = make_dataset("set", images, [f"p{n}" for n in range(44)])
    _, out = audit(folder)
    ranking = pd.read_parquet(out / "ranking.parquet")
    others = ranking[~ranking["confirmed"]]
    assert ranking["confirmed"].sum() == 300 and len(others) and (others["false_discovery_rate"] > 0.05).all()
    copies = pd.DataFrame({"kind": "re-saved", "severity": 0.5, "score": [others["score"].max() + 0.01, 15.0]})
    monkeypatch.setattr("dermeval.leaks.leaks.scores_of_planted", lambda *_: copies)
    report, _ = audit(folder)
    assert report.data["certainty"]["planted"]["recall"] == 0.5
    assert report.data["certainty"]["confirmed_by_score"] == 0


def test_many_images_are_described_coarsely_and_their_copies_are_found_too(audit, planted, monkeypatch):
    monkeypatch.setattr("dermeval.leaks.find.MANY_IMAGES", 0)
    pairs = pd.read_parquet(audit(planted)[1] / "pairs.parquet").set_index("group_id_b")
    assert set(pairs.index) == {"set/c0", "set/c1", "set/c2"}
    assert {"local features", "colour"} <= set(pairs.loc["set/c1", "evidence"])


def test_similar_embeddings_alone_prove_nothing(audit, make_dataset, embed_as, draw_skin):
    folder = make_dataset("set", [draw_skin(n) for n in range(12)], [f"p{n}" for n in range(12)])
    features = np.repeat(np.random.default_rng(0).normal(size=(6, 8)), 2, axis=0)
    report, _ = audit(embed_as(folder, features))
    assert report.data["sources"]["embedding"]["nominated"] > 0 and report.data["pairs"] == 0


def test_the_split_is_repaired_and_the_rest_of_it_left_alone(found):
    report, out = found
    split = pd.read_csv(out / "split_repaired.csv", index_col="image_id")
    moved = split.index[split["split"] != split["split_repaired"]].tolist()
    # The first move takes an image of class a out of test; the second one brings another in.
    assert moved == ["set/2", "set/20"] and split.loc[moved, "split_repaired"].tolist() == ["test", "train"]
    assert report.data["images_moved"] == report.data["records_moved"] == 2


def test_the_report_says_what_to_do_next(audit, planted):
    report, out = audit(planted)
    page = (out / "report.html").read_text()
    split = f"dermssl split DATA --apply {out}", f"dermssl split DATA --folds 5 --together {out}"
    for command in (f"dermeval review {out}", *split):
        assert f"`{command}`" in report.text and f"<code>{command}</code>" in page
    alone = audit(planted, every_image=True)[0].text
    assert split[0] in alone and split[1] not in alone  # leak groups of images say nothing about records


def test_pairs_too_weak_to_join_groups_are_said_to_lie_across_the_repaired_split(found, audit, planted, monkeypatch):
    assert found[0].data["pairs_across_splits_after_repair"] == 0
    monkeypatch.setattr("dermeval.leaks.decisions.leak_groups", lambda groups, _: np.zeros(len(groups), np.int64))
    report, out = audit(planted)
    assert report.data["pairs_across_splits_after_repair"] == report.data["pairs_across_splits"] == 2
    assert "left across       2 confirmed pairs too weak to join two records, across splits" in report.text
    assert (pd.read_parquet(out / "pairs.parquet")["leak_group"] == 0).all()


@pytest.mark.parametrize(("licence", "found"), [("CC0-1.0", {"b/0", "b/1"}), ("PASSION", {"b/0"})])
def test_sets_that_forbid_relinking_meet_others_only_by_copies(
    audit, make_dataset, embed_as, draw_skin, licence, found
):
    """b/0 is a flipped copy, b/1 a photo of a photo, both of images of the other set."""
    images = [draw_skin(n) for n in range(12)]
    others = [images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT), photographed(images[1])]
    features = np.random.default_rng(0).normal(size=(12, 16))
    one = embed_as(make_dataset("a", images, [f"p{n}" for n in range(12)], licence=licence), features)
    two = embed_as(make_dataset("b", others, ["q0", "q1"]), features[:2] + 0.01)
    report, out = audit(one, two)
    assert set(pd.read_parquet(out / "pairs.parquet")["image_id_b"]) == found
    assert ("forbids re-linking" in report.text) == (licence == "PASSION")


def test_the_order_of_the_folders_changes_nothing(audit, make_dataset, embed_as, draw_skin):
    random, folders = np.random.default_rng(0), []
    for name, images in (("a", [draw_skin(n) for n in range(12)]), ("b", [photographed(draw_skin(n)) for n in (1, 2)])):
        folder = make_dataset(name, images, [f"p{n}" for n in range(len(images))])
        folders.append(embed_as(folder, random.normal(size=(len(images), 4))))
    _, out = audit(*folders)
    before = {name: (out / name).read_bytes() for name in ("ranking.parquet", "groups.csv", "split_repaired.csv")}
    images = open_audited(list(map(str, folders[::-1])))
    audit(*folders[::-1])
    assert {name: (out / name).read_bytes() for name in before} == before
    assert (images.embedded[0].rows == np.arange(14)).all()


def test_an_earlier_audit_under_another_licence_is_not_continued(audit, make_dataset, draw_skin, tmp_path):
    """It may hold pairs of two data sets that the licence now forbids, or lack pairs that it now allows."""
    other = make_dataset("b", [draw_skin(3), photographed(draw_skin(0))], ["q0", "q1"])
    for licence in ("CC0-1.0", "PASSION"):
        folder = make_dataset("a", [draw_skin(n) for n in range(3)], ["p0", "p1", "p2"], licence=licence)
        if licence == "CC0-1.0":
            audit(folder, other)[1].rename(tmp_path / "before")
            audit(folder, other, since=str(tmp_path / "before"))
    with pytest.raises(InputError, match="a had another licence then: audit all images"):
        audit(folder, other, since=str(tmp_path / "before"))


def test_a_set_that_an_encoder_was_trained_on_is_not_said_to_be_compared(audit, make_dataset, embed_as, draw_skin):
    folders = []
    for number, name in enumerate("ab"):
        images = [draw_skin(10 * number + n) for n in range(3)]
        folders.append(embed_as(make_dataset(name, images, ["p", "q", "r"]), np.eye(3)))
        info = read_json(folders[-1] / "embedding.json", "")
        info["licences"].append(licences.notice("passion", "PASSION", "", synthetic=False))
        write_json(folders[-1] / "embedding.json", info)
    report, _ = audit(*folders)
    assert "passion: PASSION" in report.text and "forbids re-linking" not in report.text


def test_a_set_that_forbids_relinking_is_still_audited_within(audit, make_dataset, embed_as, draw_skin):
    images = [draw_skin(n) for n in range(12)]
    features = np.random.default_rng(0).normal(size=(13, 16))
    features[12] = features[5] + 0.01
    folder = make_dataset("a", [*images, photographed(images[5])], [f"p{n}" for n in range(13)], licence="PASSION")
    _, out = audit(embed_as(folder, features))
    assert pd.read_parquet(out / "pairs.parquet")["image_id_b"].tolist() == ["a/12"]


def test_the_page_links_its_pictures_and_says_that_it_stays_here(audit, planted):
    _, out = audit(planted, shown=2)
    page = (out / "report.html").read_text()
    linked = re.findall(r'<img src="(images/[^"]+)"', page)
    assert len(linked) == 4 and all((out / file).is_file() for file in linked)
    assert "data:image" not in page and "stays on this machine" in page and "1 further pair." in page


def test_no_output_says_who_is_shown(found):
    report, out = found
    texts = [report.text, json.dumps(report.data)]
    texts += [file.read_text() for file in out.iterdir() if file.suffix in (".html", ".json", ".csv")]
    assert "share near-duplicate images" in report.text
    assert not re.search(r"same (person|patient|individual|subject)", " ".join(texts), re.IGNORECASE)


def test_embeddings_given_twice_and_embeddings_without_pictures_within_reach_are_refused(audit, planted, tmp_path):
    with pytest.raises(InputError, match="give each image once"):
        audit(planted, planted)
    (tmp_path / "data-set").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="out of reach"):
        audit(planted)


@pytest.mark.parametrize("every_image", [False, True])
def test_embeddings_of_two_encoders_both_nominate_and_are_asked_what_they_were_trained_on(
    audit, make_dataset, embed_as, draw_skin, monkeypatch, every_image
):
    def seen(encoder, frame, _):
        hit = pd.DataFrame({"case": frame["group_id"].to_numpy() == "set/p3"}, index=frame["image_id"])
        return Seen(hit, "ledger") if encoder["path"] == "one" else Seen(None, "no ledger")

    monkeypatch.setattr("dermeval.leaks.leaks.seen_images", seen)
    folder = make_dataset("set", [draw_skin(n) for n in range(8)], [f"p{n}" for n in range(8)])
    random = np.random.default_rng(0)
    folders = [embed_as(folder, random.normal(size=(8, 4)), encoder=name) for name in ("one", "two")]
    report, out = audit(*folders, every_image=every_image)
    sources = report.data["sources"]
    assert sources["embedding 1"]["nominated"] and sources["embedding 2"]["nominated"]
    one, two = report.data["pretraining"]
    assert (
        sum(seen for seen, _ in one["splits"].values()) == 1
        and not two["known"]
        and "two saw: not known" in report.text
    )
    assert pd.read_csv(out / "pretrained_on.csv")["image_id"].tolist() == ["set/3"]


def test_a_data_set_needs_no_encoder(audit, planted, tmp_path):
    report, out = audit(tmp_path / "data-set")
    assert report.data["pairs"] == 3 and "embedding" not in report.data["sources"]
    assert set(pd.read_parquet(out / "pairs.parquet")["group_id_b"]) == {"set/c0", "set/c1", "set/c2"}


def test_every_image_can_be_a_record_of_its_own(audit, planted, tmp_path):
    found = audit(tmp_path / "data-set", every_image=True)[1] / "pairs.parquet"
    assert set(pd.read_parquet(found)["image_id_b"]) == {"set/20", "set/21", "set/22", "set/23"}


def test_two_thresholds_at_once_are_refused(audit, make_dataset, draw_skin):
    folder = make_dataset("set", [draw_skin(1), draw_skin(2)], ["p", "q"])
    with pytest.raises(InputError, match="--precision and --expected-false"):
        audit(folder, precision=0.95, expected_false=1)
    assert audit(folder)[0].data["certainty"]["precision"] == 0.95


def test_an_audit_never_writes_into_a_dataset_folder(make_dataset, draw_skin):
    folder = make_dataset("set", [draw_skin(1), draw_skin(2)], ["p", "q"])
    before = sorted(folder.iterdir())
    for out in (folder / "leaks", folder / "audits" / "leaks"):
        with pytest.raises(InputError, match="lies in the dataset folder"):
            leaks(LeaksOptions(str(out), [str(folder)]))
    assert sorted(folder.iterdir()) == before


def test_one_record_has_nothing_to_be_compared_with(audit, make_dataset, draw_skin):
    report, _ = audit(make_dataset("set", [draw_skin(1), draw_skin(2)], ["p", "p"]), expected_false=1)
    assert report.data["pairs"] == 0 and "one record only" in report.text
    assert "threshold for 1 expected false pairs" in report.text and "precision" not in report.text


def test_patients_that_count_as_one_record_are_noted(audit, make_dataset, draw_skin):
    folder = make_dataset("set", [draw_skin(1), draw_skin(1), draw_skin(2)], ["p", "p", "q"])
    assert "count as one record" not in audit(folder)[0].text
    path = folder / "manifest.parquet"
    frame = pd.read_parquet(path)
    frame.loc[1, "patient_id"] = "set/other"
    write_parquet(path, to_table(frame))
    assert "Several patients count as one record in 1 record, since" in audit(folder)[0].text


def test_flat_placeholders_are_linked_by_their_pixels_and_hide_nothing(audit, make_dataset, draw_skin):
    images = [Image.new("RGB", (96, 96), "white")] * 30 + [draw_skin(n) for n in range(10)] + [draw_skin(3)]
    report, out = audit(make_dataset("set", images, [f"p{n}" for n in range(41)]))
    pairs = pd.read_parquet(out / "pairs.parquet")
    assert ("set/33", "set/40") in set(zip(pairs["image_id_a"], pairs["image_id_b"], strict=True))
    assert report.data["large_leak_groups"] == 1


def test_a_killed_audit_goes_on_with_what_it_had_finished(audit, planted, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dermeval.leaks.leaks.confirmed_ranking", stopped)
    with pytest.raises(KeyboardInterrupt):
        audit(planted)
    monkeypatch.undo()
    monkeypatch.setattr("dermeval.leaks.verify._describe_task", stopped)
    monkeypatch.setattr("dermeval.leaks.verify._compare_task", stopped)
    assert audit(planted)[0].data["pairs"] == 3
    assert not (tmp_path / "leaks.unfinished").exists()


def test_a_killed_audit_nominates_once_unless_asked_otherwise(found, audit, planted, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    expected = pd.read_parquet(found[1] / "pairs.parquet")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(find, "compare_pairs", killed)
        audit(planted)
    with monkeypatch.context() as patched:
        patched.setattr(find, "nominate", killed)
        assert pd.read_parquet(audit(planted)[1] / "pairs.parquet").equals(expected)
        with pytest.raises(KeyboardInterrupt):
            audit(planted, neighbours=4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("local-000000.bin", b"short"),
        ("pairs-*.bin", b""),
        ("candidates-*.parquet", b"PAR1 but not"),
        ("plan.json", b"[1"),
        ("plan.json", b"{}"),
    ],
)
def test_damaged_unfinished_work_is_done_again(audit, planted, tmp_path, monkeypatch, name, content):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("dermeval.leaks.leaks.confirmed_ranking", stopped)
        audit(planted)
    damaged = list((tmp_path / "leaks.unfinished").glob(name))
    assert damaged
    for path in damaged:
        path.write_bytes(content)
    assert audit(planted)[0].data["pairs"] == 3


def test_a_decision_holds_whichever_image_comes_first_and_pixels_must_be_those_audited(audit, planted):
    report, out = audit(planted)
    pair = pd.read_parquet(out / "pairs.parquet").iloc[0]
    swapped = {"image_id_a": pair["image_id_b"], "image_id_b": pair["image_id_a"], "decision": "reject"}
    pd.DataFrame([swapped]).to_csv(out / "decisions.csv", index=False)
    assert audit(planted)[0].data["pairs"] == 2
    audited = pd.read_parquet(out / "images.parquet")
    audited.loc[3, "pixel_sha256"] = "other"
    audited.to_parquet(out / "images.parquet")
    with pytest.raises(InputError, match=f"was made from other pixels: {audited.loc[3, 'image_id']} has changed"):
        PairReview(out)
    with pytest.raises(InputError, match="was made from other pixels"):
        split(SplitOptions(folder=report.data["datasets"][0]["path"], apply=str(out)))


def test_a_decision_about_an_image_with_other_pixels_now_does_not_hold(audit, planted, caplog):
    _, out = audit(planted)
    rejected = pd.read_parquet(out / "pairs.parquet")[["image_id_a", "image_id_b"]][:1].assign(decision="reject")
    rejected.to_csv(out / "decisions.csv", index=False)
    assert audit(planted)[0].data["pairs"] == 2
    audited = pd.read_parquet(out / "images.parquet")
    audited.loc[audited["image_id"] == rejected["image_id_a"][0], "pixel_sha256"] = "other"
    audited.to_parquet(out / "images.parquet")
    assert audit(planted)[0].data["pairs"] == 3 and "1 decision dropped" in caplog.text


def test_an_embedding_of_other_pixels_is_refused(audit, planted):
    dataset = Path(json.loads((planted / "embedding.json").read_text())["datasets"][0]["path"])
    manifest = pd.read_parquet(dataset / "manifest.parquet")
    write_parquet(dataset / "manifest.parquet", to_table(manifest.assign(pixel_sha256="other")))
    with pytest.raises(InputError, match="set/0 changed after embedding: run `dermeval embed` again"):
        audit(planted)


def test_two_ranks_find_what_one_finds(audit, planted, tmp_path):
    options = ["--planted", "0", "--workers", "1", "--neighbours", "3", "--out", str(tmp_path / "two")]
    process = Launched(("-m", "dermeval"), ["leaks", str(planted), *options], ranks=2)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert told.count("records share near-duplicate images (") == 1
    _, one = audit(planted)
    for name in ("pairs.parquet", "ranking.parquet", "groups.csv", "split_repaired.csv", "background.npy"):
        assert (tmp_path / "two" / name).read_bytes() == (one / name).read_bytes()
    assert not (tmp_path / "two.unfinished").exists()


def test_ranks_share_the_work_and_what_fails_on_one_fails_on_all(tmp_path):
    def task(one):
        if one[1] == "bad":
            raise InputError("image 3 is damaged")
        one[0].write_text(one[1])

    tasks = [(tmp_path / str(number), "good") for number in range(5)]
    with pytest.raises(InputError, match="other"):
        Work(tmp_path, 1, rank=1, ranks=2, exchange=lambda own: [InputError("other"), *own]).run(
            task, tasks, [4] * 5, np.dtype("S1"), "work", "task"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]
    with pytest.raises(InputError, match="image 3 is damaged"):
        Work(tmp_path, 1).run(task, [*tasks[:4], (tmp_path / "4", "bad")], [4] * 5, np.dtype("S1"), "work", "task")


def test_an_audit_since_an_earlier_one_compares_only_new_images_and_finds_the_same(
    audit, make_dataset, draw_skin, tmp_path, monkeypatch
):
    images = [draw_skin(n) for n in range(14)]
    images += [photographed(images[0]), photographed(images[1]), images[2]]
    groups = [f"p{n}" for n in range(14)] + ["c0", "c1", "c2"]
    _, before = audit(make_dataset("set", images[:15], groups[:15]), ranked=40)
    before.rename(tmp_path / "before")
    folder = make_dataset("set", images, groups)
    whole, _ = audit(folder, ranked=40)
    since, out = audit(folder, ranked=40, since=str(tmp_path / "before"))
    pairs, ranking = (pd.read_parquet(out / f"{name}.parquet") for name in ("pairs", "ranking"))
    assert set(pairs["group_id_b"]) == {"set/c0", "set/c1", "set/c2"} and whole.data["pairs"] == 3
    assert since.data["certainty"]["compared"] < whole.data["certainty"]["compared"] / 2
    with pytest.raises(InputError, match="another --every-image"):
        audit(folder, since=str(tmp_path / "before"), every_image=True)
    out.rename(tmp_path / "whole")
    shorter = shutil.copytree(tmp_path / "whole", tmp_path / "shorter")
    write_parquet(shorter / "ranking.parquet", pq.read_table(shorter / "ranking.parquet").slice(2))
    for wrong in (lambda: audit(folder, since=str(shorter)), lambda: PairReview(shorter)):
        with pytest.raises(InputError, match=r"ranking\.parquet was changed after it was written: run"):
            wrong()
    monkeypatch.setattr(find, "describe_images", None)
    again, out = audit(folder, ranked=40, since=str(tmp_path / "whole"))
    same = ["image_id_a", "image_id_b", "score", "kind", "inliers", "correlation", "leak_group"]
    assert pd.read_parquet(out / "pairs.parquet")[same].equals(pairs[same]) and again.data["pairs"] == 3
    assert pd.read_parquet(out / "ranking.parquet")["expected_false"].equals(ranking["expected_false"])
    assert again.data["hidden"] == since.data["hidden"] and again.data["certainty"]["compared"] == 0
    rejected = pairs[["image_id_a", "image_id_b"]][:1].assign(decision="reject")
    rejected.to_csv(tmp_path / "whole" / "decisions.csv", index=False)
    assert audit(folder, ranked=40, since=str(tmp_path / "whole"))[0].data["pairs"] == 2
    assert pd.read_csv(out / "decisions.csv").equals(rejected), "a review of the earlier audit is not lost"
    rejected.assign(decision="accept").to_csv(out / "decisions.csv", index=False)
    assert audit(folder, ranked=40, since=str(tmp_path / "whole"))[0].data["pairs"] == 3


def test_a_new_image_is_compared_with_what_resembles_its_copy_in_the_earlier_audit(
    audit, make_dataset, draw_skin, tmp_path, monkeypatch
):
    """Images 14 and 15 are photos of image 0. No source nominates their pair; 15 is new."""
    nominate = find.nominate

    def without(images, *rest):
        pairs = nominate(images, *rest)
        return pairs[(pairs["a"] != 14) | (pairs["b"] != 15)]

    monkeypatch.setattr(find, "nominate", without)
    images = [*map(draw_skin, range(14)), photographed(draw_skin(0))]
    images.append(images[-1].transpose(Image.Transpose.ROTATE_90).resize((80, 80)))
    groups = [f"p{n}" for n in range(16)]
    _, before = audit(make_dataset("set", images[:15], groups[:15]))
    before.rename(tmp_path / "before")
    _, out = audit(make_dataset("set", images, groups), since=str(tmp_path / "before"))
    pairs = pd.read_parquet(out / "pairs.parquet")
    found = pairs[(pairs["image_id_a"] == "set/14") & (pairs["image_id_b"] == "set/15")]
    assert found["evidence"].map(list).tolist() == [["linked"]]
