"""``dermssl pretrain``: one plain loop, from dataset folders to a run folder with an encoder.

dermssl pretrain --config configs/dino_vits16.yaml --data data/passion --out checkpoints/run1
accelerate launch -m dermssl pretrain ...                                        many GPUs, many machines
ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m dermssl pretrain ...      two CPU ranks
"""

import dataclasses
import logging
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dermssl import licences
from dermssl.backbone.build import MEAN, STD
from dermssl.commandline import Report, flatten
from dermssl.devices import on_first_rank
from dermssl.errors import HealthStop, InputError, Preempted
from dermssl.training import states
from dermssl.training.finish import finish, keep_best, record, report
from dermssl.training.options import PretrainOptions
from dermssl.training.run import Run, set_up
from dermssl.training.run_folder import read_status, write_status
from dermssl.training.step import one_step
from dermssl.training.watch import announce, draw_views, look, project
from dermssl.training.watching.trackers import OtherTrackers
from dermssl.training.watching.tracking import Tracker, Waiting, progress
from dermssl.views.loader import Crops, ViewDataset, make_loader, to_views
from dermssl.views.sampler import RankBatches

log = logging.getLogger("dermssl")


def pretrain(options: PretrainOptions) -> Report | None:
    """Train, or go on with, the run in ``options.out``. Returns the closing report on rank 0.

    Raises:
        InputError: bad options or data, before anything is written.
        HealthStop: the run is not learning; the last healthy state is kept.
        Preempted: SIGTERM arrived; the state is saved and the same command goes on.
    """
    run = set_up(options)
    already = read_status(run.folder) == "done" and run.step == run.steps
    signals = run.signals  # the handler outlives the run, and must not keep it
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    tracker = None
    try:
        if not already:
            tracker = _start_tracking(run)
            train(run, tracker)
    except (HealthStop, Preempted) as stop:
        _note_stop(run, stop)
        _leave_group(run)
        raise
    except BaseException as error:
        _note_failure(run, error)
        raise
    finally:
        if tracker:
            tracker.close()  # once all is on record, as a service may let one wait
        if run.lock:
            run.lock.close()
    _leave_group(run)
    return report(run, "already done" if already else "done") if run.main else None


def _leave_group(run: Run) -> None:
    """Leave the process group, as all ranks do; the wrapper that averages gradients goes first.

    PyTorch frees that holding Python's lock; were it the last to know the group, it would wait for the group's threads
    while one of them may wait for the lock, and the rank would never end.
    """
    run.model = run.method
    run.accelerator.free_memory()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _start_tracking(run: Run) -> Tracker | None:
    """Where rank 0 sends curves and pictures; None on the others."""

    def start() -> Tracker:
        write_status(run.folder, "running", run.step, run.steps)
        return Tracker(run.folder, run.step if run.resumed else -1, _other_trackers(run))

    return on_first_rank(run.accelerator, start)


def train(run: Run, tracker: Tracker | None) -> None:
    """From ``run.step`` to the end, with states, curves and evaluations on the way; rank 0 has the tracker."""
    if tracker is None:
        return _steps(run, None)
    announce(run)
    _steps(run, tracker)
    project(run, tracker)
    tracker.board.flush()
    finish(run)


def _other_trackers(run: Run) -> OtherTrackers:
    tracking = run.options.tracking
    tree = dataclasses.asdict(run.options)
    config = flatten(tree) | {"data.sets": " ".join(dataset.name for dataset in run.data.datasets)}
    may_leave = not licences.restricted(run.notices)
    return OtherTrackers(tracking.trackers, run.folder, tracking.project, config, may_leave)


