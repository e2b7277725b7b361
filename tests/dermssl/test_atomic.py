"""A folder appears whole or not at all, has one writer at a time, and a kill at any moment loses nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dermssl import atomic
from dermssl.errors import InputError

REPLACE = """
import os, pathlib, signal, sys
from dermssl import atomic

out, kill_at, exchanged = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchanged"
calls = 0

def counted(call):
    def run(*arguments, **keywords):
        global calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **keywords)
    return run

for name in ("rename", "replace", "rmdir", "unlink", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
atomic._exchange = counted(atomic._exchange if exchanged else lambda *_: False)
with atomic.atomic_folder(out) as folder:
    (folder / "value").write_text(sys.argv[4])
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def replace(out: Path, kill_at: int, how: str, value: str) -> int:
    return subprocess.run([sys.executable, "-c", REPLACE, str(out), str(kill_at), how, value], check=False).returncode


@pytest.mark.parametrize("how", ["exchanged", "renamed"])
def test_a_kill_at_any_step_of_a_replacement_loses_nothing(tmp_path, how):
    out = tmp_path / "out"
    for kill_at in range(1, 30):
        with atomic.atomic_folder(out) as folder:
            (folder / "value").write_text("old")
        killed = replace(out, kill_at, how, "new")
        if how == "exchanged":
            assert (out / "value").read_text() in ("old", "new"), "there is no moment without the folder"
        with atomic.locked(out):
            assert (out / "value").read_text() in ("old", "new")
            assert names(tmp_path) == [".out.lock", "out"], "what the kill left is cleared away"
        if killed == 0:
            break
    assert kill_at > 4 and killed == 0 and (out / "value").read_text() == "new" and names(tmp_path) == ["out"]


def test_a_second_writer_is_told_at_once(tmp_path):
    hold = "import pathlib, sys; from dermssl.atomic import locked\nwith locked(pathlib.Path(sys.argv[1])):\n"
    hold += "    print('held', flush=True); sys.stdin.read()"
    out = tmp_path / "new" / "out"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, str(out)], **pipes) as holder:
        holder.stdout.readline()
        with pytest.raises(InputError, match=f"another process is writing {out}: .* delete {out.parent}/.out.lock"):
            atomic.locked(out).__enter__()
        holder.stdin.close()
        assert holder.wait() == 0
    assert names(tmp_path) == [], "the lock and the folders made for it are gone"
    with atomic.locked(out), atomic.locked(out), atomic.atomic_folder(out):
        pass
    assert names(out.parent) == ["out"]


def test_a_requeued_job_waits_for_the_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    tries, clock = [], [0.0]

    def busy(*_):
        tries.append(1)
        if len(tries) < 4:
            raise BlockingIOError

    monkeypatch.setattr("fcntl.lockf", busy)
    monkeypatch.setattr(atomic.time, "sleep", lambda seconds: clock.append(clock[-1] + seconds))
    monkeypatch.setattr(atomic.time, "monotonic", lambda: clock[-1])
    atomic.take_lock(tmp_path / "lock", tmp_path).close()
    assert len(tries) == 4 and clock[-1] == 30


def test_where_nothing_can_be_locked_nothing_is(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with atomic.locked(tmp_path / "out"):
        pass
    assert atomic.take_lock(tmp_path / "absent" / "lock", tmp_path) is None


def test_a_file_of_a_dead_process_is_removed_and_that_of_a_live_one_is_kept(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tmp_path / f".a[1].json.{atomic._host()}-{ended.pid}.partial"
    live = tmp_path / f".a[1].json.{atomic._host()}-{os.getppid()}.partial"
    far = tmp_path / f".a[1].json.abcdef-{ended.pid}.partial"
    for leftover in (dead, live, far):
        leftover.touch()
    with atomic.atomic_file(tmp_path / "a[1].json") as temporary:
        temporary.touch()
    assert names(tmp_path) == sorted([live.name, far.name, "a[1].json"])


def test_a_folder_whose_removal_was_killed_is_gone_under_its_name_and_cleared_at_the_next_start(tmp_path, monkeypatch):
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "plan.json").write_text("{}")
    with monkeypatch.context() as patched:
        patched.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)
        atomic.remove_folder(tmp_path / "out.unfinished")
    assert not (tmp_path / "out.unfinished").exists() and len(list(tmp_path.iterdir())) == 1
    with atomic.locked(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_temporary_folder_of_a_name_that_only_begins_alike_is_not_taken_for_a_leftover(tmp_path):
    crashed = tmp_path / ".run.v3.old.partial"
    crashed.mkdir()
    with atomic.atomic_folder(tmp_path / "run.v2") as theirs:
        with atomic.locked(tmp_path / "run"):
            assert theirs.is_dir() and crashed.is_dir()
    assert (tmp_path / "run.v2").is_dir()
    with atomic.locked(tmp_path / "run.v3"):
        assert (tmp_path / "run.v3").is_dir(), "a replacement that was killed is undone by the folder's own writer"


def test_the_root_cannot_be_written():
    with pytest.raises(InputError, match=r"^/ cannot be used .*: give another path"):
        atomic.locked(Path("/")).__enter__()
