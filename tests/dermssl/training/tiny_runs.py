import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from launched import Launched
from PIL import Image
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dermssl.cli import main
from dermssl.methods.registry import METHODS
from dermssl.training import pretrain as loop

ROOT = Path(__file__).parents[3]
TINY = {
    "model.backbone": "test_vit",
    "model.drop_path": "0.2",
    "views.global_size": "32",
    "views.local_size": "16",
    "views.local_count": "1",
    "dino.out_dim": "32",
    "dino.hidden_dim": "16",
    "dino.bottleneck_dim": "8",
    "training.epochs": "3",
    "training.batch": "8",
    "training.log_every": "1",
    "training.state_every_epochs": "0.5",
    "training.precision": "fp32",
    "optim.warmup_epochs": "1",
    "online.every_epochs": "2",
    "data.workers": "0",
    "health.on_collapse": "warn",
}
SIMCLR = {"method": "simclr", "views.local_count": "0", "simclr.hidden_dim": "16", "simclr.out_dim": "8"}
DINOV2 = {"method": "dinov2", "dinov2__out_dim": "32", "dinov2__hidden_dim": "16", "dinov2__bottleneck_dim": "8"}
CONVNET = {key.replace(".", "__"): value for key, value in SIMCLR.items()} | {
    "model__backbone": "resnet18",
    "model__drop_path": "0",
    "training__epochs": "1",
}


@pytest.fixture(autouse=True)
def one_thread():
    """A fresh Accelerate and the same thread count in every test and subprocess."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A prepared set of 40 pictures in two classes that differ in their stripes."""
    return prepare_pictures(tmp_path_factory.mktemp("data"), "pictures", 40, seed=0)


def prepare_pictures(folder: Path, name: str, count: int, seed: int) -> Path:
    random = np.random.default_rng(seed)
    for index in range(count):
        label = ("across", "along")[index % 2]
        pixels = random.integers(0, 90, (36, 40, 3), dtype=np.uint8)
        stripes = np.s_[::4] if label == "across" else np.s_[:, ::4]
        pixels[stripes] += 120
        path = folder / "raw" / label / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    out = folder / name
    arguments = ["--root", str(folder / "raw"), "--out", str(out), "--name", name, "--workers", "1"]
    assert main(["prepare", "--source", "folder", *arguments]) == 0
    return out


def arguments(data, out: Path, **changes: str) -> list[str]:
    """The command line of a tiny run; ``changes`` spell dots as two underscores.

    Options of other methods than the chosen one are left out, since `dermssl pretrain` refuses them.
    """
    options = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    others = METHODS.keys() - {options.get("method", "dino")}
    options = {key: value for key, value in options.items() if key.split(".")[0] not in others}
    folders = [str(d) for d in (data if isinstance(data, list) else [data])]
    pairs = [part for key, value in options.items() for part in (f"--{key}", value)]
    return ["pretrain", "--data", *folders, "--out", str(out), *pairs]


@pytest.fixture
def pretrain():
    """Run ``dermssl pretrain`` in this process and return its exit code."""

    def run(data, out: Path, **changes: str) -> int:
        AcceleratorState._reset_state(True)
        return main(arguments(data, out, **changes))

    return run


def start(data, out: Path, ranks: int = 1, program=("-m", "dermssl"), **changes: str) -> Launched:
    """The same in a process of its own, or in several ranks on CPU."""
    return Launched(program, arguments(data, out, **changes), ranks)


def start_python(data, out: Path, ranks: int = 1, program=("-m", "dermssl"), **changes: str) -> subprocess.Popen:
    """`start` as a user does: Python, or torchrun, which imports everything anew."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'ssl'}:{ROOT / 'eval'}", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, *program, *arguments(data, out, **changes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **pipes)


def metrics(run: Path, name: str = "loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def status(run: Path) -> dict:
    return json.loads((run / "status.json").read_text())


def saved_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer moments of the newest state."""
    last = sorted((run / "state").iterdir())[-1]
    return load_file(last / "model.safetensors") | load_file(last / "optimizer.safetensors")


def assert_same_weights(run: Path, other: Path) -> None:
    ours, theirs = saved_tensors(run), saved_tensors(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def stop_after(monkeypatch, steps: int) -> None:
    """Make the loop die once it has taken ``steps`` steps in this process."""
    taken = []

    def step(*arguments):
        if len(taken) == steps:
            raise RuntimeError("power cut")
        taken.append(1)
        return one_step(*arguments)

    one_step = loop.one_step
    monkeypatch.setattr(loop, "one_step", step)


HELD = """
import os
import sys
from dermssl.cli import main
from dermssl.training import pretrain as loop

def step(run, *rest):
    if run.progress.step == 4:
        # One write, since ranks share the pipe and `print` writes word by word where nothing is buffered.
        os.write(1, f"held at step 4 in process {os.getpid()}\\n".encode())
        sys.stdin.readline()
    return one_step(run, *rest)

one_step = loop.one_step
loop.one_step = step
sys.exit(main(sys.argv[1:]))
"""
"""``dermssl`` whose fifth step waits for a line, so that a signal is sure to find the run training."""


@contextmanager
def gradients_of_steps() -> Iterator[list[list[torch.Tensor]]]:
    """What each optimizer step inside was given: one gradient per parameter."""
    steps = []

    def record(optimizer, *_):
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        steps.append([p.grad.clone() for p in parameters])

    hook = register_optimizer_step_pre_hook(record)
    try:
        yield steps
    finally:
        hook.remove()
