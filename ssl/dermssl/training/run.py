"""Everything that a run holds, set up from its options and restored from its newest state."""

import logging
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from dermssl import licences
from dermssl.backbone.build import is_vit
from dermssl.dataset.dataset import open_datasets
from dermssl.devices import on_first_rank, start_accelerator
from dermssl.errors import InputError
from dermssl.methods import schedules
from dermssl.processes import available_cores
from dermssl.training import states
from dermssl.training.buffers import Buffers
from dermssl.training.energy import Energy
from dermssl.training.networks import make_method, trained_backbone
from dermssl.training.optimizer import make_optimizer, parameter_groups
from dermssl.training.options import PretrainOptions
from dermssl.training.pool import TrainingData, select_rows
from dermssl.training.presets import apply_preset
from dermssl.training.run_folder import open_run_folder, step_of_best
from dermssl.training.watching.health import Health
from dermssl.training.watching.trackers import check_trackers
from dermssl.views.loader import default_workers
from dermssl.views.sampler import Sampler, parse_weights

log = logging.getLogger("dermssl")


@dataclass
class Run:
    """Everything that one rank holds while it trains."""

    options: PretrainOptions
    folder: Path
    lock: IO[str] | None
    accelerator: Accelerator
    data: TrainingData
    sampler: Sampler
    method: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    health: Health
    energy: Energy
    buffers: Buffers
    recomputed: Buffers | None
    workers: int
    values: dict[str, np.ndarray]
    step: int = 0
    resumed: bool = False
    signals: list[int] = field(default_factory=list)
    best: dict[str, float] | None = None
    baseline: dict[str, float] | None = None
    last: dict[str, float] | None = None
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.values["lr"])

    @property
    def main(self) -> bool:
        """True on the rank that prints and writes."""
        return self.accelerator.is_main_process

    @property
    def precision(self) -> str:
        """``bf16`` or ``fp32``."""
        return {"bf16": "bf16", "no": "fp32"}[str(self.accelerator.mixed_precision)]

    @property
    def hardware(self) -> str:
        """What rank 0 computes on, in words."""
        if self.accelerator.device.type == "cuda":
            return torch.cuda.get_device_name(self.accelerator.device)
        return f"CPU {platform.machine()}, {torch.get_num_threads()} thread(s) of {available_cores()} core(s)"

    @property
    def bits(self) -> dict[str, Any]:
        """What the same bits on the same machine hang on, beside the configuration."""
        return {
            "torch": torch.__version__,
            "device": str(self.accelerator.device),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "views": f"OpenCV {cv2.__version__}",
        }

    @property
    def notices(self) -> list[dict[str, Any]]:
        """Licence notices of the data."""
        return licences.merge(dataset.licence for dataset in self.data.datasets)


def set_up(options: PretrainOptions) -> Run:
    """Data, networks, optimizer and schedules, restored from the newest state where there is one."""
    check_trackers(options.tracking.trackers)
    datasets = open_datasets(options.data.folders)
    data = select_rows(datasets, options.data.splits, options.online, options.training.seed)
    options = apply_preset(options, sum(map(len, data.rows)), not is_vit(options.model.backbone))
    shares = parse_weights(list(map(str, options.data.weights)), [dataset.name for dataset in datasets])
    sampler = Sampler(tuple(map(len, data.rows)), shares, options.training.batch, options.training.seed)
    _check_training(options, sampler)
    accelerator = _make_accelerator(options)
    method = make_method(options, accelerator)
    groups = parameter_groups(method, trained_backbone(method))
    lock = on_first_rank(accelerator, lambda: open_run_folder(options))
    values = _schedules(options, sampler, method)
    optimizer = make_optimizer(groups, options.optim)
    method.to(accelerator.device)
    ranks, workers = accelerator.num_processes, options.data.workers
    workers = default_workers() if workers < 0 else workers
    compared = options.training.batch // options.training.accumulation
    run = Run(
        options=options,
        folder=Path(options.out),
        lock=lock,
        accelerator=accelerator,
        data=data,
        sampler=sampler,
        method=method,
        model=method,
        optimizer=optimizer,
        health=Health(options.health, method.chance_loss(compared), len(values["lr"])),
        energy=Energy(accelerator.device, ranks, torch.get_num_threads() + workers),
        buffers=Buffers(method),
        recomputed=Buffers(method) if options.model.gradient_checkpointing else None,
        workers=workers,
        values=values,
    )
    _restore(run)
    run.model, run.optimizer = accelerator.prepare(method, optimizer)
    return run


