"""One count of cores, and workers that end with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dermssl import parallel
from dermssl.errors import InputError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(cores, cgroup="0::/", **files)``: a machine whose control groups hold ``files``."""

    def make(cores: int, cgroup: str = "0::/", **files: str) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(parallel, "CGROUPS", tmp_path / "groups")
        monkeypatch.setattr(parallel, "OWN_CGROUPS", tmp_path / "cgroup")
        (tmp_path / "cgroup").write_text(cgroup + "\n")
        for name, text in files.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return make


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000\n"}, 8),
        ("0::/", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "cpu.max": "600000 100000"}, 4),
        ("4:cpu,cpuacct:/d", {"cpu,cpuacct/d/cpu.cfs_quota_us": "-1", "cpu,cpuacct/d/cpu.cfs_period_us": "100000"}, 8),
        ("4:cpu,cpuacct:/d", {"cpu/d/cpu.cfs_quota_us": "200000", "cpu/d/cpu.cfs_period_us": "100000"}, 2),
        ("0::/", {"cpu.max": "rubbish"}, 8),
    ],
)
def test_cores_are_no_more_than_the_quota_of_a_container(machine, cgroup, files, cores):
    machine(8, cgroup, **files)
    assert parallel.available_cores() == cores


def test_ranks_of_one_machine_share_its_cores(machine, monkeypatch):
    machine(8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert parallel.available_cores() == 8 and parallel.available_cores(per_rank=True) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert parallel.available_cores(per_rank=True) == 1


def double(number: int) -> int:
    return 2 * number


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_map_in_processes_keeps_the_order():
    with parallel.process_map(2) as run:
        assert list(run(double, range(20))) == [2 * number for number in range(20)]


def test_a_killed_worker_is_one_line():
    with pytest.raises(InputError, match="a worker process was killed"), parallel.process_map(2) as run:
        list(run(die, range(4)))


PARENT = """
import multiprocessing, sys, time
from dermssl.parallel import process_map

if __name__ == "__main__":
    with process_map(2) as run:
        found = run(time.sleep, [60] * 40)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        list(found)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, number):
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.send_signal(number)
    until = time.monotonic() + 30
    while any(runs(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(runs(pid) for pid in children)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_threads_keep_the_order_and_read_only_a_little_ahead():
    taken, begun = [], []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    with parallel.thread_map(2, lambda: begun.append(threading.get_ident())) as run:
        results = run(lambda number: number * number, items())
        assert next(results) == 0 and len(taken) == 3
        assert list(results) == [number * number for number in range(1, 20)]
    assert 1 <= len(set(begun)) <= 2 and threading.get_ident() not in begun
