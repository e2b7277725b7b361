"""Exports hold every image, as the programs that they are made for read them; closed data are refused."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from dermeval.features.embeddings import write_embeddings
from dermeval.retrieval.export import export
from dermeval.retrieval.options import EmbeddingsExportOptions
from dermssl.dataset.dataset import open_dataset
from dermssl.errors import InputError
from dermssl.neighbours import normalise


@pytest.fixture
def exported(make_dataset, embed_as, draw_skin, tmp_path):
    """``exported(to, licence)`` -> the folder that 6 images of 3 patients were exported to, and their features."""
    features = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

    def run(to, licence="CC-BY-4.0", **options):
        data = make_dataset(
            "set", [draw_skin(n, 32) for n in range(6)], list("aabbcc"), labels=["x", "y\tz"] * 3, licence=licence
        )
        out = tmp_path / to
        export(EmbeddingsExportOptions(source=str(embed_as(data, features)), to=to, out=str(out), **options))
        assert json.loads((out / "export.json").read_text())["licences"][0]["id"] == licence
        return out, features

    return run


def test_the_atlas_table_has_a_place_the_true_neighbours_and_the_picture_of_each_image(exported):
    out, features = exported("atlas")
    table = pq.read_table(out / "embeddings.parquet").to_pandas()
    similarity = normalise(features) @ normalise(features).T
    np.fill_diagonal(similarity, -2)
    assert [near["ids"][0] for near in table["neighbors"]] == similarity.argmax(1).tolist()
    assert np.allclose([1 - near["distances"][0] for near in table["neighbors"]], similarity.max(1))
    assert np.isfinite(table[["x", "y"]]).all(axis=None) and table["dx"].tolist() == ["x", "y\tz"] * 3
    assert all(picture["bytes"].startswith(b"\xff\xd8\xff") for picture in table["image"])


def test_a_column_with_the_name_of_an_exported_one_is_kept_under_another(make_toy_dataset, make_frame, tmp_path):
    frame = make_frame(4, seed=0).assign(x="left", image="scan")
    data, out = open_dataset(make_toy_dataset(tmp_path / "data", frame, {})), tmp_path / "out"
    features = np.random.default_rng(0).normal(size=(len(data), 4)).astype(np.float32)
    write_embeddings(tmp_path / "e", features, [data], {"path": "e", "fingerprint": "e", "preprocessing": {}}, {})
    export(EmbeddingsExportOptions(source=str(tmp_path / "e"), to="atlas", out=str(out)))
    table = pq.read_table(out / "embeddings.parquet")
    assert set(table["x_"].to_pylist()) == {"left"} and set(table["image_"].to_pylist()) == {"scan"}
    assert len(set(table.column_names)) == len(table.column_names)


@pytest.mark.parametrize("to", ["atlas", "fiftyone", "projector"])
@pytest.mark.parametrize("shape", [(1, 4), (3, 1)])
def test_a_single_image_and_a_single_feature_are_exported(make_toy_dataset, make_frame, tmp_path, to, shape):
    images, out = shape[0], tmp_path / "out"
    frame = make_frame(images, seed=0).head(images)
    data = open_dataset(make_toy_dataset(tmp_path / "data", frame, {}))
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    write_embeddings(tmp_path / "e", features, [data], {"path": "e", "fingerprint": "e", "preprocessing": {}}, {})
    options = EmbeddingsExportOptions(source=str(tmp_path / "e"), to=to, out=str(out))
    assert export(options).data["images"] == images
    if to != "projector":
        with pytest.raises(InputError, match="umap needs at least 10 images"):
            export(dataclasses.replace(options, projection="umap", overwrite=True))
        assert (out / "export.json").exists()


def test_neighbours_for_a_format_without_them_are_refused(tmp_path):
    with pytest.raises(InputError, match="--neighbours counts only with --to atlas"):
        export(EmbeddingsExportOptions(source="none", to="fiftyone", out=str(tmp_path / "out"), neighbours=5))


def test_tensorboard_reads_the_projector_folder(exported):
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client

    out, features = exported("projector")
    apps = ProjectorPlugin(base_plugin.TBContext(logdir=str(out))).get_plugin_apps()

    def get(route):
        return Client(apps[route]).get(f"{route}?run=.&name=images").data

    assert np.allclose(np.frombuffer(get("/tensor"), np.float32).reshape(6, 4), features)
    lines = get("/metadata").decode().splitlines()
    assert len(lines) == 7 and len({line.count("\t") for line in lines}) == 1
    assert get("/sprite_image").startswith(b"\x89PNG")
    assert json.loads(get("/info"))["embeddings"][0]["sprite"]["singleImageDim"] == [64, 64]


def test_labels_with_spaces_and_quotes_reach_the_projector_as_they_are(make_dataset, embed_as, draw_skin, tmp_path):
    labels = ["basal cell carcinoma", 'so-called "mole"']
    folder = embed_as(make_dataset("set", [draw_skin(n, 32) for n in range(2)], list("ab"), labels=labels), np.eye(2))
    options = EmbeddingsExportOptions(source=str(folder), to="projector", out=str(tmp_path / "out"))
    export(options)
    lines = (tmp_path / "out" / "metadata.tsv").read_text().splitlines()
    header, *rows = (line.split("\t") for line in lines)
    assert [row[header.index("dx")] for row in rows] == labels


def test_a_tab_in_the_name_of_a_column_leaves_the_projectors_header_whole(make_dataset, draw_skin, embed_as, tmp_path):
    data = make_dataset("set", [draw_skin(n, 32) for n in range(2)], list("ab"))
    table = pq.read_table(data / "manifest.parquet")
    pq.write_table(table.append_column("seen\tby\nwhom", [["me", "you"]]), data / "manifest.parquet")
    source, out = str(embed_as(data, np.eye(2))), str(tmp_path / "out")
    export(EmbeddingsExportOptions(source=source, to="projector", out=out))
    header, *rows = (line.split("\t") for line in (tmp_path / "out" / "metadata.tsv").read_text().splitlines())
    assert "seen by whom" in header and [len(row) for row in rows] == [len(header)] * 2


def test_a_projection_that_a_format_does_not_hold_is_refused(exported, tmp_path):
    with pytest.raises(InputError, match="--projection umap: projector gets no projection: leave it out"):
        exported("projector", projection="umap")
    assert not (tmp_path / "projector").exists()


def test_the_fiftyone_samples_name_files_that_are_there(exported):
    out, features = exported("fiftyone")
    samples = json.loads((out / "samples.json").read_text())["samples"]
    assert json.loads((out / "metadata.json").read_text())["media_type"] == "image"
    assert [sample["dx"] for sample in samples] == [{"_cls": "Classification", "label": n} for n in ["x", "y\tz"] * 3]
    assert np.allclose([sample["embedding"] for sample in samples], features)
    assert all((out / sample["filepath"]).read_bytes().startswith(b"\xff\xd8\xff") for sample in samples)


def test_the_lance_table_is_searched_with_sql(exported):
    lancedb = pytest.importorskip("lancedb", reason="needs the extra `lance`")
    out, features = exported("lance")
    table = lancedb.connect(out).open_table("images")
    found = table.search(features[0]).where("dx = 'x'", prefilter=True).metric("cosine").limit(3).to_pandas()
    assert found["image_id"].iloc[0] == "set/0" and set(found["dx"]) == {"x"}
    assert found["jpeg"].iloc[0].startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("to", ["atlas", "fiftyone", "lance", "projector"])
def test_data_that_may_not_be_passed_on_are_refused_with_the_reason(exported, tmp_path, to):
    with pytest.raises(InputError, match="licence of set forbids passing the images on"):
        exported(to, licence="PASSION")
    assert not (tmp_path / to).exists()


def test_a_refusal_says_that_no_licence_is_recorded(exported):
    with pytest.raises(
        InputError,
        match=r"\(no licence of set is recorded, which counts as one that forbids it; `dermssl prepare --lic",
    ):
        exported("projector", licence="unknown")
