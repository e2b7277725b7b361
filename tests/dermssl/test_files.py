"""Writes are all or nothing, reads say what is wrong, and nothing is ever pickled."""

import errno
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pydantic import BaseModel

from dermssl import atomic, files, paths
from dermssl.commandline import is_report
from dermssl.errors import InputError


def _names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path, "x") == {"old": 1}
    assert _names(tmp_path) == ["a.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), atomic.atomic_folder(tmp_path / "out") as folder:
        (folder / "part").touch()
        raise RuntimeError
    assert _names(tmp_path) == []
    for content in ("first", "second"):
        with atomic.atomic_folder(tmp_path / "out") as folder:
            (folder / content).touch()
            assert content not in _names(tmp_path / "out")
    assert _names(tmp_path / "out") == ["second"] and _names(tmp_path) == ["out"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_a_mapped_array_takes_its_room_on_the_disk_at_once(tmp_path, monkeypatch, number):
    """Else a full disk ends the process by a signal. A file system that cannot reserve room is used all the same."""
    asked = []

    def reserve(_, start, size):
        asked.append((start, size))
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", reserve, raising=False)
    if number == errno.ENOSPC:
        with pytest.raises(OSError, match="No space left"):
            files.new_npy(tmp_path / "a.npy", (3, 4))
    else:
        files.new_npy(tmp_path / "a.npy", (3, 4))[:] = 1
        assert files.read_npy(tmp_path / "a.npy", "x").sum() == 12
    assert asked == [(0, (tmp_path / "a.npy").stat().st_size)]


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
        paths.require_folder(tmp_path / "x", "dataset.json", "dermssl prepare")
    with pytest.raises(InputError, match=r"holds no dataset\.json, so it is not the output of"):
        paths.require_folder(tmp_path, "dataset.json", "dermssl prepare")


WRITTEN = ("dataset.json", "images/*.jpg")


def test_only_a_folder_that_the_same_command_made_is_replaced_and_only_when_asked(tmp_path):
    out = tmp_path / "out"
    assert paths.require_new_folder(out, False, WRITTEN) == out
    out.mkdir()
    assert paths.require_new_folder(out, False, WRITTEN) == out, "an empty folder may be filled"
    (out / "poetry.lock").touch()
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds no dataset\.json of this command, so it is not replaced"):
            paths.require_new_folder(out, overwrite, WRITTEN)
    (out / "poetry.lock").unlink()
    (out / "dataset.json").write_text('{"probe": "knn"}')
    with pytest.raises(InputError, match="add --overwrite"):
        paths.require_new_folder(out, False, WRITTEN)
    with pytest.raises(InputError, match="is a file"):
        paths.require_new_folder(out / "dataset.json", True, WRITTEN)
    for wrong in ({"key": "schema_version"}, {"key": "probe", "value": "linear"}):
        with pytest.raises(InputError, match="of this command"):
            paths.require_new_folder(out, True, WRITTEN, **wrong)
    assert paths.require_new_folder(out, True, WRITTEN, key="probe", value="knn") == out


@pytest.mark.parametrize("file", ["notes.json", "images/notes.txt", "sub/images.csv", ".env", "link"])
def test_a_folder_that_holds_a_file_of_the_user_is_not_replaced(tmp_path, file):
    files.write_json(tmp_path / "dataset.json", {})
    files.write_json(tmp_path / "report.json", {"report_of": "dermssl prepare"})
    for ours in ("images/1.jpg", ".dataset.json.abc-1.partial", ".out.lock"):
        (tmp_path / ours).parent.mkdir(exist_ok=True)
        (tmp_path / ours).touch()
    assert paths.require_new_folder(tmp_path, True, WRITTEN) == tmp_path
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).symlink_to(tmp_path) if file == "link" else (tmp_path / file).touch()
    with pytest.raises(InputError, match=f"also holds {file}, which this command did not write"):
        paths.require_new_folder(tmp_path, True, WRITTEN)


@pytest.mark.parametrize("read", ["out", "out/sub", ".", "link"])
def test_a_folder_that_is_read_is_never_replaced(tmp_path, read):
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "mark").touch()
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(InputError, match="which is read"):
        paths.require_new_folder(out, True, ["mark"], [None, "timm:vit", tmp_path / read])


def test_files_get_the_permissions_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_safetensors(tmp_path / "m.safetensors", {"a": torch.zeros(2)})
        files.write_json(tmp_path / "m.json", {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/null"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.write_text('{"mine": 1}'),
        lambda path: path.write_text("no JSON"),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text("[" * 100_000),
    ],
)
def test_a_report_replaces_nothing_but_a_report(tmp_path, make):
    path = tmp_path / "report.json"
    make(path)
    with pytest.raises(InputError) as refusal:
        paths.require_output_file(path, "--json", is_report)
    assert "\n" not in str(refusal.value) and _names(tmp_path) == ["report.json"]


