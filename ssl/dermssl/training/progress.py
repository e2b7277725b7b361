"""What changes while a run trains. It is saved in every state and restored from it; only the loop assigns to it."""

from dataclasses import dataclass
from typing import Any

import torch

from dermssl.parallel import available_cores
from dermssl.training.watching.health import Health

Scores = dict[str, float]
JOULES_PER_KWH = 3.6e6
SAVED = ("step", "seconds", "joules", "baseline", "last", "best")
"""Fields that stand in ``state.json``, beside the health."""


@dataclass
class Progress:
    """How far a run is, what its evaluations gave, and its health.

    ``baseline`` (the first), ``last`` and ``best`` are scores with their ``step``. ``joules`` is what the GPUs took so
    far, None where that cannot be read. ``resumed`` is True after a state was restored.
    """

    health: Health
    step: int = 0
    seconds: float = 0.0
    joules: float | None = 0.0
    baseline: Scores | None = None
    last: Scores | None = None
    best: Scores | None = None
    resumed: bool = False

    def record(self) -> dict[str, Any]:
        """The part of ``state.json`` that `restore` reads."""
        return {name: getattr(self, name) for name in SAVED} | {"health": self.health.state()}

    def restore(self, record: dict[str, Any]) -> None:
        """The inverse of `record`."""
        for name in SAVED:
            setattr(self, name, record.get(name))
        self.health.restore(record["health"])
        self.resumed = True

    def note(self, scores: Scores, labelled: bool) -> None:
        """Remember an evaluation; the first of its scores decides which is the best.

        Without labels that is RankMe, which is meaningless for an untrained network: it is then never the best.
        """
        rank_by = next(iter(scores))
        self.last = {"step": self.step} | scores
        self.baseline = self.baseline or self.last
        untrained = self.best is not None and self.best["step"] == 0 and not labelled
        if self.best is None or untrained or scores[rank_by] > self.best[rank_by]:
            self.best = self.last

    def spend(self, seconds: float, device: torch.device, ranks: int) -> None:
        """Count training time, and the energy of the GPUs at the power that rank 0 draws now."""
        self.seconds += seconds
        try:
            watts = torch.cuda.power_draw(device) / 1000 if device.type == "cuda" else None
        except (ImportError, RuntimeError):  # no NVML, or a driver that gives none
            watts = None
        self.joules = None if watts is None or self.joules is None else self.joules + watts * ranks * seconds


def hardware(device: torch.device) -> str:
    """What rank 0 computes on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread(s) of {available_cores()} core(s)"
