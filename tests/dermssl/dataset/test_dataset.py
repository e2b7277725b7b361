"""A dataset folder is checked when it is opened: one line names the file and what is wrong in it."""

import json
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermssl.dataset.dataset import open_dataset
from dermssl.dataset.manifest import read_manifest
from dermssl.dataset.store import write_shard
from dermssl.errors import InputError


@pytest.fixture
def folder(synthetic_dataset, tmp_path):
    return shutil.copytree(synthetic_dataset, tmp_path / "data")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("targets", None, "has no 'targets'"),
        ("targets", {"x": {"column": "y"}}, r"has no 'targets\.x\.classes'"),
        ("targets", {"x": {"column": "y", "classes": ["a"], "positive": "b"}}, "positive class 'b' is not among"),
        ("licence", "free", "'licence'"),
        ("synthetic", "yes", "'synthetic'"),
        ("short_side", -1, "'short_side'"),
        ("group", "family", "'group'"),
        ("schema_version", 1, "schema version 1, but this dermssl reads 2"),
    ],
)
def test_a_wrong_value_in_dataset_json_is_named(folder, key, value, message):
    info = json.loads((folder / "dataset.json").read_text())
    info = {name: old for name, old in info.items() if name != key} | ({} if value is None else {key: value})
    (folder / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=message) as error:
        open_dataset(folder)
    assert "dermssl prepare" in str(error.value) and "\n" not in str(error.value)


def test_keys_that_this_version_does_not_know_are_kept(folder):
    info = json.loads((folder / "dataset.json").read_text()) | {"later": [1]}
    (folder / "dataset.json").write_text(json.dumps(info))
    assert open_dataset(folder).info["later"] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns("case_id"), "no column 'case_id'"),
        (lambda table: table.drop_columns("condition"), "'condition'"),
        (lambda table: _cast(table, "age", pa.string()), "column age is of type string; it must be float"),
        (lambda table: _cast(table, "split", pa.int64()), "split"),
        (lambda table: pa.concat_tables([table, table]), "occurs twice"),
        (lambda table: table.slice(1), "manifest has"),
        (lambda table: table.sort_by([("image_id", "descending")]), "rows of manifest.parquet are not those of images"),
    ],
)
def test_a_foreign_manifest_is_named(folder, change, message):
    path = folder / "manifest.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(InputError, match=message):
        open_dataset(folder)


def test_stored_images_in_another_order_are_refused(folder):
    images = open_dataset(folder).images
    jpegs = [bytes(images.jpeg(row)) for row in range(len(images))]
    write_shard(folder / "images-00000.arrow", [jpegs[1], jpegs[0], *jpegs[2:]])
    with pytest.raises(InputError, match=r"rows of manifest\.parquet are not those of images"):
        open_dataset(folder)


def _cast(table, name, kind):
    values = pa.nulls(len(table), kind) if kind == pa.int64() else table[name].cast(kind)
    return table.set_column(table.column_names.index(name), name, values)


def test_the_fingerprint_is_that_of_the_manifest_that_was_read(folder, monkeypatch):
    """Another command writes a new split just after the manifest was read."""
    before = open_dataset(folder)

    def read_before_another_writes(path, maker):
        table = read_manifest(path, maker)
        place = table.column_names.index("split")
        pq.write_table(table.set_column(place, "split", pa.nulls(len(table), pa.string())), path / "manifest.parquet")
        return table

    monkeypatch.setattr("dermssl.dataset.dataset.read_manifest", read_before_another_writes)
    opened = open_dataset(folder)
    assert opened.table.equals(before.table) and opened.fingerprint == before.fingerprint


@pytest.mark.parametrize("name", ["dataset.json", "manifest.parquet"])
def test_a_file_that_is_a_link_out_of_the_folder_is_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is a link out of its folder"):
        open_dataset(folder)


def test_opening_a_folder_imports_no_parser_of_raw_data(synthetic_dataset):
    code = (
        "import sys; from dermssl.dataset.dataset import open_dataset; open_dataset(sys.argv[1]);"
        "print([name for name in sys.modules if name.startswith('dermssl.prepare')])"
    )
    found = subprocess.run([sys.executable, "-c", code, synthetic_dataset], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr
