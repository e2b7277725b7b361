"""Similar-case search against brute force: ranking, own-patient exclusion, collapse, and what it says of mistakes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from dermeval.features.embeddings import write_embeddings
from dermeval.retrieval.index import _choose, index
from dermeval.retrieval.index_folder import fingerprint, open_index
from dermeval.retrieval.options import IndexOptions, SearchOptions
from dermeval.retrieval.output import sheet_foot
from dermeval.retrieval.search import search
from dermssl.dataset.dataset import open_dataset
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
    index(IndexOptions(sources=[str(embed_as(folder, features))], out=str(out)))
    return out, features, np.array(groups)


def hits_of(report):
    return report.data["queries"][0]["hits"]


def best_per_patient(features, groups, query, own):
    """Brute force: image numbers of the best image of each patient, best first."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    order = [i for i in np.argsort(-unit @ unit[query]) if i != query and (own or groups[i] != groups[query])]
    return [i for rank, i in enumerate(order) if groups[i] not in groups[order[:rank]]]


@pytest.mark.parametrize("own", [False, True])
def test_the_hits_are_those_of_brute_force(cases, own):
    folder, features, groups = cases
    report = search(SearchOptions(index=str(folder), image_id=["set/0"], include_own=own))
    expected = best_per_patient(features, groups, 0, own)
    assert [hit["image_id"] for hit in hits_of(report)] == [f"set/{i}" for i in expected]
    assert (hits_of(report)[0]["image_id"] == "set/1") == own


@pytest.mark.parametrize("indexed", [False, True])
def test_an_index_carries_the_licence_that_its_data_set_has_by_then(
    make_dataset, embed_as, draw_skin, tmp_path, indexed
):
    data = make_dataset("set", [draw_skin(n, 32) for n in range(4)], list("aabb"))
    source, out = embed_as(data, np.eye(4)), tmp_path / "index"
    if indexed:
        index(IndexOptions(sources=[str(source)], out=str(tmp_path / "earlier")))
        source = tmp_path / "earlier"
    info = json.loads((data / "dataset.json").read_text())
    now = {"licence": notice("set", "PASSION", "", synthetic=False)}
    (data / "dataset.json").write_text(json.dumps(info | now))
    index(IndexOptions(sources=[str(source)], out=str(out)))
    (data / "dataset.json").unlink()  # it is out of reach
    assert [entry["id"] for entry in open_index(out).notices] == ["CC0-1.0", "PASSION"]


@pytest.mark.parametrize("kind", ["flat", "lance"])
def test_features_of_images_that_are_gone_are_not_indexed(make_dataset, embed_as, draw_skin, tmp_path, kind):
    """The data set was prepared again without its last patient after it was embedded."""
    pictures = [draw_skin(n, 32) for n in range(4)]
    embeddings = embed_as(make_dataset("set", pictures, list("aabb")), np.eye(4))
    make_dataset("set", pictures[:2], list("aa"))
    with pytest.raises(InputError, match=r"2 images \(first set/2\) no longer in .*: run `dermeval embed` again, or"):
        index(IndexOptions(sources=[str(embeddings)], out=str(tmp_path / "index"), type=kind))
    assert not (tmp_path / "index").exists()


def test_per_image_shows_every_image_of_other_patients(cases):
    folder, _, groups = cases
    report = search(SearchOptions(index=str(folder), image_id=["set/4"], k=50, per_image=True))
    shown = {hit["image_id"] for hit in hits_of(report)}
    assert shown == {f"set/{i}" for i in np.flatnonzero(groups != "p1")}


def test_k_above_the_number_of_patients_is_clipped_and_said(cases):
    report = search(SearchOptions(index=str(cases[0]), image_id=["set/0"], k=10))
    assert len(hits_of(report)) == 3
    assert any("only 3 other patients" in note for note in report.data["queries"][0]["notes"])