def _steps(run: Run, tracker: Tracker | None) -> None:
    options, per_epoch = run.options, run.sampler.steps_per_epoch
    state_steps = max(1, round(options.training.state_every_epochs * per_epoch))
    online_steps = options.online.every_epochs * per_epoch
    if not run.resumed:
        look(run, tracker)
    if run.main:
        keep_best(run)
    batches = Waiting(_loader(run))
    micro_batches = _views(run, batches)
    started = time.perf_counter()
    with logging_redirect_tqdm(), progress(run.step, run.steps, run.main) as bar:
        while run.step < run.steps:
            values = one_step(run, micro_batches, draw_views(run, tracker) if tracker and run.step == 0 else None)
            heard = values.pop("preempted") > 0
            run.step += 1
            run.seconds += time.perf_counter() - started
            started = time.perf_counter()
            if run.step % options.training.log_every == 0 or run.step == run.steps:
                _log(run, tracker, batches, values, bar)
            bar.update()
            evaluated = run.step % online_steps == 0 or run.step == run.steps
            with batches.paused():
                if evaluated:
                    look(run, tracker)
                preempted = _is_preempted(run, heard)
                if evaluated or preempted or run.step % state_steps == 0:
                    _save(run)
            if preempted:
                raise Preempted(f"pre-empted at step {run.step} of {run.steps}: the same command goes on from there")


def _is_preempted(run: Run, heard: bool) -> bool:
    """Whether a pre-emption ends the run here; several ranks know of it only what all of them heard in the step."""
    alone = run.accelerator.num_processes == 1
    return (heard or (alone and bool(run.signals))) and run.step < run.steps


def _loader(run: Run) -> DataLoader:
    accelerator, training = run.accelerator, run.options.training
    ranks = accelerator.num_processes
    batches = RankBatches(
        run.sampler, run.step, run.steps, accelerator.process_index, ranks, accumulation=training.accumulation
    )
    dataset = ViewDataset(run.data.pool(), run.options.views, training.seed)
    return make_loader(dataset, batches, run.workers, pin=accelerator.device.type == "cuda")


def _views(run: Run, batches: Iterable[Crops]) -> Iterator[list[Tensor]]:
    """Batches of crops as views on the device."""
    for crops in batches:
        yield to_views(crops, run.accelerator.device, MEAN, STD)


def _log(run: Run, tracker: Tracker | None, batches: Waiting, values: dict[str, float], bar: tqdm) -> None:
    run.health.observe(run.step, values)
    if tracker is None:
        return
    micro_batches, waiting = batches.read()
    speed = micro_batches * run.options.training.batch / run.options.training.accumulation
    run.energy.observe(run.seconds)
    tracker.log(run.step, values | {"images_per_second": speed, "data_wait_share": waiting})
    bar.set_postfix_str(f"loss {values['loss']:.3f}, {speed:.0f} images/s, waiting {waiting:.0%}")


def _save(run: Run) -> None:
    if run.main:
        run.energy.observe(run.seconds)
        record = {
            "step": run.step,
            "best": run.best,
            "baseline": run.baseline,
            "last": run.last,
            "joules": run.energy.joules,
            "health": run.health.state(),
            "seconds": run.seconds,
            "data": {dataset.name: dataset.fingerprint for dataset in run.data.datasets},
            "ranks": run.accelerator.num_processes,
            **run.bits,
        }
        states.save_state(run.folder / "state", run.method, run.optimizer, record, run.options.training.keep_states)
        keep_best(run)
        if read_status(run.folder) == "running":  # and not another rank's "failed"
            write_status(run.folder, "running", run.step, run.steps)
    run.accelerator.wait_for_everyone()


def _note_stop(run: Run, stop: HealthStop | Preempted) -> None:
    """On record: what ended the run on all ranks alike."""
    if not run.main:
        return
    if isinstance(stop, HealthStop):
        record(run)
    status = "stopped" if isinstance(stop, HealthStop) else "preempted"
    write_status(run.folder, status, run.step, run.steps, str(stop))


def _note_failure(run: Run, error: BaseException) -> None:
    """On record: why a rank failed; of several the first that did, as the others then fail for want of it."""
    ranks, rank = run.accelerator.num_processes, run.accelerator.process_index
    where = f"rank {rank} of {ranks}: " if ranks > 1 else ""
    with suppress(OSError, InputError):  # nothing must hide the error itself
        if read_status(run.folder) != "failed":
            write_status(run.folder, "failed", run.step, run.steps, f"{where}{type(error).__name__}: {error}")
