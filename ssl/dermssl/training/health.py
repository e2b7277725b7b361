"""Is this run learning? Plain words when it is not, and the setting to change."""

import logging
import math
from dataclasses import dataclass, field

from dermssl.errors import HealthStop
from dermssl.training.options import HealthOptions

log = logging.getLogger("dermssl")

MAX_SKIPPED = 3
WARMUP_SHARE = 0.25
"""Share of the run after which a loss at chance level counts as not learning."""

REMEDIES = {
    "uniform output": "the loss stays at chance level with uniform outputs: "
    "lower dino.warmup_teacher_temperature (0.02) or dino.out_dim, or raise the learning rate",
    "one code": "the teacher gives every image the same output: raise dino.teacher_temperature, "
    "lower dino.center_momentum, or lower optim.lr",
    "feature collapse": "all images get nearly the same features: lower optim.lr, lengthen optim.warmup_epochs, "
    "or use larger batches",
    "divergence": "the loss rises far above chance level: lower optim.lr or optim.clip",
    "not learning": "the loss is still at chance level after a quarter of the run: raise optim.lr or training.epochs, "
    "or weaken the views",
}


@dataclass
class Health:
    """Watches log lines; counters are part of the resumable state.

    Args:
        options: what to do, and how many readings in a row count.
        chance: loss of a network that tells nothing apart (`Method.chance_loss`).
        steps: length of the run.
    """

    options: HealthOptions
    chance: float
    steps: int
    bad_readings: dict[str, int] = field(default_factory=dict)
    skipped_in_a_row: int = 0
    skipped: int = 0

    def state(self) -> dict:
        """Counters for the resumable state."""
        return {
            "bad_readings": dict(self.bad_readings),
            "skipped_in_a_row": self.skipped_in_a_row,
            "skipped": self.skipped,
        }

    def restore(self, state: dict) -> None:
        """The inverse of `state`."""
        self.bad_readings = dict(state["bad_readings"])
        self.skipped_in_a_row, self.skipped = state["skipped_in_a_row"], state["skipped"]

    def step_is_finite(self, loss: float, gradient: float, step: int) -> bool:
        """Count a non-finite step, which the loop then leaves out; raises HealthStop after three in a row."""
        if math.isfinite(loss) and math.isfinite(gradient):
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        log.warning("warning: step %d left out: loss %s, gradient norm %s", step, loss, gradient)
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise HealthStop(
                f"step {step}: loss or gradient not finite {MAX_SKIPPED} times in a row: lower optim.lr, or use "
                "training.precision fp32; the last healthy state is kept"
            )
        return False

    def observe(self, step: int, values: dict[str, float]) -> None:
        """One log line. Raises HealthStop (or warns) once a symptom has lasted ``patience`` lines."""
        present = self._symptoms(step, values)
        for symptom in REMEDIES:
            count = self.bad_readings.get(symptom, 0) + 1 if symptom in present else 0
            self.bad_readings[symptom] = count
            if count == self.options.patience:
                self._act(step, symptom)

    def _symptoms(self, step: int, values: dict[str, float]) -> set[str]:
        found = set()
        loss = values["loss"]
        entropy, mean_entropy = values.get("teacher_entropy"), values.get("mean_target_entropy")
        warm = step >= WARMUP_SHARE * self.steps
        if warm and entropy is not None and entropy > 0.99 * self.chance and loss > 0.99 * self.chance:
            found.add("uniform output")
        elif warm and abs(loss - self.chance) < 0.01 * self.chance:
            found.add("not learning")
        if mean_entropy is not None and mean_entropy < 0.02 * self.chance:
            found.add("one code")
        if values.get("feature_std", 1.0) < 0.02:
            found.add("feature collapse")
        if loss > 1.5 * self.chance:
            found.add("divergence")
        return found

    def _act(self, step: int, symptom: str) -> None:
        message = f"step {step}: {symptom}: {REMEDIES[symptom]}"
        if self.options.on_collapse == "stop":
            raise HealthStop(message + " (--health.on_collapse warn goes on)")
        log.warning("warning: %s", message)