def test_collapse_fetches_on_until_k_patients_are_found(make_dataset, embed_as, draw_skin, tmp_path):
    """90 images of one patient lie nearer than any image of the two others."""
    groups = ["query", *["crowd"] * 90, "far1", "far2"]
    angles = np.concatenate([[0], np.linspace(0.001, 0.1, 90), [0.5, 0.6]])
    folder = make_dataset("set", [draw_skin(n, 16) for n in range(93)], groups)
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    out = tmp_path / "index"
    index(IndexOptions(sources=[str(embed_as(folder, features))], out=str(out)))
    report = search(SearchOptions(index=str(out), image_id=["set/0"], k=3))
    assert [hit["image_id"] for hit in hits_of(report)] == ["set/1", "set/91", "set/92"]


@pytest.mark.parametrize("kind", ["flat", "lance"])
def test_a_copy_of_the_query_under_another_patient_is_no_hit(make_dataset, embed_as, draw_skin, tmp_path, kind):
    """As for a photo, and for an embedding: whoever has the same picture may be the query's own patient."""
    if kind == "lance":
        pytest.importorskip("lancedb")
    one = make_dataset("one", [draw_skin(0, 32), draw_skin(1, 32)], ["a", "b"])
    two = make_dataset("two", [draw_skin(n, 32) for n in (0, 2, 3)], ["x", "x", "y"])
    near, far = [1.0, 0.0], [0.5, 1.0]
    folders = [str(embed_as(one, np.array([near, far]))), str(embed_as(two, np.array([near, near, far])))]
    index(IndexOptions(sources=folders, out=str(tmp_path / "index"), type=kind))
    for own, expected in ((False, {"one/1", "two/2"}), (True, {"one/1", "two/1", "two/2"})):
        options = SearchOptions(index=str(tmp_path / "index"), image_id=["one/0"], include_own=own)
        assert {hit["image_id"] for hit in hits_of(search(options))} == expected


def test_the_contact_sheet_is_drawn_and_skipped_where_the_images_are_gone(cases, tmp_path, caplog):
    options = SearchOptions(index=str(cases[0]), image_id=["set/0"], out=str(tmp_path / "sheet.png"))
    assert search(options).data["out"] is not None
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width > 500 and height > 200
    (tmp_path / "sheet.png").unlink()
    (tmp_path / "data-set").rename(tmp_path / "moved")
    report = search(options)
    assert len(hits_of(report)) == 3 and report.data["out"] is None
    assert not (tmp_path / "sheet.png").exists() and "out of reach" in caplog.text


def test_the_contact_sheet_says_whose_pictures_must_stay_here():
    free = notice("ham", "CC-BY-NC-4.0", "Tschandl et al.: " + "The data set. " * 20, False)
    bound = notice("scin", "SCIN", "Ward et al.", False)
    assert "Do not pass this sheet on" not in " ".join(sheet_foot([free], 60))
    foot = sheet_foot([free, bound], 60)
    assert "keeps pictures of scin where they are" in " ".join(foot)
    assert "Tschandl et al.: The data" in " ".join(foot) and "Ward et al." in foot[-1]
    assert max(map(len, foot)) <= 60


def test_a_report_says_what_was_asked(cases):
    data = search(SearchOptions(index=str(cases[0]), image_id=["set/0"], k=2, where="width > 0")).data
    assert (data["index"], data["where"], data["k"]) == (str(cases[0]), "width > 0", 2)


@pytest.mark.parametrize("column", ["dataset", "group_id"])
def test_a_received_manifest_of_other_types_is_refused(cases, column):
    file, mark = cases[0] / "manifest.parquet", cases[0] / "index.json"
    table = parquet.read_table(file)
    lists = pa.array([[1.5]] * len(table))
    parquet.write_table(table.set_column(table.column_names.index(column), column, lists), file)
    info = json.loads(mark.read_text())
    info["files"]["manifest.parquet"] = fingerprint(file)
    mark.write_text(json.dumps(info))
    with pytest.raises(InputError, match=f"manifest column {column} is of type list"):
        open_index(cases[0])


