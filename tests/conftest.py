"""Tests run on CPU, where bits repeat, also on a machine with a GPU; `test_gpu.py` is what runs there."""

import os

os.environ["ACCELERATE_USE_CPU"] = "true"