def _check_training(options: PretrainOptions, sampler: Sampler) -> None:
    batch = options.training.batch
    if sampler.steps_per_epoch == 0:
        raise InputError(f"training.batch is {batch} but there are only {sampler.total} training images: lower it")
    if options.method == "simclr" and batch // options.training.accumulation < 2:
        raise InputError("method simclr needs at least 2 images per micro-batch: raise training.batch")
    if options.optim.warmup_epochs >= options.training.epochs:
        log.warning(
            "warning: the learning rate only rises: optim.warmup_epochs is %g of %d epochs",
            options.optim.warmup_epochs,
            options.training.epochs,
        )
    if batch < 64:
        log.warning("warning: batches of %d images are small for self-supervision: 64 or more learn better", batch)
    if options.method == "simclr" and options.training.accumulation > 1:
        log.warning(
            "warning: simclr compares only the %d images of a micro-batch, not the whole batch of %d",
            batch // options.training.accumulation,
            batch,
        )
    if options.method == "dino" and options.dino.centering == "sinkhorn" and options.training.accumulation > 1:
        log.warning(
            "warning: sinkhorn spreads the prototypes over the %d images of a micro-batch, not the whole batch of %d",
            batch // options.training.accumulation,
            batch,
        )


def _make_accelerator(options: PretrainOptions) -> Accelerator:
    accelerator = start_accelerator(options.training.precision)
    ranks = accelerator.num_processes
    if options.training.batch % (ranks * options.training.accumulation):
        raise InputError(
            f"training.batch {options.training.batch} is not for {ranks} ranks x {options.training.accumulation} "
            f"accumulation steps: use a multiple of {ranks * options.training.accumulation}"
        )
    return accelerator


def _schedules(options: PretrainOptions, sampler: Sampler, method: Any) -> dict[str, np.ndarray]:
    per_epoch = sampler.steps_per_epoch
    steps = options.training.epochs * per_epoch
    optim = options.optim
    peak = optim.lr * options.training.batch / 256
    return {
        "lr": schedules.warmup_cosine(peak, optim.lr_end, round(optim.warmup_epochs * per_epoch), steps),
        "weight_decay": schedules.cosine(optim.weight_decay, optim.weight_decay_end, steps),
        "backbone_frozen": (np.arange(steps) < optim.freeze_backbone_epochs * per_epoch).astype(float),
        **method.schedules(steps, per_epoch),
    }


def _restore(run: Run) -> None:
    saved = states.newest_state(run.folder / "state")
    if saved is None:
        return
    record, weights, moments = saved
    fingerprints = {dataset.name: dataset.fingerprint for dataset in run.data.datasets}
    if record["data"] != fingerprints:
        changed = [name for name in fingerprints if record["data"].get(name) != fingerprints[name]]
        raise InputError(
            f"{', '.join(changed)} changed since this run started: restore the dataset folder, "
            "or start anew with --overwrite"
        )
    other = [f"{key} {record[key]}, now {now}" for key, now in run.bits.items() if record.get(key, now) != now]
    if other and run.main:
        log.warning("warning: the run so far had %s: it goes on, with other roundings", "; ".join(other))
    states.restore(run.method, run.optimizer, weights, moments)
    run.resumed = True
    run.step, run.seconds = record["step"], record["seconds"]
    run.best, run.baseline, run.last = record["best"], record.get("baseline"), record.get("last")
    run.energy.joules, run.energy.seconds = record.get("joules"), record["seconds"]
    run.health.restore(record["health"])
    if run.main and _has_lost_best(run):
        log.warning("warning: best/ does not hold the best encoder up to here: the next evaluation fills it")
        run.best = None


def _has_lost_best(run: Run) -> bool:
    """Whether the best encoder so far is neither on disk nor the one at hand, while another can still be found."""
    if run.best is None or run.step == run.steps or run.best["step"] == run.step:
        return False
    return run.best["step"] != step_of_best(run.folder)