def test_auto_counts_vectors_codes_and_manifest():
    assert _choose("auto", 100_000, 384, 0.4)[0] == "flat"
    assert _choose("auto", 100_000, 384, 0.3)[0] == "scan"
    with pytest.raises(InputError, match=r"codes and manifest need 0\.20 GiB: give more --memory, or --type lance"):
        _choose("auto", 100_000, 384, 0.1)


@pytest.mark.parametrize(
    "given", [{"sources": ["e"], "type": "flat"}, {"append": ["e"]}, {"sources": ["e"], "out": "s3://bucket/index"}]
)
def test_a_memory_that_would_be_ignored_is_refused(given):
    with pytest.raises(InputError, match="--memory counts only where --type auto chooses the type"):
        index(IndexOptions(**{"out": "new", "memory": 4.0} | given))


def test_an_unknown_image_id_is_answered_with_the_full_id(cases):
    with pytest.raises(InputError, match="did you mean 'set/11'"):
        search(SearchOptions(index=str(cases[0]), image_id=["11"]))


@pytest.mark.parametrize("options", [{"crops": 3}, {"encoder": "timm:resnet18"}])
def test_an_option_that_is_for_photos_is_refused_without_one(cases, options):
    with pytest.raises(InputError, match=f"--{next(iter(options))} needs PHOTOS"):
        search(SearchOptions(index=str(cases[0]), image_id=["set/11"], **options))


@pytest.mark.parametrize("options", [{}, {"photos": ["a.jpg"], "image_id": ["set/0"]}])
def test_exactly_one_query_is_asked_for(cases, options):
    with pytest.raises(InputError, match="give one kind of query"):
        search(SearchOptions(index=str(cases[0]), **options))


def test_a_file_that_is_no_image_is_refused(cases, tmp_path):
    (tmp_path / "note.jpg").write_text("no picture")
    with pytest.raises(InputError, match="not an image"):
        search(SearchOptions(index=str(cases[0]), photos=[str(tmp_path / "note.jpg")]))


def test_append_adds_the_new_rows_and_refuses_them_a_second_time(cases, make_dataset, embed_as, draw_skin):
    folder, features, _ = cases
    more = make_dataset("more", [draw_skin(99, 32)], ["x"])
    added = str(embed_as(more, features[:1] + 0.001))
    index(IndexOptions(out=str(folder), append=[added]))
    hits = search(SearchOptions(index=str(folder), image_id=["set/0"])).data["queries"][0]["hits"]
    assert hits[0]["image_id"] == "more/0"
    with pytest.raises(InputError, match=r"already in"):
        index(IndexOptions(out=str(folder), append=[added]))
    assert len(open_index(folder)) == 13


def test_an_index_of_float16_features_is_searched_with_them_and_appended_to(make_dataset, draw_skin, tmp_path):
    encoder = {"path": "e", "fingerprint": "e", "preprocessing": {}}
    for number, name in enumerate(("one", "two")):
        data = open_dataset(make_dataset(name, [draw_skin(4 * number + n, 16) for n in range(4)], list("abcd")))
        features = np.random.default_rng(number).normal(size=(4, 8)).astype(np.float16)
        write_embeddings(tmp_path / name, features, [data], encoder, {})
    out = str(tmp_path / "index")
    index(IndexOptions(sources=[str(tmp_path / "one")], out=out))
    assert len(search(SearchOptions(index=out, embeddings=str(tmp_path / "one"))).data["queries"]) == 4
    index(IndexOptions(append=[str(tmp_path / "two")], out=out))
    assert len(open_index(out)) == 8


