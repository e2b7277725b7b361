"""Similar-case search against brute force: ranking, own-patient exclusion, collapse, and what it says of mistakes."""

import numpy as np
import pytest
from PIL import Image

from dermeval.retrieval.index import index
from dermeval.retrieval.index_folder import open_index
from dermeval.retrieval.options import IndexOptions, SearchOptions
from dermeval.retrieval.search import search
from dermeval.retrieval.sheet import foot
from dermssl import neighbours
from dermssl.errors import InputError
from dermssl.licences import notice


@pytest.fixture
def cases(make_dataset, embed_as, draw_skin, tmp_path):
    """12 images of 4 patients in 8 dimensions, indexed; returns (index folder, features, groups)."""
    groups = [f"p{number // 3}" for number in range(12)]
    features = np.random.default_rng(0).normal(size=(12, 8))
    features[1] = features[0] + 0.01  # the query's own patient is by far the most similar
    folder = make_dataset("set", [draw_skin(n, 32) for n in range(12)], groups, ["train"] * 12, ["a", "b"] * 6)
    out = tmp_path / "index"
    index(IndexOptions(embeddings=str(embed_as(folder, features)), out=str(out)))
    return out, features, np.array(groups)


def best_per_patient(features, groups, query, own):
    """Brute force: image numbers of the best image of each patient, best first."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    order = [i for i in np.argsort(-unit @ unit[query]) if i != query and (own or groups[i] != groups[query])]
    return [i for rank, i in enumerate(order) if groups[i] not in groups[order[:rank]]]


@pytest.mark.parametrize("own", [False, True])
def test_the_hits_are_those_of_brute_force(cases, own):
    folder, features, groups = cases
    report = search(SearchOptions(index=str(folder), image_id="set/0", include_own=own))
    expected = best_per_patient(features, groups, 0, own)
    assert [hit["image_id"] for hit in report.data["hits"]] == [f"set/{i}" for i in expected]
    assert (report.data["hits"][0]["image_id"] == "set/1") == own


def test_per_image_shows_every_image_of_other_patients(cases):
    folder, _, groups = cases
    report = search(SearchOptions(index=str(folder), image_id="set/4", k=50, per_image=True))
    shown = {hit["image_id"] for hit in report.data["hits"]}
    assert shown == {f"set/{i}" for i in np.flatnonzero(groups != "p1")}


def test_k_above_the_number_of_patients_is_clipped_and_said(cases):
    report = search(SearchOptions(index=str(cases[0]), image_id="set/0", k=10))
    assert len(report.data["hits"]) == 3
    assert any("only 3 other groups" in note for note in report.data["notes"])


def test_collapse_fetches_on_until_k_patients_are_found(make_dataset, embed_as, draw_skin, tmp_path):
    """90 images of one patient lie nearer than any image of the two others."""
    groups = ["query", *["crowd"] * 90, "far1", "far2"]
    angles = np.concatenate([[0], np.linspace(0.001, 0.1, 90), [0.5, 0.6]])
    folder = make_dataset("set", [draw_skin(0, 16)] * 93, groups)
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    out = tmp_path / "index"
    index(IndexOptions(embeddings=str(embed_as(folder, features)), out=str(out)))
    report = search(SearchOptions(index=str(out), image_id="set/0", k=3))
    assert [hit["image_id"] for hit in report.data["hits"]] == ["set/1", "set/91", "set/92"]


def test_the_contact_sheet_is_drawn_and_skipped_where_the_images_are_gone(cases, tmp_path, caplog):
    options = SearchOptions(index=str(cases[0]), image_id="set/0", out=str(tmp_path / "sheet.png"))
    assert search(options).data["sheet"] is not None
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width > 500 and height > 200
    (tmp_path / "sheet.png").unlink()
    (tmp_path / "data-set").rename(tmp_path / "moved")
    report = search(options)
    assert len(report.data["hits"]) == 3 and report.data["sheet"] is None
    assert not (tmp_path / "sheet.png").exists() and "out of reach" in caplog.text


def test_the_contact_sheet_says_whose_pictures_must_stay_here():
    free, bound = (notice(name, licence, "", False) for name, licence in (("ham", "CC-BY-NC-4.0"), ("scin", "SCIN")))
    assert "Do not pass this sheet on" not in foot([free])
    assert "keeps pictures of scin where they are" in foot([free, bound])


def test_an_unknown_image_id_is_answered_with_the_full_id(cases):
    with pytest.raises(InputError, match="did you mean 'set/11'"):
        search(SearchOptions(index=str(cases[0]), image_id="11"))


@pytest.mark.parametrize("options", [{}, {"photo": "a.jpg", "image_id": "set/0"}])
def test_exactly_one_query_is_asked_for(cases, options):
    with pytest.raises(InputError, match="give one query"):
        search(SearchOptions(index=str(cases[0]), **options))


def test_a_file_that_is_no_image_is_refused(cases, tmp_path):
    (tmp_path / "note.jpg").write_text("no picture")
    with pytest.raises(InputError, match="not an image"):
        search(SearchOptions(index=str(cases[0]), photo=str(tmp_path / "note.jpg")))


def test_append_adds_the_new_rows_and_refuses_them_a_second_time(cases, make_dataset, embed_as, draw_skin):
    folder, features, _ = cases
    more = make_dataset("more", [draw_skin(99, 32)], ["x"])
    added = str(embed_as(more, features[:1] + 0.001))
    index(IndexOptions(out=str(folder), append=added))
    hits = search(SearchOptions(index=str(folder), image_id="set/0")).data["hits"]
    assert hits[0]["image_id"] == "more/0"
    with pytest.raises(InputError, match=r"in .* already"):
        index(IndexOptions(out=str(folder), append=added))
    assert len(open_index(folder)) == 13


def test_append_refuses_another_encoder_and_leaves_the_index_as_it_was(cases, make_dataset, embed_as, draw_skin):
    folder, features, _ = cases
    other = embed_as(make_dataset("more", [draw_skin(99, 32)], ["x"]), features[:1], encoder="other")
    before = (folder / "index.faiss").read_bytes()
    with pytest.raises(InputError, match="another encoder"):
        index(IndexOptions(out=str(folder), append=str(other)))
    assert (folder / "index.faiss").read_bytes() == before


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_the_recorded_recall_is_that_of_brute_force(kind):
    features = np.random.default_rng(1).normal(size=(3000, 48)).astype(np.float32)
    built = neighbours.build_index(features, kind)
    recorded = neighbours.measured_recall(built, k=10, queries=3000)
    unit = neighbours.normalise(features)
    _, exact = neighbours.search(unit, unit, 11)
    _, found = neighbours.search_index(built, features, 11)
    overlap = np.mean([len(set(a[1:]) & set(b[1:])) / 10 for a, b in zip(exact, found, strict=True)])
    assert recorded["value"] == pytest.approx(overlap, abs=1e-3)
    assert 0.3 < recorded["value"] < 1


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_an_index_never_returns_fewer_than_asked(kind):
    features = np.random.default_rng(2).normal(size=(2000, 16)).astype(np.float32)
    features[:600] = features[0]  # many copies cut an HNSW graph apart
    _, rows = neighbours.search_index(neighbours.build_index(features, kind), features[:50], 1990)
    assert rows.min() >= 0 and all(len(set(row)) == 1990 for row in rows)


def test_an_index_read_back_gives_the_same_answers(tmp_path):
    features = np.random.default_rng(3).normal(size=(500, 16)).astype(np.float32)
    for kind in ("flat", "hnsw", "ivf"):
        built = neighbours.build_index(features, kind)
        neighbours.write_index(tmp_path / kind, built)
        again = neighbours.read_index(tmp_path / kind, "dermeval index")
        assert (neighbours.search_index(built, features, 5)[1] == neighbours.search_index(again, features, 5)[1]).all()
        assert np.allclose(neighbours.index_features(again, np.array([7])), neighbours.normalise(features[7:8]))


def test_a_damaged_index_is_named(cases):
    (cases[0] / "index.faiss").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"index\.faiss is damaged"):
        open_index(cases[0])
