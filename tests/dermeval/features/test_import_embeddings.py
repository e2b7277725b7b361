"""Features of another program: matched by id, checked, and then an embeddings folder like any other."""

import json
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermeval.cli import main
from dermeval.features.embeddings import open_embeddings, write_embeddings
from dermeval.features.import_embeddings import _from_parquet
from dermssl.dataset.dataset import open_dataset
from dermssl.dataset.targets import Target
from dermssl.files import write_parquet

CLASSES = ("Eczema", "Fungal", "Others", "Scabies")


@pytest.fixture
def data(tmp_path, make_dataset, frame):
    return make_dataset(tmp_path / "data", frame, {"condition": Target("condition", CLASSES, level="case")})


@pytest.fixture
def features(frame):
    return np.random.default_rng(0).normal(size=(len(frame), 6)).astype(np.float32)


@pytest.fixture
def bring(tmp_path, data):
    """``bring(features, ids, ...)`` writes both as files, imports them, and returns the exit code."""

    def run(features, ids, *options):
        np.save(tmp_path / "features.npy", features)
        pd.DataFrame({"image_id": ids}).to_csv(tmp_path / "ids.csv", index=False)
        given = [str(tmp_path / "features.npy"), str(tmp_path / "ids.csv")]
        return main(["import-embeddings", *given, "--data", str(data), "--out", str(tmp_path / "e"), *options])

    return run


def test_rows_find_their_images_whatever_their_order(tmp_path, bring, features, frame):
    order = np.random.default_rng(1).permutation(len(frame))
    assert bring(features[order], frame["image_id"].to_numpy()[order]) == 0
    embeddings = open_embeddings(tmp_path / "e")
    assert embeddings.table["image_id"].to_pylist() == frame["image_id"].tolist()
    assert np.array_equal(embeddings.features, features)
    assert embeddings.encoder["path"] == "imported:e" and embeddings.info["licences"][-1]["id"] == "unknown"


def test_everything_downstream_works_on_them(tmp_path, bring, features, frame, capsys):
    assert bring(features, frame["image_id"], "--name", "giant", "--licence", "MIT") == 0
    assert main(["knn", str(tmp_path / "e"), "--draws", "40"]) == 0
    assert "imported:giant" in capsys.readouterr().out
    assert main(["index", str(tmp_path / "e"), "--out", str(tmp_path / "i")]) == 0
    assert main(["search", str(tmp_path / "i"), "--image-id", frame["image_id"].iloc[0]]) == 0


def test_unique_file_names_do_and_some_images_may_lack_features(tmp_path, bring, features, frame, caplog):
    names = frame["image_id"].str.split("/").str[-1] + ".jpg"
    assert bring(features[:9], names[:9]) == 0
    assert len(open_embeddings(tmp_path / "e")) == 9 and f"{len(frame) - 9} of {len(frame)} images" in caplog.text


@pytest.mark.parametrize("kind", ["lists", "columns", "half"])
def test_a_parquet_file_brings_its_own_ids(tmp_path, data, features, frame, kind):
    table = pd.DataFrame({"image_id": frame["image_id"]})
    if kind == "lists":
        table["features"] = list(features)
    else:
        for column in range(6):
            table[f"f{column}"] = features[:, column].astype(np.float16 if kind == "half" else np.float64)
        table["age"] = frame["age"].astype(float)  # a fact of the data set is no feature
    table.to_parquet(tmp_path / "f.parquet")
    out = str(tmp_path / "e")
    assert main(["import-embeddings", str(tmp_path / "f.parquet"), "--data", str(data), "--out", out]) == 0
    assert np.allclose(open_embeddings(out).features, features, atol=1e-2 if kind == "half" else 1e-7)


@pytest.mark.parametrize("column", ["image_id", "file"])
def test_ids_in_another_order_than_those_beside_the_features_are_refused(
    tmp_path, data, features, frame, capsys, column
):
    pd.DataFrame({"image_id": frame["image_id"], "features": list(features)}).to_parquet(tmp_path / "f.parquet")
    frame.assign(file=frame["image_id"] + ".jpg")[[column]][::-1].to_csv(tmp_path / "ids.csv", index=False)
    given = [str(tmp_path / "f.parquet"), str(tmp_path / "ids.csv")]
    assert main(["import-embeddings", *given, "--data", str(data), "--out", str(tmp_path / "e")]) == 2
    assert "in another order" in capsys.readouterr().err and not (tmp_path / "e").exists()