def test_append_refuses_another_encoder_and_leaves_the_index_as_it_was(cases, make_dataset, embed_as, draw_skin):
    folder, features, _ = cases
    other = embed_as(make_dataset("more", [draw_skin(99, 32)], ["x"]), features[:1], encoder="other")
    before = (folder / "vectors.npy").read_bytes()
    with pytest.raises(InputError, match="different encoders"):
        index(IndexOptions(out=str(folder), append=[str(other)]))
    assert (folder / "vectors.npy").read_bytes() == before


def test_a_damaged_vector_file_is_named(cases):
    path = cases[0] / "vectors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"vectors\.npy is damaged or of another index"):
        open_index(cases[0])


def rewrite_mark(index, change) -> None:
    info = json.loads((index / "index.json").read_text())
    change(info)
    (index / "index.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info["files"].clear(), "files lacks vectors.npy"),
        (lambda info: info["datasets"][0].update(name="other"), "dataset holds 'set'"),
        (lambda info: info["datasets"][0].update(targets={"condition": {}}), "targets"),
        (lambda info: info["datasets"][0].update(targets={"x": {"column": "x", "classes": ["a", "a"]}}), "targets"),
    ],
)
def test_a_received_index_that_tells_of_other_files_or_data_is_refused(cases, change, message):
    rewrite_mark(cases[0], change)
    with pytest.raises(InputError, match=message):
        open_index(cases[0])


def test_vectors_that_are_no_numbers_are_refused(cases):
    vectors = np.load(cases[0] / "vectors.npy")
    vectors[3] = np.nan
    np.save(cases[0] / "vectors.npy", vectors)
    rewrite_mark(cases[0], lambda info: info["files"].update({"vectors.npy": fingerprint(cases[0] / "vectors.npy")}))
    with pytest.raises(InputError, match="NaN or infinity"):
        search(SearchOptions(index=str(cases[0]), image_id=["set/3"]))


def test_a_manifest_of_other_rows_is_refused(cases):
    file = cases[0] / "manifest.parquet"
    table = parquet.read_table(file)
    parquet.write_table(table.take(list(range(len(table)))[::-1]), file)
    with pytest.raises(InputError, match="damaged or of another index"):
        open_index(cases[0])


def test_an_index_of_the_last_version_is_refused_with_the_remedy(cases):
    path = cases[0] / "index.json"
    path.write_text(path.read_text().replace('"schema_version": 2,', ""))
    with pytest.raises(InputError, match="make it again with `dermeval index`"):
        open_index(cases[0])


def test_two_folders_make_the_index_that_appending_and_merging_make(make_dataset, embed_as, draw_skin, tmp_path):
    random = np.random.default_rng(5)
    folders = []
    for name in ("one", "two"):
        data = make_dataset(name, [draw_skin(0, 16)] * 6, [f"p{n}" for n in range(6)])
        folders.append(str(embed_as(data, random.normal(size=(6, 4)))))
    outs = [tmp_path / name for name in ("together", "appended", "a", "b", "merged")]
    index(IndexOptions(sources=folders, out=str(outs[0])))
    index(IndexOptions(sources=folders[:1], out=str(outs[1])))
    index(IndexOptions(append=folders[1:], out=str(outs[1])))
    for folder, out in zip(folders, outs[2:4], strict=True):
        index(IndexOptions(sources=[folder], out=str(out)))
    index(IndexOptions(sources=[str(outs[2]), str(outs[3])], out=str(outs[4])))
    contents = {(out / "vectors.npy").read_bytes() for out in (outs[0], outs[1], outs[4])}
    tables = [open_index(out).table for out in (outs[0], outs[1], outs[4])]
    assert len(contents) == 1 and all(table == tables[0] for table in tables)


def test_auto_says_why_it_chose_its_type(cases):
    info = open_index(cases[0]).info
    assert info["type"] == "flat" and "exact search is fast enough" in info["reason"]