@pytest.mark.parametrize("name", ["x" * 250, "x" * 5000, "file/below", "a\0b", ""])
def test_a_report_needs_a_name_that_a_file_can_have(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--json"):
        paths.require_output_file(tmp_path / name, "--json", is_report)


def test_an_earlier_report_is_replaced(tmp_path):
    path = tmp_path / "report.json"
    files.write_json(path, {"report_of": "dermeval knn"})
    assert paths.require_output_file(path, "--json", is_report) == path
    assert paths.require_output_file(tmp_path / "é\udcff.json", "--json", is_report)


def test_bytes_of_file_names_survive_json_and_are_shown_in_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    files.write_json(tmp_path / "a.json", {"file": name, "é": 1})
    assert files.read_json(tmp_path / "a.json", "x") == {"file": name, "é": 1}
    files.write_text(tmp_path / "a.html", name)
    assert (tmp_path / "a.html").read_text() == "caf\\udce9.jpg"


def test_formulas_are_defused_and_numbers_are_not(tmp_path):
    frame = pd.DataFrame(
        {"id": ["=1+1", "-2.5", "@x", "a=b", None], "n": [-1.5, 2, 3, 4, 5], "=c": ["+1e3", "-", "\t", "", "+x"]}
    )
    files.write_csv(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "id,n,'=c",
        "'=1+1,-1.5,+1e3",
        "-2.5,2.0,'-",
        "'@x,3.0,'\t",
        "a=b,4.0,",
        ",5.0,'+x",
    ]
    files.write_csv(tmp_path / "i.csv", frame.set_index("id")[["n"]].reset_index())
    assert (tmp_path / "i.csv").read_text().startswith("id,n\n'=1+1,-1.5\n")


class Entry(BaseModel):
    classes: list[str]


class Folder(BaseModel):
    version: int
    targets: dict[str, Entry]
    size: tuple[int, int] = (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 1}', "has no 'targets'"),
        ('{"version": "1", "targets": {}}', "'version'"),
        ('{"version": 1, "targets": {"dx": {"classes": "ab"}}}', "'targets.dx.classes'"),
        ('{"version": 1, "targets": [], "size": [1, 2]}', "'targets'"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_by_its_key(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=rf"a\.json: {message}.*make it again with `maker`"):
        files.read_json(tmp_path / "a.json", "maker", Folder)


def test_a_file_that_fits_its_model_keeps_further_keys(tmp_path):
    value = {"version": 1, "targets": {"dx": {"classes": ["a"]}}, "size": [3, 4], "more": None}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json", "maker", Folder) == value


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": NaN}', '{"a": -Infinity}', '{"a": ' + "9" * 6000 + "}", "", "[]", '{"a":']
)
def test_no_json_text_is_a_traceback(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json is .* make it again with `maker`"):
        files.read_json(tmp_path / "a.json", "maker")


@pytest.mark.parametrize(
    "text",
    ["{" * 5000, "a: " + "9" * 6000, "a: !!timestamp x", "a: !!bool x", "a: !!python/object:os.system x", "? []\n: 1"],
)
def test_no_yaml_text_is_a_traceback(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=r"a\.yaml is not valid YAML"):
        files.read_yaml(tmp_path / "a.yaml")


def test_a_yaml_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("training:\n  epochs: 3\n  batch: 8\n  epochs: 30\n")
    with pytest.raises(InputError, match=r"a\.yaml is not valid YAML: line 2: 'epochs' stands 2 times: keep one"):
        files.read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "array", [np.zeros((3, 2), complex), np.zeros((3, 0)), np.zeros((3, 2), np.int64), np.zeros(3), np.float32(1)]
)
def test_arrays_that_are_no_features_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=r"a\.npy holds no features"):
        files.read_npy(tmp_path / "a.npy", "dermeval embed", dimensions=2)


@pytest.mark.parametrize("kept", [0, 5, 40, 120, -1])
@pytest.mark.parametrize("name", ["a.npy", "a.parquet"])
def test_a_file_cut_at_any_byte_is_one_line(tmp_path, name, kept):
    path = tmp_path / name
    files.write_npy(tmp_path / "a.npy", np.ones((9, 9), np.float32))
    files.write_parquet(tmp_path / "a.parquet", pa.table({"a": [1, 2]}))
    path.write_bytes(path.read_bytes()[:kept])
    read = {"a.npy": files.read_npy, "a.parquet": files.read_parquet}[name]
    with pytest.raises(InputError, match=rf"{name} is damaged .*make it again with `maker`") as refusal:
        read(path, "maker")
    assert len(str(refusal.value)) < 600


def test_a_table_without_a_column_is_named(tmp_path):
    files.write_parquet(tmp_path / "a.parquet", pa.table({"a": [1]}))
    assert files.read_parquet(tmp_path / "a.parquet", "maker", ["a"]).num_rows == 1
    with pytest.raises(InputError, match="has no column 'b': make it again with `maker`"):
        files.read_parquet(tmp_path / "a.parquet", "maker", ["a", "b"])


@pytest.mark.parametrize(
    "read",
    [files.read_json, files.read_parquet, files.read_npy, lambda p, _: files.read_yaml(p)],
)
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe is .*file"):
        read(tmp_path / "pipe", "maker")
