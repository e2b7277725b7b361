"""``dermssl pretrain``: one plain loop, from dataset folders to a run folder with an encoder.

dermssl pretrain --config configs/dino_vits16.yaml --data data/passion --out checkpoints/run1
accelerate launch -m dermssl pretrain ...                                        many GPUs, many machines
ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m dermssl pretrain ...      two CPU ranks
"""

import logging
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from dermssl import backbone, licences
from dermssl.commandline import Report
from dermssl.data.dataset import open_datasets
from dermssl.errors import HealthStop, InputError, Preempted
from dermssl.methods import schedules
from dermssl.methods.build import build_method
from dermssl.precision import mixed_precision
from dermssl.training import states
from dermssl.training.card import write_card
from dermssl.training.health import Health
from dermssl.training.online import embed, evaluate, rankme
from dermssl.training.optimizer import clip_each, make_optimizer, parameter_groups, set_values
from dermssl.training.options import PretrainOptions
from dermssl.training.pool import TrainingData, select_rows
from dermssl.training.run_folder import open_run_folder, read_status, write_status
from dermssl.training.start import load_initial
from dermssl.training.tracking import Tracker, Waiting, progress, save_picture, view_grid
from dermssl.views.loader import ViewDataset, default_workers, make_loader, to_views
from dermssl.views.sampler import RankBatches, Sampler, parse_weights

log = logging.getLogger("dermssl")

DROP_PATH_STREAM = 7
POLL_STEPS = 10
"""Several ranks agree on a pre-emption every so many steps, since asking costs a synchronisation."""


@dataclass
class Run:
    """Everything that one rank holds while it trains."""

    options: PretrainOptions
    folder: Path
    accelerator: Accelerator
    data: TrainingData
    sampler: Sampler
    method: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    health: Health
    values: dict[str, np.ndarray]
    step: int = 0
    best: dict[str, float] | None = None
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
    def notices(self) -> list[dict[str, Any]]:
        """Licence notices of the data."""
        return licences.merge(dataset.licence for dataset in self.data.datasets)


