"""The index type lance: its hits are those of exact search, and it grows by new files alone."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermeval.features.embeddings import write_embeddings
from dermeval.retrieval import lance
from dermeval.retrieval.export import export
from dermeval.retrieval.find import find, indexed_query
from dermeval.retrieval.index import index
from dermeval.retrieval.index_folder import open_index
from dermeval.retrieval.options import EmbeddingsExportOptions, IndexOptions, SearchOptions
from dermeval.retrieval.search import search
from dermssl import neighbours
from dermssl.dataset.dataset import open_dataset
from dermssl.errors import InputError

lancedb = pytest.importorskip("lancedb")


@pytest.fixture
def parts(make_dataset, embed_as, draw_skin, monkeypatch):
    """Embeddings of two data sets, 30 patients with two images each; so few images have codes here."""
    monkeypatch.setattr(neighbours, "LEAST_CODED_ROWS", 10)
    random = np.random.default_rng(3)
    folders = []
    for first, name in ((0, "one"), (60, "it's")):
        pictures = [draw_skin(first + n, 16) for n in range(60)]
        data = make_dataset(name, pictures, [f"p{n // 2}" for n in range(60)], None, ["a", "b", "c"] * 20)
        folders.append(str(embed_as(data, random.normal(size=(60, 16)))))
    return folders


@pytest.fixture
def make(parts, tmp_path):
    """``make(kind, sources=parts)`` -> an index folder of that type."""

    def made(kind, sources=parts):
        out = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        index(IndexOptions(sources=[*map(str, sources)], out=str(out), type=kind))
        return out

    return made


def answers(folder):
    """What searches from three images find, with and without a filter, own patient and other images of a patient."""
    found = open_index(folder)
    return [
        [(hit["image_id"], round(hit["similarity"], 5)) for hit in find(found, query, 8, *how, passing=passing).hits]
        for query in (indexed_query(found, name) for name in ("one/0", "it's/7", "one/59"))
        for passing in (None, found.passing("dx == 'b' and dataset != 'one'"), found.passing("dx == 'c'"))
        for how in ((), (True, True))
    ]


def test_the_hits_are_those_of_exact_search(make):
    folder = make("lance")
    assert answers(folder) == answers(make("flat"))
    assert open_index(folder).info["recall"]["at"] == {"1": 1.0, "10": 1.0, "100": 1.0}


def test_an_index_is_exported_though_lancedb_cannot_read_while_it_writes(make, tmp_path):
    out = tmp_path / "exported"
    export(EmbeddingsExportOptions(source=str(make("lance")), to="lance", out=str(out)))
    assert lancedb.connect(out).open_table("images").count_rows() == 120


def test_a_column_name_that_lancedb_does_not_take_is_named(make, make_toy_dataset, make_frame, tmp_path):
    frame = make_frame(3, seed=0).rename(columns={"centre": "centre.of.care"})
    data = make_toy_dataset(tmp_path / "data", frame, {})
    record = {"path": "e", "fingerprint": "e", "preprocessing": {}}
    write_embeddings(tmp_path / "embedded", np.eye(len(frame), dtype=np.float32), [open_dataset(data)], record, {})
    given = str(tmp_path / "embedded")
    with pytest.raises(InputError, match=r"column 'centre\.of\.care': LanceDB does not take this.*columns\.yaml"):
        make("lance", [given])
    with pytest.raises(InputError, match=r"column 'centre\.of\.care'"):
        export(EmbeddingsExportOptions(source=given, to="lance", out=str(tmp_path / "exported")))
    assert not (tmp_path / "exported").exists()


def test_an_append_that_is_interrupted_leaves_the_index_as_it_was(make, parts, monkeypatch):
    folder = make("lance", parts[:1])

    def interrupted(table):
        assert table.count_rows() == 120
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lance, "_tidy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index(IndexOptions(out=str(folder), append=parts[1:]))
    assert len(open_index(folder)) == 60
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]
    index(IndexOptions(out=str(folder), append=parts[1:]))
    assert len(open_index(folder)) == 120


def test_appended_and_merged_indexes_answer_like_one_built_at_once(make, parts):
    together, first = make("lance"), make("lance", parts[:1])
    merged = make("lance", [first, make("flat", parts[1:])])
    old = {path.stat().st_ino for path in first.rglob("data/*")}
    index(IndexOptions(out=str(first), append=parts[1:]))
    assert answers(first) == answers(merged) == answers(together) == answers(make("flat", [together]))
    assert old <= {path.stat().st_ino for path in first.rglob("data/*")}, "the old rows were written again"
    with pytest.raises(InputError, match="already"):
        index(IndexOptions(out=str(first), append=parts[1:]))


def test_a_filter_that_leaves_nothing_counts_its_conditions_and_an_unknown_value_names_the_nearest(make):
    found = open_index(make("lance"))
    with pytest.raises(InputError, match="dx == 'a' leaves 40; width > 500 leaves 0"):
        found.passing("dx == 'a' and width > 500")
    with pytest.raises(InputError, match="no image has dataset 'two'"):
        found.passing("dataset == 'two'")
    with pytest.raises(InputError, match="did you mean 'dataset'"):
        found.passing("datasett == 'one'")


def test_a_picture_that_was_replaced_under_its_name_is_not_shown(make, parts, tmp_path):
    folder = make("lance", parts[:1])
    manifest = tmp_path / "data-one" / "manifest.parquet"
    table = pq.read_table(manifest)
    pixels = ["other", *table["pixel_sha256"].to_pylist()[1:]]
    place = table.column_names.index("pixel_sha256")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(pixels)), manifest)
    with pytest.raises(InputError, match=r"1 image \(first one/0\) changed in .* run `dermeval embed` again"):
        search(SearchOptions(index=str(folder), image_id=["one/3"], out=str(tmp_path / "hits.html")))
    assert not (tmp_path / "hits.html").exists()


def test_a_damaged_table_is_named(make):
    folder = make("lance")
    for part in ("data/*", "_versions/*.manifest", "_indices/*/auxiliary.idx"):
        file = next((folder / "images.lance").glob(part))
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match="is damaged or of another index: make it again"):
            open_index(folder)
        file.write_bytes(content)
    assert len(open_index(folder)) == 120


def test_a_received_table_whose_rows_lie_elsewhere_is_not_read(make, tmp_path):
    folder = make("lance")
    cloned, linked = tmp_path / "cloned", tmp_path / "linked"
    lancedb.connect(cloned).clone_table("images", str(folder / "images.lance"), is_shallow=True)
    shutil.copytree(folder, linked)
    shutil.rmtree(linked / "images.lance" / "data")
    (linked / "images.lance" / "data").symlink_to(folder / "images.lance" / "data")
    for received, told in ((cloned, "rows of this table are in another folder"), (linked, "link out of its folder")):
        info = json.loads((folder / "index.json").read_text())
        (received / "index.json").write_text(json.dumps(info | {"files": {}}))
        with pytest.raises(InputError, match=told):
            open_index(received)