def test_the_plot_of_an_atlas_is_no_feature(tmp_path, data, features, frame, capsys):
    record = {"path": "e", "fingerprint": "e", "preprocessing": {}}
    write_embeddings(tmp_path / "e", features, [open_dataset(data)], record, {})
    assert main(["export", str(tmp_path / "e"), "--to", "atlas", "--out", str(tmp_path / "atlas")]) == 0
    atlas, out = str(tmp_path / "atlas" / "embeddings.parquet"), str(tmp_path / "imported")
    assert main(["import-embeddings", atlas, "--data", str(data), "--out", out]) == 2
    assert "places in a plot" in capsys.readouterr().err


def test_lists_in_parquet_take_the_memory_of_their_numbers(tmp_path):
    features = np.random.default_rng(0).normal(size=(1000, 512)).astype(np.float32)
    write_parquet(tmp_path / "f.parquet", pa.table({"id": map(str, range(1000)), "features": list(features)}))
    tracemalloc.start()
    found, ids = _from_parquet(tmp_path / "f.parquet", ())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(found, features) and ids[-1] == "999" and most < 3 * features.nbytes


def test_hdf5_is_read_where_h5py_is_installed(tmp_path, data, features, frame, capsys):
    arguments = ["import-embeddings", str(tmp_path / "f.h5"), "--data", str(data), "--out", str(tmp_path / "e")]
    try:
        import h5py
    except ImportError:
        (tmp_path / "f.h5").write_bytes(b"x")
        assert main(arguments) == 2 and "pip install h5py" in capsys.readouterr().err
        return
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["features"], file["ids"] = features, frame["image_id"].tolist()
    assert main(arguments) == 0 and np.array_equal(open_embeddings(tmp_path / "e").features, features)
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file["places"], file["vectors"] = features[:, :2], features
        del file["features"]
    assert main([*arguments, "--overwrite"]) == 2
    assert "no array 'features' of two dimensions but places, vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, ids: (x[:-1], ids), "ids for"),
        (lambda x, ids: (x.astype(complex), ids), "features.npy"),
        (lambda x, ids: (x.astype(int), ids), "features.npy"),
        (lambda x, ids: (x[:, :0], ids), "features.npy"),
        (lambda x, ids: (x[:, 0], ids), "features.npy"),
        (lambda x, ids: (np.where(x == x[3, 2], np.inf, x), ids), "row 4 of the features"),
        (lambda x, ids: (np.where(x == x[3, 2], 1e20, x), ids), "row 4 of the features"),
        (lambda x, ids: (np.where(x[:, :1] == x[3, 0], 0, x), ids), "row 4 of the features holds nothing but zeros"),
        (lambda x, ids: (x, [*ids[:-1], ids[0]]), "occurs twice"),
        (lambda x, ids: (x, [*ids[:-1], "toy/none"]), "is no image of"),
        (lambda x, ids: (x, [*ids[:-1], None]), "has no id"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(tmp_path, bring, features, frame, capsys, change, words):
    assert bring(*change(features, frame["image_id"].tolist())) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1] and "Traceback" not in "".join(error) and not (tmp_path / "e").exists()


def test_two_columns_of_one_name_are_refused(tmp_path, data, features, frame, capsys):
    columns = [pa.array(frame["image_id"]), pa.array(features[:, 0]), pa.array(features[:, 1])]
    pq.write_table(pa.Table.from_arrays(columns, names=["image_id", "x", "x"]), tmp_path / "f.parquet")
    arguments = [str(tmp_path / "f.parquet"), "--data", str(data), "--out", str(tmp_path / "e")]
    assert main(["import-embeddings", *arguments]) == 2
    assert "2 columns 'x'" in capsys.readouterr().err


def test_a_folder_of_embed_is_not_replaced(tmp_path, bring, features, frame, capsys):
    assert bring(features, frame["image_id"]) == 0 and bring(features, frame["image_id"], "--overwrite") == 0
    info = json.loads((tmp_path / "e" / "embedding.json").read_text())
    del info["imported_from"]
    (tmp_path / "e" / "embedding.json").write_text(json.dumps(info))
    assert bring(features, frame["image_id"], "--overwrite") == 2
    assert "not replaced" in capsys.readouterr().err


def test_an_unknown_licence_names_the_nearest(bring, features, frame, capsys):
    assert bring(features, frame["image_id"], "--licence", "apache") == 2
    assert "did you mean 'Apache-2.0'" in capsys.readouterr().err