def pretrain(options: PretrainOptions) -> Report | None:
    """Train, or go on with, the run in ``options.out``. Returns the closing report on rank 0.

    Raises:
        InputError: bad options or data, before anything is written.
        HealthStop: the run is not learning; the last healthy state is kept.
        Preempted: SIGTERM arrived; the state is saved and the same command goes on.
    """
    run = set_up(options)
    if run.main and read_status(run.folder) == "done" and run.step == run.steps:
        return _report(run, "already done")
    preempted = _listen_for_preemption()
    try:
        train(run, preempted)
    except HealthStop as stop:
        _note(run, "stopped", str(stop))
        raise
    except Preempted as stop:
        _save(run)
        _note(run, "preempted", str(stop))
        raise
    except BaseException as error:
        _note(run, "failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return _report(run, "done") if run.main else None


def set_up(options: PretrainOptions) -> Run:
    """Data, networks, optimizer and schedules, restored from the newest state where there is one."""
    datasets = open_datasets(options.data.folders)
    data = select_rows(datasets, options.data.splits, options.online, options.training.seed)
    shares = parse_weights(options.data.weights, [dataset.name for dataset in datasets])
    sampler = Sampler(tuple(map(len, data.rows)), shares, options.training.batch, options.training.seed)
    _check_batch(options, sampler)
    accelerator = _make_accelerator(options)
    method = _make_method(options, accelerator)
    groups = parameter_groups(method, _trained_backbone(method))
    folder = open_run_folder(options) if accelerator.is_main_process else Path(options.out)
    accelerator.wait_for_everyone()
    values = _schedules(options, sampler, method)
    optimizer = make_optimizer(groups, options.optim)
    method.to(accelerator.device)
    run = Run(
        options=options,
        folder=folder,
        accelerator=accelerator,
        data=data,
        sampler=sampler,
        method=method,
        model=method,
        optimizer=optimizer,
        health=Health(options.health, method.chance_loss(options.training.batch), len(values["lr"])),
        values=values,
    )
    _restore(run)
    run.model, run.optimizer = accelerator.prepare(method, optimizer)
    return run


def _check_batch(options: PretrainOptions, sampler: Sampler) -> None:
    batch = options.training.batch
    if sampler.steps_per_epoch == 0:
        raise InputError(f"training.batch is {batch} but there are only {sampler.total} training images: lower it")
    if options.method == "simclr" and batch // options.training.accumulation < 2:
        raise InputError("method simclr needs at least 2 images per micro-batch: raise training.batch")
    if batch < 64:
        log.warning("warning: batches of %d images are small for self-supervision: 64 or more learn better", batch)
    if options.method == "simclr" and options.training.accumulation > 1:
        log.warning(
            "warning: simclr compares only the %d images of a micro-batch, not the whole batch of %d",
            batch // options.training.accumulation,
            batch,
        )


def _make_accelerator(options: PretrainOptions) -> Accelerator:
    device = PartialState().device
    accelerator = Accelerator(mixed_precision=mixed_precision(options.training.precision, device))
    ranks = accelerator.num_processes
    if options.training.batch % (ranks * options.training.accumulation):
        raise InputError(
            f"training.batch {options.training.batch} is not for {ranks} ranks x {options.training.accumulation} "
            f"accumulation steps: use a multiple of {ranks * options.training.accumulation}"
        )
    return accelerator


def _make_method(options: PretrainOptions, accelerator: Accelerator) -> Any:
    torch.manual_seed(options.training.seed)
    size = options.views.global_size

    def build(drop_path: float) -> nn.Module:
        return backbone.build(options.model.backbone, size, drop_path)

    drop_path = float(options.model.drop_path)
    method = build_method(options.method, build, drop_path, options.dino, options.simclr)
    sizes = {size} | ({options.views.local_size} if options.views.local_count else set())
    backbone.check_sizes(_trained_backbone(method), sorted(sizes))
    if options.model.init:
        load_initial(method, options.model.init, options.model.backbone)
    if options.model.gradient_checkpointing:
        _trained_backbone(method).set_grad_checkpointing(True)  # type: ignore[operator]
    has_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in method.modules())
    if accelerator.num_processes > 1 and has_norm and options.training.sync_batch_norm:
        if accelerator.device.type == "cuda":
            method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
        elif accelerator.is_main_process:
            log.warning("warning: PyTorch has no SyncBatchNorm for CPU ranks: batch statistics are local to each rank")
    return method.to(memory_format=torch.channels_last)


def _trained_backbone(method: Any) -> nn.Module:
    return method.student if hasattr(method, "student") else method.backbone


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
    states.restore(run.method, run.optimizer, weights, moments)
    run.step, run.best, run.seconds = record["step"], record["best"], record["seconds"]
    run.health.restore(record["health"])


def _listen_for_preemption() -> list[int]:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    return received


def train(run: Run, preempted: list[int]) -> None:
    """From ``run.step`` to the end, with states, curves and evaluations on the way."""
    options, per_epoch = run.options, run.sampler.steps_per_epoch
    tracker = Tracker(run.folder, run.step) if run.main else None
    _announce(run)
    state_steps = max(1, round(options.training.state_every_epochs * per_epoch))
    online_steps = options.online.every_epochs * per_epoch
    if run.step == 0:
        _evaluate(run, tracker)
    batches = Waiting(_loader(run))
    micro_batches = iter(batches)
    started = time.perf_counter()
    with progress(run.step, run.steps, run.main) as bar:
        while run.step < run.steps:
            first = tracker is not None and run.step == 0
            values = _one_step(run, micro_batches, tracker if first else None)
            run.step += 1
            run.seconds += time.perf_counter() - started
            started = time.perf_counter()
            if run.step % options.training.log_every == 0 or run.step == run.steps:
                _log(run, tracker, batches, values, bar)
            bar.update()
            if run.step % online_steps == 0 or run.step == run.steps:
                _evaluate(run, tracker)
            if run.step % state_steps == 0 or run.step == run.steps:
                _save(run)
            if _asked_to_leave(run, preempted):
                raise Preempted(f"pre-empted at step {run.step} of {run.steps}: the same command goes on from there")
    if tracker is not None:
        tracker.close()
        _finish(run)


