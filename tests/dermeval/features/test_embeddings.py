"""An embeddings folder that was damaged, swapped or made by hand is refused in one line."""

import json

import numpy as np
import pyarrow as pa
import pytest

from dermeval.features.embeddings import open_embeddings, write_embeddings
from dermeval.retrieval.index import index
from dermeval.retrieval.options import IndexOptions, SearchOptions
from dermeval.retrieval.search import search
from dermssl.dataset.dataset import open_dataset
from dermssl.dataset.store import write_shard
from dermssl.errors import InputError
from dermssl.files import read_parquet, write_parquet


@pytest.fixture
def folder(tmp_path, make_embeddings, make_frame):
    frame = make_frame(6, seed=3)
    return make_embeddings(tmp_path, frame, np.random.default_rng(0).normal(size=(len(frame), 4)))


def swap(folder, change):
    features = np.load(folder / "features.npy")
    np.save(folder / "features.npy", change(features))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[:, :3], "has shape"),
        (lambda x: x[:, :0], "features.npy"),
        (lambda x: x[1:], "has shape"),
        (lambda x: x.astype(complex), "features.npy"),
        (lambda x: x.astype(np.float64), "features.npy"),
        (lambda x: x.astype(int), "features.npy"),
        (lambda x: x.ravel(), "features.npy"),
        (lambda x: np.where(x == x[2, 1], np.nan, x), "hold NaN or infinity"),
        (lambda x: x[::-1], "was changed after it was written"),
    ],
)
def test_features_of_another_shape_type_or_encoder_are_refused(folder, change, words):
    swap(folder, change)
    with pytest.raises(InputError, match=words) as refusal:
        open_embeddings(folder)
    assert "features.npy" in str(refusal.value) and "\n" not in str(refusal.value)


def test_manifest_rows_in_another_order_than_the_features_are_refused(folder):
    table = read_parquet(folder / "manifest.parquet", "")
    write_parquet(folder / "manifest.parquet", table.sort_by([("image_id", "descending")]))
    with pytest.raises(InputError, match=r"manifest\.parquet was changed after it was written: run `dermeval embed`"):
        open_embeddings(folder)


@pytest.mark.parametrize("name", ["embedding.json", "manifest.parquet", "features.npy"])
def test_a_file_that_is_a_link_out_of_the_folder_is_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is a link out of its folder"):
        open_embeddings(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder", None),
        ("encoder", {"path": "x"}),
        ("datasets", []),
        ("datasets", [{"name": 3}]),
        ("licences", "CC0"),
        ("views", ["../../x"]),
        ("dtype", "complex64"),
    ],
)
def test_a_record_of_another_kind_is_named_by_its_key(folder, key, value):
    info = json.loads((folder / "embedding.json").read_text())
    (folder / "embedding.json").write_text(json.dumps(info | {key: value}))
    with pytest.raises(InputError, match=f"embedding.json.*{key}"):
        open_embeddings(folder)


def test_a_manifest_without_a_column_is_named(folder):
    table = read_parquet(folder / "manifest.parquet", "")
    write_parquet(folder / "manifest.parquet", table.drop_columns(["group_id"]))
    with pytest.raises(InputError, match=r"manifest.parquet.*group_id"):
        open_embeddings(folder)
    place = table.column_names.index("dataset")
    for values in (pa.nulls(len(table)), pa.array([[1]] * len(table))):
        write_parquet(folder / "manifest.parquet", table.set_column(place, "dataset", values))
        with pytest.raises(InputError, match=r"manifest.parquet.*column dataset is of type"):
            open_embeddings(folder)


@pytest.fixture
def mixed(tmp_path, make_toy_dataset, make_frame):
    """Two data sets whose free columns have different types, and one without values."""
    one, other = make_frame(6, seed=3), make_frame(6, seed=4, name="other")
    one = one.assign(visit=1, device="phone", size=2)
    other = other.assign(visit="first", device=None, size=0.5)
    datasets = [open_dataset(make_toy_dataset(tmp_path / name, part, {})) for name, part in (("a", one), ("b", other))]
    features = np.random.default_rng(0).normal(size=(len(one) + len(other), 4)).astype(np.float32)
    write_embeddings(tmp_path / "e", features, datasets, {"path": "e", "fingerprint": "e", "preprocessing": {}}, {})
    return tmp_path / "e"


def test_free_columns_of_different_types_are_pooled(mixed):
    frame = open_embeddings(mixed).frame
    assert set(frame["visit"]) == {"1", "first"} and set(frame["size"]) == {2.0, 0.5}
    assert set(open_embeddings(mixed).table["visit"].to_pylist()) == {"1", "first"}
    assert frame["device"].isna().sum() == (frame["dataset"] == "other").sum()


@pytest.mark.parametrize("kind", ["flat", "lance"])
def test_an_index_of_such_data_is_searched_and_filtered(mixed, tmp_path, kind):
    if kind == "lance":
        pytest.importorskip("lancedb")
    index(IndexOptions(sources=[str(mixed)], out=str(tmp_path / "i"), type=kind))
    asked = SearchOptions(index=str(tmp_path / "i"), image_id=["toy/000_0"], where="visit == 'first' and size < 1")
    assert {hit["dataset"] for hit in search(asked).data["queries"][0]["hits"]} == {"other"}


def test_images_that_have_other_pixels_since_are_not_judged_by_their_old_features(folder):
    manifest = folder.parent / "data" / "manifest.parquet"
    table = read_parquet(manifest, "")
    pixels = ["other", *table["pixel_sha256"].to_pylist()[1:]]
    place = table.column_names.index("pixel_sha256")
    write_parquet(manifest, table.set_column(place, table.schema.field(place), pa.array(pixels)))
    with pytest.raises(InputError, match=r"1 image \(first toy/000_0\) changed in .* run `dermeval embed` again"):
        _ = open_embeddings(folder).frame


def test_images_that_were_added_to_the_data_set_are_told(folder, caplog):
    manifest, name = folder.parent / "data" / "manifest.parquet", "images-00001.arrow"
    table = read_parquet(manifest, "")
    new = table.slice(0, 2).to_pandas().assign(image_id=["toy/new1", "toy/new2"])
    write_parquet(manifest, pa.concat_tables([table, pa.Table.from_pandas(new, table.schema)]))
    write_shard(manifest.with_name(name), [b"\xff\xd8\xff"] * 2)
    embeddings = open_embeddings(folder)
    assert len(embeddings.frame) == len(table)
    assert "2 images of" in caplog.text and "run `dermeval embed` again to use them" in caplog.text


def test_a_data_set_that_is_there_but_cannot_be_read_is_told_with_the_reason(folder, caplog):
    manifest = folder.parent / "data" / "manifest.parquet"
    table = read_parquet(manifest, "")
    place = table.column_names.index("age")
    write_parquet(manifest, table.set_column(place, table.schema.field(place), pa.array([200.0] * len(table), "f4")))
    assert len(open_embeddings(folder).frame) == len(table)
    assert "is out of reach" in caplog.text and "manifest column age must be 0 to 150 or null" in caplog.text
