"""The Slurm script turns the status of a run into an exit code or a requeue; Slurm and torchrun are stand-ins."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm" / "pretrain.sbatch"
STUBS = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "scontrol": '[ "$1" = show ] && { printf "node7\\nnode8\\n"; exit; }; echo "$@" >> "$STUBS/scontrol.txt"',
    "sleep": "exec /bin/sleep 0.05",
    "python": f'exec "{sys.executable}" "$@"',
}
ENVIRONMENT = {
    "SLURM_JOB_ID": "30123",
    "SLURM_JOB_NODELIST": "node[7-8]",
    "SLURM_NNODES": "2",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_CPUS_PER_TASK": "16",
}


class Job(NamedTuple):
    code: int
    output: str
    requeues: list[str]
    launches: list[str]
    run: Path


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """The stand-ins come first on the path, all but torchrun's."""
    for name, body in STUBS.items():
        write_stub(tmp_path, name, body)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    return ENVIRONMENT | {"PATH": path, "STUBS": str(tmp_path), "RUN": str(tmp_path / "runs" / "run 1")}


def write_stub(folder: Path, name: str, body: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path} was not made"
        time.sleep(0.02)


def says(status: str) -> str:
    """A torchrun whose run ends with this status."""
    return f'mkdir -p "$RUN"; echo \'{{"status": "{status}"}}\' > "$RUN/status.json"'


@pytest.fixture
def submit(tmp_path, environment):
    """``submit(torchrun, *arguments)`` -> how the job ended; ``torchrun`` is the stand-in's body.

    With ``stop`` the script gets SIGTERM, as ahead of a time limit, once torchrun has made the file ``$STUBS/ready``.
    """

    def run(torchrun: str, *arguments: str, stop: bool = False) -> Job:
        note = '{ printf "%s|" "$@" "OMP_NUM_THREADS=$OMP_NUM_THREADS"; echo; } >> "$STUBS/torchrun.txt"'
        write_stub(tmp_path, "torchrun", f"{note}\n{torchrun}")
        given = arguments or ("--data", "my data", "--out", environment["RUN"])
        command = ["bash", str(SCRIPT), *given]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **pipes)
        if stop:
            wait_for(tmp_path / "ready")
            process.terminate()
        output, _ = process.communicate(timeout=30)
        requeues, launches = (
            path.read_text().splitlines() if path.exists() else []
            for path in (tmp_path / "scontrol.txt", tmp_path / "torchrun.txt")
        )
        return Job(process.returncode, output, requeues, launches, Path(environment["RUN"]))

    return run


@pytest.mark.parametrize(
    ("status", "code", "requeues"),
    [("done", 0, []), ("preempted", 0, ["requeue 30123"]), ("stopped", 3, []), ("failed", 1, []), ("running", 1, [])],
)
def test_the_status_decides_between_exit_code_and_requeue(submit, status, code, requeues):
    job = submit(says(status))
    assert (job.code, job.requeues) == (code, requeues), job.output
    assert f": {status} (" in job.output


def test_a_crash_without_status_is_not_requeued(submit):
    job = submit("exit 9")
    assert (job.code, job.requeues) == (1, []), job.output
    assert "none (srun ended with 9)" in job.output


@pytest.mark.parametrize("old", ["done", "preempted"])
def test_a_status_of_an_earlier_start_does_not_hide_a_crash(submit, environment, old):
    run = Path(environment["RUN"])
    run.mkdir(parents=True)
    (run / "status.json").write_text(f'{{"status": "{old}"}}')
    os.utime(run / "status.json", (1, 1))
    job = submit("exit 1")
    assert (job.code, job.requeues) == (1, []), job.output


def test_the_run_folder_must_be_given(submit):
    job = submit(says("done"), "--data", "my data")
    assert (job.code, job.launches) == (2, [])
    assert "--out" in job.output


@pytest.mark.parametrize("form", ["--out={}", "--out={}/"])
def test_the_run_folder_is_found_in_either_spelling(submit, environment, form):
    assert submit(says("done"), form.format(environment["RUN"])).code == 0


def test_torchrun_gets_nodes_ranks_meeting_place_threads_and_the_arguments_as_given(submit):
    job = submit(says("done"))
    (launch,) = job.launches
    assert "--nnodes|2|--nproc_per_node|4|" in launch
    assert "--rdzv_endpoint|node7:30123|" in launch
    assert f"-m|dermssl|pretrain|--data|my data|--out|{job.run}|OMP_NUM_THREADS=4|" in launch


def test_nothing_of_the_script_is_left_beside_the_run_folder(submit):
    job = submit(says("done"))
    assert [path.name for path in job.run.parent.iterdir()] == [job.run.name]


RANK = """
trap '{answer}; exit 75' TERM
touch "$STUBS/ready"
while true; do /bin/sleep 0.05; done
"""


@pytest.mark.skipif(not shutil.which("pkill"), reason="the script needs pkill, as Slurm nodes have it")
@pytest.mark.parametrize("answer", [says("preempted"), "true"], ids=["state saved", "not listening yet"])
def test_a_job_that_is_asked_to_stop_signals_its_ranks_and_is_requeued(submit, tmp_path, answer):
    write_stub(tmp_path, "rank", RANK.format(answer=answer.replace("'", "'\\''")))
    job = submit('rank & wait "$!"', stop=True)
    assert (job.code, job.requeues) == (0, ["requeue 30123"]), job.output
    assert "asked to stop" in job.output and "srun ended with 75" in job.output
    assert not [path for path in job.run.parent.iterdir() if path != job.run]
