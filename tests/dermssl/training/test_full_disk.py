"""A disk that fills up in the middle of a save costs nothing that was saved before."""

import errno

from tiny_runs import status

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
