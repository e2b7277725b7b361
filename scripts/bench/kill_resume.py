"""Kill a small pretraining run at random moments, start it again, and compare its weights with an uninterrupted run's.

    python scripts/bench/kill_resume.py [--kills 25] [--methods dino simclr] [--ranks 1] [--seed 0] [--out FILE.md]

Each method first runs without interruption. Then the same command is started in a fresh folder and killed (SIGKILL,
with all ranks and data workers) after a time drawn uniformly from 0 to what the uninterrupted run took. It is started
again until it is done, then in another fresh folder, until the kills are used up. Drop path is on. Weights, optimizer
moments, the best encoder and losses must be equal bit by bit; the exit code is 1 where they are not.

A start is a fork of this process, which has imported all that a run needs; several ranks are several forks. So a kill
costs a second of one core, and all kills fall on the run itself and none on Python's imports.
"""

import argparse
import json
import os
import random
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from machine import publish
from PIL import Image
from safetensors.torch import load_file

from dermssl.atomic import TEMPORARY
from dermssl.cli import main as dermssl
from dermssl.training import pretrain  # noqa: F401  imported once, for all starts

SETTINGS = {
    "model.backbone": "test_vit",
    "model.drop_path": 0.2,
    "views.global_size": 32,
    "views.local_size": 16,
    "training.epochs": 20,
    "training.batch": 8,
    "training.log_every": 1,
    "training.state_every_epochs": 1,
    "training.precision": "fp32",
    "optim.warmup_epochs": 1,
    "online.every_epochs": 10,
    "tracking.projector_images": 0,
    "data.workers": 1,
    "health.on_collapse": "warn",
}
METHODS = {
    "dino": {"views.local_count": 1, "dino.out_dim": 32, "dino.hidden_dim": 16, "dino.bottleneck_dim": 8},
    "simclr": {"views.local_count": 0, "simclr.hidden_dim": 16, "simclr.out_dim": 8},
    "lejepa": {"views.local_count": 1, "lejepa.hidden_dim": 16, "lejepa.out_dim": 8, "lejepa.slices": 16},
    "dinov2": {"views.local_count": 1, "dinov2.out_dim": 32, "dinov2.hidden_dim": 16, "dinov2.bottleneck_dim": 8},
}