def _announce(run: Run) -> None:
    if not run.main:
        return
    accelerator, options = run.accelerator, run.options
    log.info(
        "%s %s on %s images of %s: %d epochs x %d steps of %d images, %d rank(s) on %s, %s%s",
        options.method,
        options.model.backbone,
        f"{run.sampler.total:,}",
        " + ".join(dataset.name for dataset in run.data.datasets),
        options.training.epochs,
        run.sampler.steps_per_epoch,
        options.training.batch,
        accelerator.num_processes,
        accelerator.device,
        {"bf16": "bf16", "no": "fp32"}[str(accelerator.mixed_precision)],
        f", from step {run.step}" if run.step else "",
    )
    for dataset, quota in zip(run.data.datasets, run.sampler.quotas, strict=True):
        log.info("  %s gives %d of %d images per epoch", dataset.name, quota, run.sampler.total)
        small = run.options.views.global_size * 1.5
        if dataset.info["short_side"] < small:
            log.warning(
                "warning: %s is stored at %d px, under 1.5 x the global crop: better `dermssl prepare --short-side %d`",
                dataset.name,
                dataset.info["short_side"],
                math.ceil(small),
            )
    if options.data.splits == "all":
        log.warning("warning: data.splits is all: test rows are trained on, and every later report will state it")
    write_status(run.folder, "running", run.step, run.steps)


def _loader(run: Run):
    accelerator, training = run.accelerator, run.options.training
    ranks = accelerator.num_processes
    batches = RankBatches(
        run.sampler, run.step, run.steps, accelerator.process_index, ranks, accumulation=training.accumulation
    )
    workers = run.options.data.workers
    workers = default_workers(ranks) if workers < 0 else workers
    dataset = ViewDataset(run.data.pool(), run.options.views, training.seed)
    return make_loader(dataset, batches, workers, pin=accelerator.device.type == "cuda")


def _one_step(run: Run, micro_batches, picture_to: Tracker | None) -> dict[str, float]:
    """One optimizer step. Returns its loss, statistics and gradient norm, averaged over micro-steps and ranks."""
    accelerator, optim = run.accelerator, run.options.optim
    at = {name: float(values[run.step]) for name, values in run.values.items()}
    set_values(run.optimizer, at["lr"], at["weight_decay"], optim.backbone_lr, bool(at["backbone_frozen"]))
    run.optimizer.zero_grad()
    totals: dict[str, Tensor] = {}
    accumulation = run.options.training.accumulation
    for micro in range(accumulation):
        views = to_views(next(micro_batches), accelerator.device, backbone.MEAN, backbone.STD)
        if picture_to is not None and micro == 0:
            _draw_views(run, views, picture_to)
        torch.manual_seed(_drop_path_seed(run.options.training.seed, run.step, micro, accelerator.process_index))
        last = micro == accumulation - 1
        with accelerator.no_sync(run.model) if not last else accelerator.autocast():
            loss, stats = run.model(views, at)
            accelerator.backward(loss / accumulation)
        for name, value in {"loss": loss.detach(), **stats}.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value / accumulation
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    totals["gradient_norm"] = clip_each(parameters, optim.clip)
    values = _mean_over_ranks(run, totals)
    if run.health.step_is_finite(values["loss"], values["gradient_norm"], run.step):
        run.method.before_update(at)
        run.optimizer.step()
        run.method.after_update(at)
    return values | at


def _drop_path_seed(seed: int, step: int, micro: int, rank: int) -> int:
    return int(np.random.SeedSequence([DROP_PATH_STREAM, seed, step, micro, rank]).generate_state(1, np.uint64)[0] >> 1)


def _mean_over_ranks(run: Run, totals: dict[str, Tensor]) -> dict[str, float]:
    stacked = torch.stack([value.float() for value in totals.values()])
    if run.accelerator.num_processes > 1:
        stacked = run.accelerator.reduce(stacked, reduction="mean")
    return dict(zip(totals, stacked.tolist(), strict=True))


def _draw_views(run: Run, views: list[Tensor], tracker: Tracker) -> None:
    shape = (1, 1, 3, 1, 1)
    mean, std = (torch.tensor(values, device=views[0].device).view(shape) for values in (backbone.MEAN, backbone.STD))
    picture = view_grid([group * std + mean for group in views])
    tracker.image("views", picture, 0)
    save_picture(run.folder / "views.png", picture)


