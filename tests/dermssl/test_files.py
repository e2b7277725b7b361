"""Writes are all or nothing, reads say what is wrong, and nothing is ever pickled."""

import numpy as np
import pyarrow as pa
import pytest

from dermssl import files
from dermssl.errors import InputError


def _names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), files.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path, "x") == {"old": 1}
    assert _names(tmp_path) == ["a.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), files.atomic_folder(tmp_path / "out") as folder:
        (folder / "part").touch()
        raise RuntimeError
    assert _names(tmp_path) == []
    for content in ("first", "second"):
        with files.atomic_folder(tmp_path / "out") as folder:
            (folder / content).touch()
            assert content not in _names(tmp_path / "out")
    assert _names(tmp_path / "out") == ["second"] and _names(tmp_path) == ["out"]


def test_every_format_comes_back_as_it_was_written(tmp_path):
    table = pa.table({"id": ["é", None], "n": pa.array([2**64 - 1, 0], pa.uint64())})
    files.write_parquet(tmp_path / "t.parquet", table)
    assert files.read_parquet(tmp_path / "t.parquet", "x").equals(table)
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    files.write_npy(tmp_path / "a.npy", array)
    assert np.array_equal(files.read_npy(tmp_path / "a.npy", "x"), array)
    assert files.read_npy(tmp_path / "a.npy", "x").dtype == np.float16
    files.write_yaml(tmp_path / "c.yaml", {"z": 1, "a": ["é"]})
    assert list(files.read_yaml(tmp_path / "c.yaml").items()) == [("z", 1), ("a", ["é"])]


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert _names(tmp_path) == []


def test_pickle_is_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        files.write_npy(tmp_path / "a.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="damaged"):
        files.read_npy(tmp_path / "evil.npy", "dermeval embed")


@pytest.mark.parametrize("read", [files.read_json, files.read_parquet, files.read_npy])
def test_missing_and_damaged_files_name_the_command_that_makes_them(tmp_path, read):
    path = tmp_path / "file"
    with pytest.raises(InputError, match=r"file does not exist: make it with `dermssl prepare`"):
        read(path, "dermssl prepare")
    path.write_bytes(b"\x00\x01 half a file")
    with pytest.raises(InputError, match=r"file is damaged .* make it again with `dermssl prepare`"):
        read(path, "dermssl prepare")


def test_a_folder_of_another_kind_is_not_taken(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        files.require_folder(tmp_path / "x", "dataset.json", "dermssl prepare")
    with pytest.raises(InputError, match=r"holds no dataset\.json, so it is not the output of"):
        files.require_folder(tmp_path, "dataset.json", "dermssl prepare")


def test_overwriting_is_asked_for_and_spares_folders_of_another_kind(tmp_path):
    assert files.require_new_folder(tmp_path / "new", False) == tmp_path / "new"
    assert files.require_new_folder(tmp_path, False) == tmp_path, "an empty folder may be filled"
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(InputError, match="--overwrite"):
        files.require_new_folder(tmp_path, False)
    with pytest.raises(InputError, match=r"holds no dataset\.json, so it is not replaced"):
        files.require_new_folder(tmp_path, True, "dataset.json")
    (tmp_path / "dataset.json").touch()
    assert files.require_new_folder(tmp_path, True, "dataset.json") == tmp_path
    with pytest.raises(InputError, match="is a file"):
        files.require_new_folder(tmp_path / "photo.jpg", True)
