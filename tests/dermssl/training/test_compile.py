"""torch.compile changes speed and nothing else: losses, resume, and what a machine without a compiler is told."""

import functools
import shutil

import pytest
import timm
import torch
from test_resume import assert_same_weights, stop_after
from tiny_runs import metrics

from dermssl.devices import require_compiler
from dermssl.errors import InputError

COMPILED = {"training__compile": "true", "training__epochs": "1"}
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Two blocks are compiled as six are, in a third of the time."""
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=2))


@needs_compiler
def test_a_compiled_run_resumes_bit_by_bit(pretrain, dataset, tmp_path, monkeypatch):
    changes = COMPILED | {"views__local_count": "0"}  # one crop size, so one program to compile
    assert pretrain(dataset, tmp_path / "compiled", **changes) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert pretrain(dataset, tmp_path / "cut", **changes) == 1
    assert pretrain(dataset, tmp_path / "cut", **changes) == 0
    assert_same_weights(tmp_path / "cut", tmp_path / "compiled")


@needs_compiler
def test_a_compiled_run_has_the_losses_of_an_eager_one(pretrain, dataset, tmp_path):
    still = {"model__drop_path": "0", "training__epochs": "1"}
    assert pretrain(dataset, tmp_path / "eager", **still) == 0
    assert pretrain(dataset, tmp_path / "compiled", **still, training__compile="true") == 0
    ours, theirs = metrics(tmp_path / "compiled"), metrics(tmp_path / "eager")
    assert ours == pytest.approx(theirs, rel=1e-4) and ours
    torch._dynamo.reset()


def test_a_machine_that_cannot_compile_is_told_so_before_anything_is_written(pretrain, dataset, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match=r"training.compile: .*no C\+\+ compiler found.*leave it out"):
        require_compiler(torch.device("cpu"))
    assert pretrain(dataset, tmp_path / "run", **COMPILED) == 2
    assert not (tmp_path / "run").exists()
