"""Tests run on CPU, where bits repeat, also on a machine with a GPU; `test_gpu.py` is what runs there."""

import os
import sys
from pathlib import Path

os.environ["ACCELERATE_USE_CPU"] = "true"
sys.path.insert(0, str(Path(__file__).parent))  # for `launched`
