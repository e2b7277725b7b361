"""What only a GPU shows; skipped where there is none. One is enough: two ranks on it speak gloo, as NCCL wants two."""

import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_runs import CONVNET, DINOV2, ROOT, arguments, metrics, status, stop_after

from dermssl.backbone.build import IMAGENET
from dermssl.views.loader import to_views

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

MOVING = {"optim__lr": "0.01", "optim__warmup_epochs": "0", "dino__freeze_last_layer_epochs": "0"}
CONVNETS = CONVNET | MOVING | {"simclr__temperature": "0.5", "training__epochs": "3"}
"""On a CPU, a run whose weights stay where they are differs from such runs by 4% or more from the second step on."""
ALIKE = {"rtol": 0.02}
"""Losses of two ways that add in another order; local batch statistics are 11% off at the first step."""
needs_bf16 = pytest.mark.skipif(
    torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False), reason="no bf16"
)


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch):
    """With convolutions that repeat, in whole float32."""
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def assert_alike(run, other) -> None:
    ours, theirs = metrics(run), metrics(other)
    assert ours.keys() == theirs.keys() and len(ours) > 5
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), **ALIKE)


def test_views_are_those_of_the_cpu():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 32, 32, 3), dtype=np.uint8)
    batch = [torch.from_numpy(pixels)]
    (on_cpu,), (on_gpu,) = (to_views(batch, torch.device(device), *IMAGENET) for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [MOVING, MOVING | DINOV2, CONVNETS], ids=["dino", "dinov2", "simclr, ResNet"])
def test_a_run_that_was_stopped_goes_on(pretrain, dataset, tmp_path, monkeypatch, changes):
    changes = changes | {"optim__lr": "0.05", "data__workers": "1"}  # moments that are lost change losses by 4 to 10%
    assert pretrain(dataset, tmp_path / "whole", **changes) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert pretrain(dataset, tmp_path / "cut", **changes) == 1
    assert pretrain(dataset, tmp_path / "cut", **changes) == 0
    assert status(tmp_path / "cut")["status"] == "done"
    assert_alike(tmp_path / "cut", tmp_path / "whole")


@needs_bf16
@pytest.mark.parametrize("changes", [{}, DINOV2, CONVNET], ids=["dino", "dinov2", "simclr, ResNet"])
def test_bf16_is_what_a_gpu_computes_in(pretrain, dataset, tmp_path, caplog, changes):
    caplog.set_level("INFO", logger="dermssl")
    assert pretrain(dataset, tmp_path / "run", **changes, training__precision="auto") == 0
    assert "1 rank on cuda" in caplog.text and ", bf16" in caplog.text
    assert pretrain(dataset, tmp_path / "exact", **changes) == 0
    assert metrics(tmp_path / "run")[1] == pytest.approx(metrics(tmp_path / "exact")[1], rel=0.02)


def test_losses_are_those_of_the_cpu(pretrain, dataset, tmp_path, monkeypatch):
    changes = MOVING | {"model__drop_path": "0"}
    assert pretrain(dataset, tmp_path / "gpu", **changes) == 0
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert pretrain(dataset, tmp_path / "cpu", **changes) == 0
    assert_alike(tmp_path / "gpu", tmp_path / "cpu")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_has_the_losses_of_an_eager_one(pretrain, dataset, tmp_path):
    changes = MOVING | {"model__drop_path": "0"}
    assert pretrain(dataset, tmp_path / "eager", **changes) == 0
    assert pretrain(dataset, tmp_path / "compiled", **changes, training__compile="true") == 0
    torch._dynamo.reset()
    assert_alike(tmp_path / "compiled", tmp_path / "eager")


GLOO = """
import sys
import torch
from accelerate import PartialState
from dermssl.cli import main
torch.backends.cudnn.allow_tf32 = False
PartialState(backend="gloo")
sys.exit(main(sys.argv[1:]))
"""


def test_two_ranks_with_batch_norm_over_both_follow_one(pretrain, dataset, tmp_path):
    assert pretrain(dataset, tmp_path / "one", **CONVNETS) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'ssl'}:{ROOT / 'eval'}", "OMP_NUM_THREADS": "1"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    command = [sys.executable, "-c", GLOO, *arguments(dataset, tmp_path / "two", **CONVNETS)]
    ranks = [subprocess.Popen(command, env=environment | meeting | {"RANK": rank}) for rank in ("0", "1")]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    assert_alike(tmp_path / "two", tmp_path / "one")