def make_dataset(folder: Path, images: int = 40) -> Path:
    """A prepared set of striped pictures in two classes."""
    numbers = np.random.default_rng(0)
    for index in range(images):
        pixels = numbers.integers(0, 90, (36, 40, 3), dtype=np.uint8)
        pixels[np.s_[::4] if index % 2 else np.s_[:, ::4]] += 120
        path = folder / "raw" / ("along", "across")[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    out = folder / "pictures"
    arguments = ["--root", str(folder / "raw"), "--out", str(out), "--name", "pictures", "--workers", "1"]
    (prepared,) = fork([["prepare", "--source", "folder", *arguments]], folder / "prepare.log")
    assert prepared.wait() == 0
    return out


def start(method: str, data: Path, run: Path, ranks: int) -> list[psutil.Process]:
    """One start of ``dermssl pretrain``, the same command every time: its ranks."""
    options = {"method": method} | SETTINGS | METHODS[method]
    pairs = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = ["pretrain", "--data", str(data), "--out", str(run), *pairs]
    return fork([command] * ranks, run.parent / f"{run.name}.log")


def fork(commands: list[list[str]], log: Path) -> list[psutil.Process]:
    """A copy of this process for each of ``commands``, which together are the ranks of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank, command in enumerate(commands):
        pid = os.fork()
        if pid == 0:
            _be_rank(command, log, rank, len(commands), port)
        processes.append(psutil.Process(pid))
    return processes


def _be_rank(command: list[str], log: Path, rank: int, ranks: int, port: int) -> None:
    """Run ``command`` and end this process."""
    code = 1
    try:
        with log.open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.environ["ACCELERATE_USE_CPU"] = "true"
        if ranks > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        code = dermssl(command)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def kill_after(ranks: list[psutil.Process], seconds: float) -> list[int]:
    """SIGKILL to the run and all that it started after ``seconds``: the process ids, none if it had ended before."""
    end = time.monotonic() + seconds
    codes = []
    with suppress(psutil.TimeoutExpired):
        for rank in ranks:
            codes.append(rank.wait(timeout=max(0.0, end - time.monotonic())))
    if len(codes) == len(ranks):
        if any(codes):
            raise RuntimeError(f"a start ended with exit codes {codes}: see the run's log")
        return []
    family: list[psutil.Process] = []
    for rank in ranks:
        with suppress(psutil.NoSuchProcess):
            rank.suspend()  # it starts nothing more while its children are counted
            family += [rank, *rank.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    for rank in ranks:
        rank.wait()
    return [member.pid for member in family]


def moment(run: Path, lines: int, killed: list[int]) -> str:
    """What a run was doing when it was killed, by what it left; ``lines`` were logged when it started."""
    if any(path.name.endswith(f".{pid}{TEMPORARY}") for path in run.rglob(f".*{TEMPORARY}") for pid in killed):
        return "in the middle of a write"
    if not list((run / "state").glob("step_*")):
        return "before the first state"
    return "training" if count_lines(run) > lines else "starting again"


def count_lines(run: Path) -> int:
    """Lines of metrics.jsonl."""
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def outcome(run: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights and moments of the last state, with those of the best encoder, and the loss of every step."""
    last = sorted((run / "state").glob("step_*"))[-1]
    tensors = load_file(last / "model.safetensors") | load_file(last / "optimizer.safetensors")
    tensors |= {f"best.{name}": value for name, value in load_file(run / "best" / "model.safetensors").items()}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return tensors, [line["loss"] for line in lines if "loss" in line]


def is_same(run: Path, whole: Path) -> bool:
    """Whether both runs ended with the same bits."""
    (ours, our_losses), (theirs, their_losses) = outcome(run), outcome(whole)
    if ours.keys() != theirs.keys() or our_losses != their_losses:
        return False
    return all(ours[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in ours)


def torture(method: str, data: Path, folder: Path, options: argparse.Namespace) -> dict:
    """The uninterrupted run, then killed ones until ``kills`` are used up and the last run is done."""
    folder.mkdir()
    began = time.perf_counter()
    if kill_after(start(method, data, folder / "whole", options.ranks), 3600):
        raise RuntimeError("the uninterrupted run took over an hour")
    seconds = time.perf_counter() - began
    draw, kills = random.Random(options.seed), options.kills
    moments: Counter[str] = Counter()
    same: list[bool] = []
    while moments.total() < kills:
        run = folder / f"run{len(same)}"
        while True:
            lines, left = count_lines(run), moments.total() < kills
            killed = kill_after(start(method, data, run, options.ranks), draw.uniform(0, seconds) if left else 3600)
            if not killed:
                break
            moments[moment(run, lines, killed)] += 1
            print(f"{method}: kill {moments.total()} of {kills}", file=sys.stderr, flush=True)
        same.append(is_same(run, folder / "whole"))
    return {"method": method, "seconds": seconds, "moments": moments, "same": same}


def table(results: list[dict]) -> str:
    """One line per method."""
    lines = [
        "| method | kills | where they fell | runs | runs that ended with the same bits | uninterrupted run |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        where = ", ".join(f"{count} {name}" for name, count in result["moments"].most_common())
        lines.append(
            f"| {result['method']} | {result['moments'].total()} | {where} | {len(result['same'])} "
            f"| {sum(result['same'])} | {result['seconds']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> int:
    """Kill, compare, print (or write) the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="per method")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--ranks", type=int, default=1, help="processes, by torchrun")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = make_dataset(Path(scratch))
        results = [torture(method, data, Path(scratch) / method, options) for method in options.methods]
    text = (
        "# Killed at random and started again\n\n"
        f"`python scripts/bench/kill_resume.py --kills {options.kills} --seed {options.seed} --ranks {options.ranks} "
        f"--methods {' '.join(options.methods)}`: {SETTINGS['model.backbone']}, {SETTINGS['training.epochs']} epochs, "
        f"drop path {SETTINGS['model.drop_path']}, one CPU thread and one data worker a rank, "
        f"torch {torch.__version__}.\n\n{table(results)}\n"
    )
    publish(text, options.out)
    return 0 if all(same for result in results for same in result["same"]) else 1


if __name__ == "__main__":
    sys.exit(main())
