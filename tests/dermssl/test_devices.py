"""Memory that a step frees serves the next one; precision may change from run to run."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState

from dermssl import devices
from dermssl.devices import start_accelerator
from dermssl.errors import InputError

FAULTS = """
import resource, sys, torch
import dermssl.training.pretrain
from dermssl.devices import start_accelerator
if sys.argv[1] == "keep":
    start_accelerator("fp32")
def step():
    for megabytes in (64, 8, 24):
        torch.ones(megabytes, 1 << 18)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

CPU = os.environ | {"ACCELERATE_USE_CPU": "true"}


@pytest.mark.skipif(os.name != "posix" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_is_asked_of_the_kernel_once_not_at_every_step():
    faults = {}
    for way in ("keep", "hand back"):
        done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True, env=CPU)
        faults[way] = int(done.stdout)
    assert 10 * faults["keep"] < faults["hand back"]


def test_ranks_wait_longer_for_rank_0_than_nccl_by_default(monkeypatch):
    asked = []

    def join(cpu: bool = False, **group):
        asked.append(group["timeout"].total_seconds())
        raise KeyboardInterrupt

    monkeypatch.setattr("dermssl.devices.PartialState", join)
    with pytest.raises(KeyboardInterrupt):
        start_accelerator("fp32")
    assert asked[0] > 600


@pytest.mark.parametrize("way", ["DEEPSPEED", "FSDP", "MEGATRON_LM"])
def test_a_launcher_that_would_divide_the_network_is_refused(monkeypatch, way):
    monkeypatch.setenv(f"ACCELERATE_USE_{way}", "true")
    with pytest.raises(InputError, match=f"asks for {way}.*another --config_file"):
        start_accelerator("fp32")


def test_an_apple_gpu_is_left_alone_since_it_has_no_float64(monkeypatch):
    asked = []

    def join(cpu: bool = False, **group):
        asked.append(cpu)
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("dermssl.devices.PartialState", join)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")
    with pytest.raises(KeyboardInterrupt):
        start_accelerator("fp32")
    assert asked == [True]


def test_one_process_can_compute_in_one_precision_after_the_other(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(devices, "choose_precision", lambda asked, device: asked)
    for precision, expected in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
        assert devices.accelerator_in(precision, cpu).mixed_precision == expected
    AcceleratorState._reset_state(True)
