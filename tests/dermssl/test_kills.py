"""A kill at any rename, a full disk and a folder that cannot be written: nothing is lost, and the command goes on."""

import itertools
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest

from dermssl import atomic
from dermssl.cli import main
from dermssl.dataset.dataset import open_dataset

KILLED, MOST_STEPS = 77, 80


def in_a_child(command, before) -> tuple[int, str]:
    """Exit code and standard error of a command in a copy of this process, after ``before()`` there."""
    told, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(writer, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        try:
            before()
            code = main([str(part) for part in command])
            sys.stderr.flush()
            os._exit(code)
        finally:
            os._exit(99)
    os.close(writer)
    with os.fdopen(told) as stream:
        text = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def kill_at(step):
    """End the process before its ``step``-th change of a name."""
    steps = itertools.count(1)

    def counted(call):
        def run(*arguments, **keywords):
            if next(steps) == step:
                os._exit(KILLED)
            return call(*arguments, **keywords)

        return run

    for name in ("rename", "replace", "rmdir", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    atomic._exchange = counted(atomic._exchange)


def killed_everywhere(command, check):
    """Kill the command before each change of a name, and call ``check`` after each; the last run ends well."""
    for step in range(1, MOST_STEPS):
        code, text = in_a_child(command, lambda step=step: kill_at(step))
        assert code in (0, KILLED), text
        check()
        if code == 0:
            return step
    raise AssertionError("never came to its end")


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def raw(tmp_path, synthetic_raw) -> Path:
    """Three photos of a synthetic set."""
    (tmp_path / "raw" / "images").mkdir(parents=True)
    for photo in sorted((synthetic_raw / "images").iterdir())[:3]:
        shutil.copy(photo, tmp_path / "raw" / "images")
    return tmp_path / "raw"


@pytest.mark.parametrize("replaced", [False, True])
def test_prepare_killed_at_any_rename_leaves_the_old_folder_or_the_new_one(raw, tmp_path, replaced):
    out = tmp_path / "data"
    command = ["prepare", "--source", "folder", "--root", raw, "--out", out, "--workers", 1, "--overwrite"]
    if replaced:
        assert main([*map(str, command), "--short-side", "20"]) == 0

    def check():
        with atomic.locked(out):  # as the next start does
            assert not out.exists() or len(open_dataset(out)) == 3
            assert out.exists() or not replaced

    assert killed_everywhere(command, check) > 8
    assert not hidden(tmp_path) and open_dataset(out).info["short_side"] == 384


def test_synth_killed_at_any_rename_leaves_the_old_set_or_the_new_one(tmp_path):
    out = tmp_path / "set"
    command = ["synth", "--out", out, "--patients", 2, "--image-size", 16, "--duplicates", 0, "--workers", 1]
    assert main([str(part) for part in command]) == 0

    def check():
        with atomic.locked(out):
            assert (out / "SYNTHETIC.json").is_file() and hidden(tmp_path) == [".set.lock"]

    assert killed_everywhere([*command, "--seed", 1, "--overwrite"], check) > 5
    assert not hidden(tmp_path)


def test_split_killed_at_any_rename_never_calls_a_drawn_split_official(tmp_path, synthetic_dataset):
    folder = tmp_path / "data"
    shutil.copytree(synthetic_dataset, folder)
    before = open_dataset(folder)

    def check():
        dataset = open_dataset(folder)
        old = dataset.fingerprint == before.fingerprint
        assert (dataset.info["split"] == before.info["split"]) == old

    command = ["split", folder, "--fractions", 0.5, 0.5, "--replace-official"]
    assert killed_everywhere(command, check) >= 3


@pytest.mark.parametrize("room", [0, 30_000])
def test_a_full_disk_is_one_line_and_what_was_there_stays(raw, tmp_path, synthetic_dataset, room):
    """A limit on the size of files stands for a full disk: the same error comes from the same calls."""
    old = tmp_path / "old"
    shutil.copytree(synthetic_dataset, old)
    before = {path.name: path.read_bytes() for path in old.iterdir()}

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    for command in (
        ["prepare", "--source", "folder", "--root", raw, "--out", old, "--workers", 1, "--overwrite"],
        ["split", old, "--fractions", 0.5, 0.5, "--replace-official"],
        ["synth", "--out", tmp_path / "new", "--patients", 40, "--image-size", 100, "--workers", 1],
        ["describe", old, "--out", tmp_path / "described"],
    ):
        code, text = in_a_child(command, fill)
        if code != 0:
            assert code == 2 and len(text.splitlines()) == 1 and "too large" in text, (command[0], text)
            assert command[0] != "synth" or not (tmp_path / "new").exists()
            assert command[0] != "describe" or not (tmp_path / "described").exists()
    if not room:
        assert {path.name: path.read_bytes() for path in old.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_written_is_one_line(raw, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    code, text = in_a_child(["synth", "--out", tmp_path / "closed" / "set"], lambda: None)
    assert code == 2 and "cannot be written" in text
