"""Bad inputs for `dermeval serve`; see conftest.py. What can be served after all is not."""

import pytest

from dermeval.web import serve

COMMAND = "dermeval serve {index} --port 0"
READS = ("index",)
DAMAGED = ("index/manifest.parquet", "index/vectors.npy", "data/dataset.json")


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    """The server ends as soon as it starts."""
    monkeypatch.setattr(serve, "run_app", lambda app, sock: None)


def test_bad_input_is_refused(attack, family):
    attack(family)
