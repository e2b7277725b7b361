"""A disk or a memory that fills up is one line, and costs nothing that was saved before."""

import errno

import torch
from tiny_runs import status

from dermssl.training import pretrain as loop
from dermssl.training import states


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(pretrain, dataset, tmp_path, monkeypatch, capsys):
    writes = []

    def fill(path, tensors):
        writes.append(path)
        if len(writes) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, tensors)

    write = states.write_safetensors
    with monkeypatch.context() as patch:
        patch.setattr(states, "write_safetensors", fill)
        assert pretrain(dataset, tmp_path / "run") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left on device: free some space" in error
    assert status(tmp_path / "run")["status"] == "failed"
    assert len(list((tmp_path / "run" / "state").glob("step_*"))) == 1
    assert pretrain(dataset, tmp_path / "run") == 0
    assert not list((tmp_path / "run").rglob(".*partial"))


def test_a_full_memory_is_one_line_with_what_needs_less(pretrain, dataset, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total of 79 GiB.")

    monkeypatch.setattr(loop, "one_step", full)
    assert pretrain(dataset, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert (
        error.strip()
        .splitlines()[-1]
        .startswith("dermssl: CUDA out of memory. Tried to allocate 2.50 GiB: give a smaller batch; ")
    )
    assert status(tmp_path / "run")["status"] == "failed"
