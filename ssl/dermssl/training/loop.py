"""``dermssl pretrain``: one plain loop, from dataset folders to a run folder with an encoder.

dermssl pretrain --config configs/dino_vits16.yaml --data data/passion --out checkpoints/run1
accelerate launch -m dermssl pretrain ...                                        many GPUs, many machines
ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m dermssl pretrain ...      two CPU ranks
"""

import logging
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dermssl import backbone, licences
from dermssl.commandline import Report
from dermssl.errors import HealthStop, Preempted
from dermssl.files import write_parquet
from dermssl.training import states
from dermssl.training.card import write_card
from dermssl.training.online import embed, evaluate, rankme
from dermssl.training.options import PretrainOptions
from dermssl.training.run import Run, set_up
from dermssl.training.run_folder import read_status, write_status
from dermssl.training.step import one_step
from dermssl.training.tracking import Tracker, Waiting, progress, save_picture, view_grid
from dermssl.views.loader import ViewDataset, default_workers, make_loader
from dermssl.views.sampler import RankBatches

log = logging.getLogger("dermssl")

POLL_STEPS = 10
"""Several ranks agree on a pre-emption every so many steps, since asking costs a synchronisation."""


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


def _listen_for_preemption() -> list[int]:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    return received


def train(run: Run, preempted: list[int]) -> None:
    """From ``run.step`` to the end, with states, curves and evaluations on the way."""
    options, per_epoch = run.options, run.sampler.steps_per_epoch
    tracker = Tracker(run.folder, run.step if run.resumed else -1) if run.main else None
    _announce(run)
    state_steps = max(1, round(options.training.state_every_epochs * per_epoch))
    online_steps = options.online.every_epochs * per_epoch
    if not run.resumed:
        _evaluate(run, tracker)
    batches = Waiting(_loader(run))
    micro_batches = iter(batches)
    started = time.perf_counter()
    with progress(run.step, run.steps, run.main) as bar:
        while run.step < run.steps:
            values = one_step(run, micro_batches, _draw_views(run, tracker) if tracker and run.step == 0 else None)
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


def _loader(run: Run) -> DataLoader:
    accelerator, training = run.accelerator, run.options.training
    ranks = accelerator.num_processes
    batches = RankBatches(
        run.sampler, run.step, run.steps, accelerator.process_index, ranks, accumulation=training.accumulation
    )
    workers = run.options.data.workers
    workers = default_workers(ranks) if workers < 0 else workers
    dataset = ViewDataset(run.data.pool(), run.options.views, training.seed)
    return make_loader(dataset, batches, workers, pin=accelerator.device.type == "cuda")


def _draw_views(run: Run, tracker: Tracker) -> Callable[[list[Tensor]], None]:
    def draw(views: list[Tensor]) -> None:
        shape, device = (1, 1, 3, 1, 1), views[0].device
        mean, std = (torch.tensor(values, device=device).view(shape) for values in (backbone.MEAN, backbone.STD))
        picture = view_grid([group * std + mean for group in views])
        tracker.image("views", picture, 0)
        save_picture(run.folder / "views.png", picture)

    return draw


def _log(run: Run, tracker: Tracker | None, batches: Waiting, values: dict[str, float], bar: tqdm) -> None:
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
            _export(run, run.folder / "best")
    run.accelerator.wait_for_everyone()


def _export(run: Run, folder: Path) -> None:
    options = run.options
    tag = f"dermssl_{options.method}_step{run.step}"
    training = {
        "method": options.method,
        "step": run.step,
        "splits": options.data.splits,
        "data": {dataset.name: dataset.fingerprint for dataset in run.data.datasets},
    }
    size, name = options.views.global_size, options.model.backbone
    backbone.export(run.method.encoder(), folder, name, size, run.notices, tag, training)


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
