"""What changes while a run trains. Every state saves it; only the loop changes it."""

from dataclasses import dataclass
from typing import Any

import torch

from dermssl.errors import counted
from dermssl.parallel import available_cores
from dermssl.training.watching.health import Health

Scores = dict[str, float]
JOULES_PER_KWH = 3.6e6
SAVED = ("step", "seconds", "joules", "baseline", "last", "best")
"""Fields of `Progress` in ``state.json``, besides the health."""


@dataclass
class Progress:
    """The step, time, energy, scores and health of a run so far.

    ``baseline`` (the first, before training), ``last`` and ``best`` are scores with their ``step``. ``joules`` is the
    energy of the GPUs, None if it cannot be read.
    """

    health: Health
    step: int = 0
    seconds: float = 0.0
    joules: float | None = 0.0
    baseline: Scores | None = None
    last: Scores | None = None
    best: Scores | None = None

    def record(self) -> dict[str, Any]:
        """The part of ``state.json`` that holds the progress."""
        return {name: getattr(self, name) for name in SAVED} | {"health": self.health.state()}

    def restore(self, record: dict[str, Any]) -> None:
        """Take the values of a `record`."""
        for name in SAVED:
            setattr(self, name, record[name])
        self.health.restore(record["health"])

    def note(self, scores: Scores, labelled: bool) -> None:
        """Record the scores of an evaluation. The first score decides which evaluation is the best.

        Without labels this is RankMe, which means nothing for an untrained network: step 0 is then never the best.
        """
        rank_by = next(iter(scores))
        self.last = {"step": self.step} | scores
        self.baseline = self.baseline or self.last
        untrained = self.best is not None and self.best["step"] == 0 and not labelled
        if self.best is None or untrained or scores[rank_by] > self.best[rank_by]:
            self.best = self.last

    def spend(self, seconds: float, device: torch.device, ranks: int) -> None:
        """Add training time, and the energy of all GPUs at the present power of rank 0's."""
        self.seconds += seconds
        try:
            watts = torch.cuda.power_draw(device) / 1000 if device.type == "cuda" else None
        except Exception:  # no NVML, or a GPU or driver that does not know the power: NVML has errors of its own
            watts = None
        self.joules = None if watts is None or self.joules is None else self.joules + watts * ranks * seconds


def hardware(device: torch.device) -> str:
    """The name of the GPU, or the threads and cores of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {counted(torch.get_num_threads(), 'thread')} of {counted(available_cores(), 'core')}"
