"""Tests run on CPU, where bits repeat, also on a machine with a GPU; `test_gpu.py` is what runs there."""

import os
import sys
from pathlib import Path

os.environ["ACCELERATE_USE_CPU"] = "true"
# For `launched`. This folder itself would hide the packages, whose names its folders have.
sys.path.insert(0, str(Path(__file__).parent / "helpers"))

SLOWEST = ("compile", "ranks", "resume", "leaks", "audit", "evaluate", "kills", "compare", "devices", "overlays")


def pytest_configure(config):
    """pytest-xdist keeps the order below. By itself it gives out files of few tests last, which here take longest."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The slowest files come first, so that no worker is left with one of them at the end."""
    place = {f"test_{name}.py": number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
