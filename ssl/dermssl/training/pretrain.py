"""``dermssl pretrain``: one plain loop, from dataset folders to a run folder with an encoder.

dermssl pretrain --config configs/dino_vits16.yaml --data data/passion --out checkpoints/run1
accelerate launch -m dermssl pretrain ...                                        several GPUs or machines
ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m dermssl pretrain ...      two CPU ranks
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dermssl.commandline import Report
from dermssl.data_workers import read_batches
from dermssl.devices import on_first_rank
from dermssl.errors import HealthStop, Interrupted, Preempted, WorkerDied
from dermssl.parallel import signal_handlers
from dermssl.training.continued import Distilled
from dermssl.training.finish import finish_run, keep_best, leave_group, note_end, report, save
from dermssl.training.optimizer import clip_each, set_values
from dermssl.training.options import PretrainOptions
from dermssl.training.run_folder import read_status
from dermssl.training.setup import Run, set_up
from dermssl.training.watching.tracking import Tracker, Waiting
from dermssl.training.watching.watch import announce, draw_views, log_evaluation, project, start_tracking
from dermssl.views.loader import ViewDataset, make_loader, to_views
from dermssl.views.sampler import RankBatches

DROP_PATH_STREAM = 7
"""Separates the random numbers of stochastic depth from those of views and order."""


def pretrain(options: PretrainOptions) -> Report | None:
    """Train, or resume, the run in ``options.out``. Returns the closing report on rank 0.

    Raises:
        InputError: bad options or data, before anything is written.
        HealthStop: the run is not learning; the last healthy state is kept.
        Preempted: SIGTERM or Ctrl-C arrived; the state is saved, and the same command resumes the run.
        WorkerDied: a data worker was killed; with one rank the state is saved too.
    """
    run = set_up(options)
    already = read_status(run.folder) == "done" and run.progress.step == run.steps
    tracker = None
    with heard(run.signals):
        try:
            if not already:
                tracker = start_tracking(run)
                train(run, tracker)
                if tracker:
                    project(run, tracker)
                    finish_run(run)
        except BaseException as error:
            note_end(run, error)
            if isinstance(error, (HealthStop, Preempted)):
                leave_group(run, error)
            raise
        finally:
            if tracker:
                tracker.close()  # last, because it may wait for a service
            if run.lock:
                run.lock.close()
        leave_group(run)
        return report(run, "already done" if already else "done") if run.main else None


def train(run: Run, tracker: Tracker | None) -> None:
    """The loop, from the present step to the last one. Every rank runs it; rank 0 has the tracker."""
    options, progress, alone = run.options, run.progress, run.accelerator.num_processes == 1
    state_steps, online_steps = map(run.steps_of, (options.training.state_every_epochs, options.online.every_epochs))
    model: nn.Module = run.method
    if options.keep.distillation:
        model = Distilled(model, run.method.network("student"), options.keep.distillation)
    model = run.accelerator.prepare(model)
    if tracker:
        announce(run)
    if not progress.baseline:
        evaluate_online(run, tracker)
    keep_best(run)
    batches = _batches(run)
    views = _views(run, batches, tracker if progress.step == 0 else None)
    started = time.perf_counter()
    silent = None if run.main else True  # None: silent unless the output is a terminal
    bar = tqdm(initial=progress.step, total=run.steps, desc="pretrain", unit="step", disable=silent)
    with logging_redirect_tqdm(), bar:
        while progress.step < run.steps:
            try:
                values, asked = one_step(run, model, views)
            except (WorkerDied, Interrupted) as error:
                raise (leave_before_step(run, error) if alone else error) from None
            progress.step += 1
            progress.spend(time.perf_counter() - started, run.accelerator.device, run.accelerator.num_processes)
            started = time.perf_counter()
            last = progress.step == run.steps
            if last or progress.step % options.training.log_every == 0:
                if tracker:
                    bar.set_postfix_str(tracker.log_step(progress.step, values, batches, options.micro_batch))
                progress.health.observe(progress.step, values)
            bar.update()
            with batches.paused():
                evaluated = last or progress.step % online_steps == 0
                if evaluated:
                    evaluate_online(run, tracker)
                leaving = not last and (asked or (bool(run.signals) and alone))
                if evaluated or leaving or progress.step % state_steps == 0:
                    save(run)
                    keep_best(run)
            if leaving:
                raise _preempted(run)


def one_step(run: Run, model: nn.Module, views: Iterator[list[Tensor]]) -> tuple[dict[str, float], bool]:
    """Views -> loss -> backward -> clip -> update -> teacher. A step that is not finite changes no weight.

    ``model`` is the method as Accelerate wraps it. ``views`` yields the views of one micro-batch after the other.
    Returns loss, statistics and scheduled values, and whether any rank was asked to leave.
    """
    accelerator, method, optimizer, options = run.accelerator, run.method, run.optimizer, run.options
    step, accumulation = run.progress.step, options.training.accumulation
    at = run.at(step)
    set_values(optimizer, at, options.optim.backbone_lr)
    optimizer.zero_grad()
    run.buffers.keep()
    totals: dict[str, Tensor] = {}
    for micro in range(accumulation):
        crops = next(views)
        torch.manual_seed(drop_path_seed(options.training.seed, step, micro, accelerator.process_index))
        with nullcontext() if micro == accumulation - 1 else accelerator.no_sync(model):
            loss, stats = model(crops, at)
            run.recomputed.keep()
            (loss / accumulation).backward()  # Accelerate's backward would divide by its own settings too
            run.recomputed.put_back()
        for name, value in {"loss": loss.detach(), **stats}.items():
            totals[name] = totals.get(name, 0) + value / accumulation
    totals["gradient_norm"] = clip_each(optimizer, options.optim.clip)
    values, leaving = _over_ranks(accelerator, totals, bool(run.signals))
    if run.progress.health.step_is_finite(values["loss"], values["gradient_norm"], step):
        method.before_update(at)
        optimizer.step()
        method.after_update(at)
    else:
        run.buffers.put_back()
        method.skip_update()
    return values | at, leaving


def evaluate_online(run: Run, tracker: Tracker | None) -> None:
    """Score the encoder on rank 0 and record the scores. A collapse that rank 0 finds ends the run on all ranks."""
    scores = on_first_rank(run.accelerator, lambda: log_evaluation(run, tracker) if tracker else None)
    if scores:
        run.progress.note(scores, labelled=bool(run.data.online))


def leave_before_step(run: Run, error: WorkerDied | Interrupted) -> WorkerDied | Preempted:
    """Save the state from before the step whose views did not come. Returns the error that ends the run."""
    run.buffers.put_back()
    save(run)
    if isinstance(error, Interrupted):
        return _preempted(run)
    return WorkerDied(f"{error}; the state of step {run.progress.step} is saved: the same command resumes the run")


def _preempted(run: Run) -> Preempted:
    at = f"step {run.progress.step} of {run.steps}"
    return Preempted(f"interrupted at {at}; the state is saved: the same command resumes the run")


@contextmanager
def heard(signals: list[int]) -> Iterator[None]:
    """Inside the block, collect SIGTERM and Ctrl-C in ``signals`` instead of ending. A second Ctrl-C ends at once."""

    def hear(number: int, _: object) -> None:
        if number == signal.SIGINT and number in signals:
            raise KeyboardInterrupt
        signals.append(number)

    with signal_handlers({signal.SIGTERM: hear, signal.SIGINT: hear}):
        yield


def _batches(run: Run) -> Waiting:
    """The crops of this rank's micro-batches from the present step on."""
    accelerator, training = run.accelerator, run.options.training
    rank, ranks = accelerator.process_index, accelerator.num_processes
    batches = RankBatches(run.sampler, run.progress.step, run.steps, rank, ranks, training.accumulation)
    dataset = ViewDataset(run.pool, run.options.views, training.seed)
    loader = make_loader(dataset, batches, run.workers, pin=accelerator.device.type == "cuda")
    # Several ranks can agree to leave only at the end of a step.
    return Waiting(read_batches(loader, run.signals if ranks == 1 else None))


def _views(run: Run, batches: Waiting, tracker: Tracker | None) -> Iterator[list[Tensor]]:
    """Normalised views of each micro-batch. The tracker, if any, gets a picture of the first ones."""
    for crops in batches:
        views = to_views(crops, run.accelerator.device, *run.normalisation)
        if tracker:
            draw_views(run, views, tracker)
            tracker = None
        yield views


def drop_path_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """Seed of stochastic depth in one forward pass of one rank."""
    return int(np.random.SeedSequence([DROP_PATH_STREAM, seed, step, micro, rank]).generate_state(1, np.uint64)[0] >> 1)


def _over_ranks(accelerator: Accelerator, totals: dict[str, Tensor], leaving: bool) -> tuple[dict[str, float], bool]:
    """The mean of each total over the ranks, and whether any rank was asked to leave."""
    told = torch.tensor(float(leaving), device=accelerator.device)
    stacked = torch.stack([told, *(value.float() for value in totals.values())])
    if accelerator.num_processes > 1:
        stacked = accelerator.reduce(stacked, reduction="mean")
    share, *means = stacked.tolist()
    return dict(zip(totals, means, strict=True)), share > 0
