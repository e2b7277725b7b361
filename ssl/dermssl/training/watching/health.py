"""Health check of a run: names each sign that the run does not learn, and the setting to change."""

import math
from dataclasses import dataclass, field

from dermssl import log
from dermssl.errors import HealthStop
from dermssl.training.options import HealthOptions

MAX_SKIPPED = 3
WARMUP_SHARE = 0.25
"""Share of the run after which a loss at chance level counts as not learning."""
MIN_RANK, LEAST_RANK_SHARE = 1.5, 0.25
"""Least effective rank (RankMe), and its least share of the first one. At rank 1 all features lie along one line;
untrained backbones start above 1.5. Measured on 5,354 images: with the mean centre the rank of a ViT-T fell from 19 to
4, while its targets became equal for all images. Runs that learn stay above 0.7 of the first rank, most rise."""
MIN_LR, MAX_MOMENTUM = 1e-8, 0.99999
"""Limits beyond which nothing changes: the learning rate of the student and the momentum of the teacher."""
SMALLEST_GRADIENT, LARGEST_GRADIENT, LARGEST_RISE = 1e-7, 1e6, 1e3
"""Limits of the gradient norm before clipping, and of its ratio to the first one. Runs that learn stay well inside."""
REMEDIES = {
    "uniform output": "the loss stays at chance level with uniform outputs: lower {method}.teacher_temperature "
    "(0.02; and {method}.warmup_teacher_temperature) or {method}.out_dim, set {method}.centering to sinkhorn, or raise "
    "optim.lr",
    "one code": "the teacher gives every image the same output: raise {method}.teacher_temperature, "
    "lower {method}.center_momentum, or lower optim.lr",
    "feature collapse": "all images get nearly the same features: lower optim.lr, raise optim.warmup_epochs, "
    "or use larger batches",
    "rank collapse": "the features lie along one line, or their rank (RankMe) is below a quarter of the first: "
    "lower optim.lr, use larger batches, or with DINO set its centering to sinkhorn",
    "divergence": "the loss rises far above chance level and its start: lower optim.lr or optim.clip",
    "exploding gradient": "the gradient is huge: lower optim.lr, or limit it by optim.clip 3",
    "vanished gradient": "the gradient is zero, so nothing is learned any more: lower optim.lr, "
    "or start from other weights (model.init)",
    "learning rate of zero": "the learning rate is too small to change anything: raise optim.lr",
    "teacher stands still": "the teacher's momentum (EMA) is 1: it never follows the student: lower {method}.momentum",
    "not learning": "the loss is at chance level after a quarter of the run, or no lower than at first "
    "after half of the run: raise optim.lr or training.epochs, or weaken the views",
}
"""The cause of each symptom and the setting to change; the most telling symptom first."""
COUNTERS = ("bad_readings", "skipped_in_a_row", "skipped", "first")
"""Fields of `Health` that a resumable state keeps."""


@dataclass
class Health:
    """Checks the log lines and evaluations of a run of ``steps`` steps.

    ``chance`` is the loss of a network that gives all images the same output (`Method.chance_loss`). ``method`` is the
    section of the settings to change. The counters are part of the resumable state.
    """

    options: HealthOptions
    chance: float
    steps: int
    bad_readings: dict[str, int] = field(default_factory=dict)
    skipped_in_a_row: int = 0
    skipped: int = 0
    first: dict[str, float] = field(default_factory=dict)
    method: str = "dino"

    def state(self) -> dict:
        """The counters for the resumable state."""
        return {name: getattr(self, name) for name in COUNTERS}

    def restore(self, state: dict) -> None:
        """Take the counters of a `state`."""
        for name in COUNTERS:
            setattr(self, name, state[name])

    def step_is_finite(self, loss: float, gradient: float, step: int) -> bool:
        """Whether a step is finite; the loop leaves others out. Raises HealthStop at the third in a row that is not."""
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
        """Check one log line. Raises HealthStop (or warns) if a symptom lasts for ``patience`` lines.

        ``values`` are loss, gradient_norm, lr, and the method's statistics and scheduled values.
        """
        if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
            return  # counted by `step_is_finite`
        for name in ("loss", "gradient_norm"):
            self.first.setdefault(name, values[name])
        for symptom, present in self._symptoms(step, values).items():
            self._count(step, symptom, present, self.options.patience)

    def observe_rank(self, step: int, rankme: float) -> None:
        """Check RankMe of an evaluation. Raises HealthStop (or warns) at the second in a row that is too low."""
        least = max(MIN_RANK, LEAST_RANK_SHARE * self.first.setdefault("rankme", rankme))
        self._count(step, "rank collapse", rankme < least, 2)

    def _count(self, step: int, symptom: str, present: bool, patience: int) -> None:
        count = self.bad_readings.get(symptom, 0) + 1 if present else 0
        self.bad_readings[symptom] = count
        message = f"step {step}: {symptom}: {REMEDIES[symptom].format(method=self.method)}"
        # A run that only warned stops if it resumes with `stop`.
        if count >= patience and self.options.on_collapse == "stop":
            raise HealthStop(message + " (--health.on_collapse warn continues)")
        if count == patience:
            log.warning("warning: %s", message)

    def _symptoms(self, step: int, values: dict[str, float]) -> dict[str, bool]:
        """Whether each symptom but rank collapse is present; the most telling symptom first."""
        loss, half = values["loss"], step <= self.steps / 2
        warm = step >= WARMUP_SHARE * self.steps
        entropy, mean_entropy = values.get("teacher_entropy"), values.get("mean_target_entropy")
        gradient = values["gradient_norm"]
        uniform = entropy is not None and entropy > 0.99 * self.chance and loss > 0.99 * self.chance
        # Sharp targets over few prototypes start above chance; only a rise from there is divergence.
        diverged = loss > 1.5 * max(self.chance, self.first["loss"])
        stuck = abs(loss - self.chance) < 0.01 * self.chance
        high = not half and loss > max(self.chance, 0.99 * self.first["loss"])
        # Targets tell H(mean) - mean H about an image; untrained networks start near 0.
        told = 1.0 if entropy is None or mean_entropy is None else (mean_entropy - entropy) / self.chance
        return {
            "uniform output": warm and uniform,
            "one code": (warm and told < 0.002 and not uniform)
            or (mean_entropy is not None and mean_entropy < 0.02 * self.chance),
            "feature collapse": values.get("feature_std", 1.0) < 0.02,
            "divergence": diverged,
            "exploding gradient": gradient > min(LARGEST_GRADIENT, LARGEST_RISE * self.first["gradient_norm"]),
            "vanished gradient": gradient < SMALLEST_GRADIENT,
            # Both schedules end where nothing changes, so only the first half counts.
            "learning rate of zero": warm and half and values.get("lr", 1.0) < MIN_LR,
            "teacher stands still": half and values.get("momentum", 0.0) > MAX_MOMENTUM,
            "not learning": warm and (stuck or high) and not uniform and not diverged,
        }
