"""What the tests of dermssl share: the command in this process, and one small synthetic set."""

from pathlib import Path
from typing import NamedTuple

import pytest

from dermssl.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def dermssl(capsys):
    """Run ``dermssl ARGUMENTS`` here; gives the exit code and what was printed."""

    def run(*arguments) -> Outcome:
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def synthetic_raw(tmp_path_factory) -> Path:
    """The output of ``dermssl synth``: 40 patients and 4 planted ones, 48 px."""
    folder = tmp_path_factory.mktemp("raw") / "set"
    arguments = ["--patients", "40", "--duplicates", "4", "--image-size", "48", "--workers", "1"]
    assert main(["synth", "--out", str(folder), *arguments]) == 0
    return folder


@pytest.fixture(scope="session")
def synthetic_dataset(synthetic_raw, tmp_path_factory) -> Path:
    """`synthetic_raw` as a dataset folder."""
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    arguments = ["--source", "passion", "--root", str(synthetic_raw), "--out", str(folder), "--workers", "1"]
    assert main(["prepare", *arguments]) == 0
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data sets in ../shared/data")
    return folder