def _log(run: Run, tracker: Tracker | None, batches: Waiting, values: dict[str, float], bar) -> None:
    run.health.observe(run.step, values)
    if tracker is None:
        return
    seconds, waiting = batches.read()
    steps = run.step % run.options.training.log_every or run.options.training.log_every
    speed = steps * run.options.training.batch / seconds
    tracker.log(run.step, values | {"images_per_second": speed, "data_wait_share": waiting})
    bar.set_postfix_str(f"loss {values['loss']:.3f}, {speed:.0f} images/s, waiting {waiting:.0%}")


def _evaluate(run: Run, tracker: Tracker | None) -> None:
    """Online scores on rank 0; the encoder of the best ones is kept in ``best/``."""
    if tracker is not None:
        size, device = run.options.views.global_size, run.accelerator.device
        encoder = run.method.encoder()
        if run.data.online is not None:
            scores = evaluate(encoder, run.data.online, size, run.options.online, device)
            rank_by = "online_knn_balanced_accuracy"
        else:
            rows = run.data.rows[0][: run.options.online.max_images]
            scores = {"online_rankme": rankme(embed(encoder, run.data.datasets[0], rows, size, device))}
            rank_by = "online_rankme"
        tracker.log(run.step, scores)
        log.info("step %d: %s", run.step, ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        if run.best is None or scores[rank_by] > run.best[rank_by]:
            run.best = {"step": run.step} | scores
            if run.step:
                _export(run, run.folder / "best")
    run.accelerator.wait_for_everyone()


def _export(run: Run, folder: Path) -> None:
    options = run.options
    tag = f"dermssl_{options.method}_step{run.step}"
    encoder = run.method.encoder()
    backbone.export(encoder, folder, options.model.backbone, options.views.global_size, run.notices, tag)


def _save(run: Run) -> None:
    if run.main:
        record = {
            "step": run.step,
            "best": run.best,
            "health": run.health.state(),
            "seconds": run.seconds,
            "data": {dataset.name: dataset.fingerprint for dataset in run.data.datasets},
            "ranks": run.accelerator.num_processes,
            "device": str(run.accelerator.device),
            "precision": str(run.accelerator.mixed_precision),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        states.save_state(run.folder / "state", run.method, run.optimizer, record, run.options.training.keep_states)
        write_status(run.folder, "running", run.step, run.steps)
    run.accelerator.wait_for_everyone()


def _asked_to_leave(run: Run, preempted: list[int]) -> bool:
    if run.accelerator.num_processes == 1:
        return bool(preempted)
    if run.step % POLL_STEPS:
        return False
    flag = torch.tensor(float(bool(preempted)), device=run.accelerator.device)
    return bool(run.accelerator.reduce(flag, reduction="sum").item())


def _finish(run: Run) -> None:
    """Encoder, ledger, model card, status."""
    from dermssl.files import write_parquet

    _export(run, run.folder / "encoder")
    write_parquet(run.folder / "ledger.parquet", run.data.ledger(run.sampler.times_seen(run.steps)))
    write_card(run.folder, run.options, run.data, run.notices, _facts(run))
    write_status(run.folder, "done", run.step, run.steps)


def _facts(run: Run) -> dict[str, Any]:
    return {
        "steps": run.steps,
        "images": run.sampler.total,
        "seconds": round(run.seconds, 1),
        "ranks": run.accelerator.num_processes,
        "device": str(run.accelerator.device),
        "precision": {"bf16": "bf16", "no": "fp32"}[str(run.accelerator.mixed_precision)],
        "best": run.best,
        "skipped_steps": run.health.skipped,
    }


def _note(run: Run, status: str, message: str) -> None:
    if run.main:
        write_status(run.folder, status, run.step, run.steps, message)


def _report(run: Run, word: str) -> Report:
    facts = _facts(run)
    text = [
        f"{word}: {run.folder}: {facts['steps']} steps in {facts['seconds'] / 60:.1f} min "
        f"on {facts['ranks']} rank(s), {facts['device']}, {facts['precision']}",
        f"  encoder: {run.folder / 'encoder'}",
    ]
    if run.best:
        text.append("  best: " + ", ".join(f"{name} {value:.4g}" for name, value in run.best.items()))
    return Report("\n".join(text + ["  " + line for line in licences.lines(run.notices)]), facts)
