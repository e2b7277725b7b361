"""The index type lance: its hits are those of exact search, and it grows by new files alone."""

import numpy as np
import pytest

from dermeval.retrieval.find import find, indexed_query
from dermeval.retrieval.index import index
from dermeval.retrieval.index_folder import open_index
from dermeval.retrieval.options import IndexOptions
from dermssl import neighbours
from dermssl.errors import InputError

pytest.importorskip("lancedb")


@pytest.fixture
def parts(make_dataset, embed_as, draw_skin, monkeypatch):
    """Embeddings of two data sets, 30 patients with two images each; so few images have codes here."""
    monkeypatch.setattr(neighbours, "LEAST_CODED_ROWS", 10)
    random = np.random.default_rng(3)
    folders = []
    for name in ("one", "it's"):
        data = make_dataset(
            name, [draw_skin(0, 16)] * 60, [f"p{n // 2}" for n in range(60)], None, ["a", "b", "c"] * 20
        )
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
    lance = make("lance")
    assert answers(lance) == answers(make("flat"))
    assert open_index(lance).info["recall"]["at"] == {"1": 1.0, "10": 1.0, "100": 1.0}


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
