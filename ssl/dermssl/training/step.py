"""One optimizer step: micro-batches, gradients over all ranks, clipping, update."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from dermssl.training.optimizer import clip_each, set_values
from dermssl.training.run import Run

DROP_PATH_STREAM = 7


def one_step(
    run: Run, micro_batches: Iterator[list[Tensor]], look: Callable[[list[Tensor]], None] | None = None
) -> dict[str, float]:
    """One optimizer step. Returns its loss, statistics and gradient norm, averaged over micro-steps and ranks.

    ``micro_batches`` gives views, as many times as there are accumulation steps; ``look`` is shown the first. A step
    that is not finite leaves the weights as they were. ``preempted`` among what is returned is the share of ranks that
    were told to leave: ranks hear of each other here, where they exchange numbers anyway.
    """
    accelerator, optim = run.accelerator, run.options.optim
    at = {name: float(values[run.step]) for name, values in run.values.items()}
    set_values(run.optimizer, at["lr"], at["weight_decay"], optim.backbone_lr, bool(at["backbone_frozen"]))
    run.optimizer.zero_grad()
    run.buffers.keep()
    totals: dict[str, Tensor] = {}
    accumulation = run.options.training.accumulation
    for micro in range(accumulation):
        views = next(micro_batches)
        if look is not None and micro == 0:
            look(views)
        torch.manual_seed(_drop_path_seed(run.options.training.seed, run.step, micro, accelerator.process_index))
        last = micro == accumulation - 1
        with nullcontext() if last else accelerator.no_sync(run.model):
            loss, stats = run.model(views, at)
            if run.recomputed:
                run.recomputed.keep()
            accelerator.backward(loss / accumulation)
            if run.recomputed:
                run.recomputed.put_back()
        for name, value in {"loss": loss.detach(), **stats}.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value / accumulation
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    totals["gradient_norm"] = clip_each(parameters, optim.clip)
    totals["preempted"] = torch.tensor(float(bool(run.signals)), device=accelerator.device)
    values = _mean_over_ranks(run, totals)
    if run.health.step_is_finite(values["loss"], values["gradient_norm"], run.step):
        run.method.before_update(at)
        run.optimizer.step()
        run.method.after_update(at)
    else:
        run.buffers.put_back()
        run.method.skip_update()
    return values | at


def _drop_path_seed(seed: int, step: int, micro: int, rank: int) -> int:
    return int(np.random.SeedSequence([DROP_PATH_STREAM, seed, step, micro, rank]).generate_state(1, np.uint64)[0] >> 1)


def _mean_over_ranks(run: Run, totals: dict[str, Tensor]) -> dict[str, float]:
    stacked = torch.stack([value.float() for value in totals.values()])
    if run.accelerator.num_processes > 1:
        stacked = run.accelerator.reduce(stacked, reduction="mean")
    return dict(zip(totals, stacked.tolist(), strict=True))
