"""How much electricity a run took: measured on GPUs, estimated on CPUs, and always said how."""

import os
from dataclasses import dataclass

import torch

WATTS_PER_CORE = 10.0
"""Assumed draw of one busy CPU core with its share of memory and board: a 64-core server of 600 W."""

JOULES_PER_KWH = 3.6e6


@dataclass
class Energy:
    """Power draw times time, read at each log line on rank 0 and taken to be the same on the other ranks.

    Args:
        device: that rank 0 trains on.
        ranks: of the run.
        cores: CPU cores that one rank keeps busy.
        joules: counted so far; None once a reading was impossible.
        seconds: training time that ``joules`` covers.
    """

    device: torch.device
    ranks: int
    cores: int
    joules: float | None = 0.0
    seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count the time since the last call, up to ``seconds`` of training, at the draw of this moment."""
        watts = self._watts()
        passed, self.seconds = seconds - self.seconds, seconds
        self.joules = None if watts is None or self.joules is None else self.joules + watts * passed

    def _watts(self) -> float | None:
        if self.device.type != "cuda":
            return WATTS_PER_CORE * min(self.cores * self.ranks, os.cpu_count() or 1)
        try:
            return torch.cuda.power_draw(self.device) / 1000 * self.ranks
        except (ImportError, RuntimeError):  # NVML's Python binding is absent, or the driver does not tell
            return None

    def report(self) -> str:
        """The estimate in kWh and where it comes from, as one sentence."""
        if self.joules is None:
            return "not estimated: the GPU's power draw cannot be read (`pip install nvidia-ml-py`)"
        if self.device.type == "cuda":
            how = f"power draw of GPU 0 read through NVML at each log line x {self.ranks} rank(s); hosts not counted"
        else:
            busy = min(self.cores * self.ranks, os.cpu_count() or 1)
            how = f"{busy} busy CPU core(s) x {WATTS_PER_CORE:g} W assumed x training time; nothing was measured"
        return f"{self.joules / JOULES_PER_KWH:.3g} kWh (an estimate: {how})"
