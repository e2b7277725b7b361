"""Builds a run from its options, and restores its progress so far."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from dermssl import licences, log
from dermssl.backbone.build import Normalisation
from dermssl.backbone.embedding import preprocessing_at
from dermssl.backbone.pretrained import WEIGHTS, initial_facts, unrecorded_starts
from dermssl.dataset.dataset import Dataset, open_datasets
from dermssl.devices import on_first_rank, start_accelerator
from dermssl.errors import InputError, counted, shortened
from dermssl.methods import schedules
from dermssl.paths import json_object
from dermssl.training import states
from dermssl.training.networks import init_of, make_method
from dermssl.training.optimizer import Buffers, make_optimizer, parameter_groups
from dermssl.training.options import PretrainOptions
from dermssl.training.pool import TrainingData, select_rows
from dermssl.training.progress import Progress
from dermssl.training.run_folder import START_LEDGER, open_run_folder
from dermssl.training.watching.health import Health
from dermssl.training.watching.online import online_features
from dermssl.training.watching.tracking import check_trackers
from dermssl.views.loader import Pool, default_workers
from dermssl.views.sampler import Sampler, parse_weights


@dataclass(frozen=True)
class Run:
    """What one rank holds and never replaces. Of its parts, ``progress`` changes while it trains.

    ``scheduled`` holds each scheduled value over the global step, ``(steps,)``. ``buffers`` keeps the running
    statistics of the method from before a step, ``recomputed`` those from before a backward pass that computes
    activations again. ``main`` is True on the rank that prints and writes. ``fingerprints`` holds those of the data
    sets by name, in the order of pooling. ``splits`` is ``all`` if test rows were read, by this run or by the run that
    it started from. ``unrecorded`` are the starts, of this run or of an earlier one, whose training images are in no
    ledger, besides those in ``notices``. ``notices`` are the licences of the data and of the weights that the run
    started from. ``preprocessing`` is the timm data config of the encoder. ``signals`` are those that asked this
    process to leave.
    """

    options: PretrainOptions
    folder: Path
    lock: IO[str] | None
    accelerator: Accelerator
    data: TrainingData
    pool: Pool
    sampler: Sampler
    method: Any
    normalisation: Normalisation
    optimizer: torch.optim.Optimizer
    buffers: Buffers
    recomputed: Buffers
    scheduled: dict[str, np.ndarray]
    workers: int
    main: bool
    fingerprints: dict[str, str]
    splits: str
    unrecorded: list[str]
    notices: list[dict[str, Any]]
    preprocessing: dict[str, Any]
    progress: Progress
    signals: list[int] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.scheduled["lr"])

    @property
    def precision(self) -> str:
        """``bf16`` or ``fp32``."""
        return {"bf16": "bf16", "no": "fp32"}[str(self.accelerator.mixed_precision)]

    @property
    def reproducibility(self) -> dict[str, Any]:
        """Besides the configuration, everything that bit-identical results depend on."""
        return {
            "torch": torch.__version__,
            "device": str(self.accelerator.device),
            "precision": self.precision,
            "ranks": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "views": f"OpenCV {cv2.__version__}",
        }

    def at(self, step: int) -> dict[str, float]:
        """The scheduled values of one step."""
        return {name: float(values[step]) for name, values in self.scheduled.items()}

    def features(self, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
        """Features ``(len(rows), D)`` float32 of stored images by the present encoder."""
        return online_features(self.method.encoder(), dataset, rows, self.preprocessing, self.accelerator.device)

    def steps_of(self, epochs: float) -> int:
        """Optimizer steps in so many epochs, at least one."""
        return max(1, round(epochs * self.sampler.steps_per_epoch))


def set_up(options: PretrainOptions) -> Run:
    """Build a run, and restore its newest state if there is one. Raises InputError before anything is written."""
    training = options.training
    options.model.init = init_of(options.model)
    datasets = open_datasets(options.data.folders)
    shares = parse_weights(list(map(str, options.data.weights)), [dataset.name for dataset in datasets])
    data = select_rows(datasets, options.data.splits, options.online, training.seed, shares)
    check_trackers(options.tracking.trackers, licences.restricted(dataset.licence for dataset in datasets))
    pool = data.pool(options.views.positives)
    sampler = Sampler(tuple(map(len, data.rows)), shares, training.batch, training.seed)
    remarks = _check_length(options, sampler)
    accelerator = start_accelerator(training.precision)
    ranks, accumulation = accelerator.num_processes, training.accumulation
    if training.batch % (parts := ranks * accumulation):
        sharers = f"{counted(ranks, 'rank')} x {counted(accumulation, 'accumulation step')}"
        raise InputError(f"training.batch {training.batch} cannot be shared by {sharers}: use a multiple of {parts}")
    method, normalisation = make_method(options, accelerator)
    groups = parameter_groups(method, method.network("student"), options.keep.layer_decay)
    steps = training.epochs * sampler.steps_per_epoch
    health = Health(options.health, method.chance_loss(options.micro_batch), steps, method=options.method)
    folder, start = Path(options.out), _known_of_start(options)
    run = Run(
        options=options,
        folder=folder,
        lock=on_first_rank(accelerator, lambda: open_run_folder(options)),
        accelerator=accelerator,
        data=data,
        pool=pool,
        sampler=sampler,
        method=method.to(accelerator.device),
        normalisation=normalisation,
        optimizer=make_optimizer(groups, options.optim),
        buffers=Buffers(method),
        recomputed=Buffers(method if options.model.gradient_checkpointing else torch.nn.Identity()),
        scheduled=_schedules(options, sampler.steps_per_epoch, method),
        workers=default_workers() if options.data.workers < 0 else options.data.workers,
        main=accelerator.is_main_process,
        fingerprints={dataset.name: dataset.fingerprint for dataset in datasets},
        splits="all" if "all" in (options.data.splits, start.get("splits")) else "train",
        unrecorded=_unrecorded(options, start),
        notices=licences.merge([*(dataset.licence for dataset in datasets), *start["licences"]]),
        preprocessing=preprocessing_at(options.views.global_size, normalisation),
        progress=Progress(health),
    )
    _refuse_unequal_ranks(run)
    _restore(run)
    for remark in remarks:
        log.warning("warning: %s", remark)
    return run


def _known_of_start(options: PretrainOptions) -> dict[str, Any]:
    """The licence notices and the other facts of the weights that the run starts from."""
    init, folder = options.model.init, Path(options.out)
    if init is None:
        return {"licences": []}
    resumed = not options.overwrite and states.newest_record(folder / "state") is not None
    if resumed and json_object(folder / "best" / "config.json", "dermssl"):
        init = str(folder)  # what the run recorded at its start: the weights may have been replaced since
    return initial_facts(init, options.model.backbone, folder)


def _unrecorded(options: PretrainOptions, start: dict[str, Any]) -> list[str]:
    """The starts without a ledger: earlier ones, and this one unless a notice of weights from elsewhere says so."""
    init, earlier = options.model.init, start.get("unrecorded", [])
    if init in (None, "timm") or (Path(options.out) / START_LEDGER).is_file():
        return earlier
    name = Path(str(init)).name
    known = name in earlier or f"{WEIGHTS}{name}" in unrecorded_starts(start["licences"])
    return earlier if known else [*earlier, name]


def _check_length(options: PretrainOptions, sampler: Sampler) -> list[str]:
    """Warnings about batch and epochs. Raises InputError: the batch is too large for the data, or too small."""
    batch, epochs, optim = options.training.batch, options.training.epochs, options.optim
    if sampler.steps_per_epoch == 0:
        raise InputError(f"training.batch is {batch} but there are only {sampler.total} training images: lower it")
    try:
        remarks = options.of_method.remarks(options.micro_batch, batch)
    except ValueError as error:
        raise InputError(str(error)) from None
    still = "the backbone never learns, so the weights of the encoder do not change"
    for name, what in (("warmup_epochs", "the learning rate never falls"), ("freeze_backbone_epochs", still)):
        if (asked := getattr(optim, name)) >= epochs:
            remarks.append(f"{what}: optim.{name} is {asked:g} of {epochs} epochs")
    if not optim.backbone_lr:
        remarks.append(f"{still}: optim.backbone_lr is 0")
    if batch < 64:
        remarks.append(f"batches of {batch} images are small for self-supervision: 64 or more learn better")
    return remarks


def _schedules(options: PretrainOptions, per_epoch: int, method: Any) -> dict[str, np.ndarray]:
    optim, steps = options.optim, options.training.epochs * per_epoch
    peak = optim.lr * options.training.batch / 256
    return {
        "lr": schedules.warmup_cosine(peak, optim.lr_end, round(optim.warmup_epochs * per_epoch), steps),
        "weight_decay": schedules.cosine(optim.weight_decay, optim.weight_decay_end, steps),
        "backbone_frozen": (np.arange(steps) < optim.freeze_backbone_epochs * per_epoch).astype(float),
        **method.schedules(steps, per_epoch),
    }


def _refuse_unequal_ranks(run: Run) -> None:
    """Raise InputError on all ranks unless all read the same data and states. Nodes may have copies on their disks."""
    newest = states.newest_record(run.folder / "state") or {}
    own = {"data sets": run.fingerprints, "newest state in --out": newest.get("step")}
    everyone = gather_object([own])
    unequal = [what for what in own if any(other[what] != own[what] for other in everyone)]
    if unequal:
        raise InputError(f"the ranks do not read the same {' and '.join(unequal)}: use storage that all machines share")


def _restore(run: Run) -> None:
    """Put the newest state, if any, into networks, optimizer and progress. InputError: it is of other data."""
    saved = states.newest_state(run.folder / "state")
    try:
        if saved:
            _take(run, saved)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{run.folder}: its newest state does not fit this version of dermssl ({shortened(error)}): finish the run "
            "with the version that began it, or start anew with --overwrite"
        ) from None


def _take(run: Run, saved: states.Saved) -> None:
    """Put a state into networks, optimizer and progress."""
    record, now, progress = saved.record, run.fingerprints, run.progress
    # The order of the sets matters: pooled row numbers count through them.
    if list(record["data"].items()) != list(now.items()):
        changed = [name for name in now if record["data"].get(name) != now[name]]
        what = f"{', '.join(changed)} changed" if changed else "--data names other sets, or in another order,"
        raise InputError(
            f"{what} since the run in {run.folder} started: restore the dataset folder, or start anew with --overwrite"
        )
    known = run.reproducibility
    other = [f"{key} {record[key]}, now {value}" for key, value in known.items() if record[key] != value]
    if other and run.main:
        log.warning("warning: the run so far had %s: from now on its roundings differ", "; ".join(other))
    states.restore(run.method, run.optimizer, saved)
    progress.restore(record)
    held = json_object(run.folder / "best" / "config.json", "dermssl").get("step")
    going = progress.step < run.steps  # at the end no other best can be found
    if run.main and progress.best and going and progress.best["step"] not in (progress.step, held):
        log.warning("warning: best/ does not hold the best encoder so far: the next evaluation replaces it")
        progress.best = None
