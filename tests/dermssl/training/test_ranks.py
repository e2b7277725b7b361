"""Two processes on CPU (gloo) follow one process."""

import json

import numpy as np
import pytest
from tiny_runs import SIMCLR, metrics, start

PARITY = {"model__drop_path": "0", "training__epochs": "3", "training__batch": "8"}


def run_ranks(dataset, out, ranks, **changes) -> str:
    process = start(dataset, out, ranks, **changes)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("method", ["dino", "simclr"])
def test_two_ranks_follow_one(dataset, pretrain, tmp_path, method):
    changes = dict(PARITY)
    if method == "simclr":
        changes |= {key.replace(".", "__"): value for key, value in SIMCLR.items()} | {"simclr__batch_norm": "false"}
    assert pretrain(dataset, tmp_path / "one", **changes) == 0
    output = run_ranks(dataset, tmp_path / "two", 2, **changes)
    assert "2 rank(s) on cpu" in output and output.count("done: ") == 1
    state = sorted((tmp_path / "two" / "state").iterdir())[-1] / "state.json"
    assert json.loads(state.read_text())["ranks"] == 2
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) >= 9
    np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=2e-4)
    norms = [list(metrics(tmp_path / name, "gradient_norm").values()) for name in ("one", "two")]
    np.testing.assert_allclose(*norms, rtol=5e-3)


def test_local_batch_statistics_are_said(dataset, tmp_path):
    changes = {key.replace(".", "__"): value for key, value in SIMCLR.items()}
    output = run_ranks(dataset, tmp_path / "run", 2, training__epochs="1", **changes)
    assert "batch statistics are local" in output