def test_where_limits_the_hits_and_an_empty_filter_counts_its_conditions(cases):
    report = search(SearchOptions(index=str(cases[0]), image_id=["set/0"], where="dx == 'b'", per_image=True))
    assert {hit["dx"] for hit in hits_of(report)} == {"b"}
    with pytest.raises(InputError, match=r"leaves none of 12 images: dx == 'b' leaves 6; width > 500 leaves 0"):
        search(SearchOptions(index=str(cases[0]), image_id=["set/0"], where="dx == 'b' and width > 500"))
    with pytest.raises(InputError, match="--where is empty"):
        search(SearchOptions(index=str(cases[0]), image_id=["set/0"], where=""))


def test_queries_without_pictures_and_without_hits_make_a_sheet_too(cases, make_dataset, embed_as, draw_skin, tmp_path):
    folder, features, _ = cases
    other = embed_as(make_dataset("more", [draw_skin(99, 32)], ["x"]), features[:1])
    sheet = tmp_path / "sheet.png"
    report = search(
        SearchOptions(index=str(folder), embeddings=str(other), where="dx == 'b'", min_similarity=1, out=str(sheet))
    )
    assert not hits_of(report) and Image.open(sheet).size[0] > 100
    index(IndexOptions(out=str(folder), append=[str(other)]))
    (tmp_path / "data-more").rename(tmp_path / "moved")
    options = SearchOptions(index=str(folder), image_id=["more/0"], out=str(tmp_path / "hits.html"))
    assert len(hits_of(search(options))) == 4
    assert (tmp_path / "hits.html").read_bytes().count(b"data:image/jpeg;base64") == 4


def test_min_similarity_cuts_the_list_and_says_so(cases):
    report = search(SearchOptions(index=str(cases[0]), image_id=["set/0"], min_similarity=0.999))
    assert not hits_of(report)
    assert "0 of 3 have a similarity of at least 0.999" in " ".join(report.data["queries"][0]["notes"])


@pytest.mark.parametrize("own", [False, True])
def test_embeddings_of_the_same_data_are_queries_that_leave_their_own_patient_out(cases, tmp_path, own):
    folder, features, groups = cases
    embeddings = next(tmp_path.glob("embeddings-*"))
    report = search(SearchOptions(index=str(folder), embeddings=str(embeddings), k=2, include_own=own))
    assert len(report.data["queries"]) == 12
    for query, found in enumerate(report.data["queries"]):
        expected = best_per_patient(features, groups, query, own)[:2]
        assert [hit["image_id"] for hit in found["hits"]] == [f"set/{i}" for i in expected]


def test_a_page_of_many_pictures_is_replaced_and_an_empty_file_is_not(cases, tmp_path):
    options = SearchOptions(index=str(cases[0]), image_id=["set/0"], out=str(tmp_path / "hits.html"), overwrite=True)
    search(options)
    page = (tmp_path / "hits.html").read_bytes()
    (tmp_path / "hits.html").write_bytes(b" " * 2**26 + page)  # what marks the page stands at its end
    search(options)
    assert (tmp_path / "hits.html").read_bytes() == page
    (tmp_path / "hits.html").write_bytes(b"")
    with pytest.raises(InputError, match="was not written by this command"):
        search(options)


@pytest.mark.parametrize("ending", ["csv", "html", "png"])
def test_the_result_is_written_as_its_ending_says_and_no_file_is_replaced_unasked(cases, tmp_path, ending):
    options = SearchOptions(index=str(cases[0]), image_id=["set/0", "set/5"], out=str(tmp_path / f"hits.{ending}"))
    search(options)
    content = (tmp_path / f"hits.{ending}").read_bytes()
    assert content[:4] == {"csv": b"quer", "html": b"<!do", "png": b"\x89PNG"}[ending]
    if ending == "csv":
        assert content.count(b"set/5,") == 3
    if ending == "html":
        assert content.count(b"data:image/jpeg;base64") == 2 + 6
    with pytest.raises(InputError, match="already exists"):
        search(options)
