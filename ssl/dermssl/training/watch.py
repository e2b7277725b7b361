"""What is seen of a run while it trains: what it is fed, evaluations with their pictures, the projector at the end."""

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dermssl.backbone.build import MEAN, STD
from dermssl.devices import on_first_rank
from dermssl.training.run import Run
from dermssl.training.watching.online import SHOWN, Evaluation, embed, evaluate, patch_components, pictures_of
from dermssl.training.watching.pictures import component_grid, neighbour_grid, view_grid
from dermssl.training.watching.tracking import Tracker
from dermssl.views.sampler import Sampler

log = logging.getLogger("dermssl")

THUMBNAIL = 48
UNEVEN = 10
"""Ratio of set sizes from which pooling by size is worth a word."""
WASTED = 0.05
"""Share of an epoch's images that do not fill a batch, from which the batch is worth a word."""


def announce(run: Run) -> None:
    """What is trained on what, how the sets are mixed, and warnings about the data. Rank 0."""
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
        run.precision,
        f", from step {run.step}" if run.step else "",
    )
    for line in mixture(run.sampler, [dataset.name for dataset in run.data.datasets], options.training.epochs):
        log.info("  %s", line)
    for dataset in run.data.datasets:
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
    if run.data.online is None:
        log.info("  no labels to score by: the best encoder is kept by RankMe, the effective rank of its features")


def mixture(sampler: Sampler, names: Sequence[str], epochs: int) -> list[str]:
    """Per data set, what ``data.weights`` makes of it: its part of an epoch and how often an image comes.

    Further lines tell what does not fill a batch, and, where sets of very different size are pooled by size, what
    ``equal`` would make of them.
    """
    total, lines = sampler.steps_per_epoch * sampler.batch, []
    for name, size, quota in zip(names, sampler.sizes, sampler.quotas, strict=True):
        part = quota * total / sampler.total
        often = f"{part / size:.2g}"
        each = "each image once" if often == "1" else f"each of its {size:,} images {often} times"
        lines.append(
            f"{name} gives {part:,.0f} of {total:,} images per epoch ({part / total:.0%}): {each}, "
            f"{part / size * epochs:.3g} times in the whole run"
        )
    rest = sampler.total - total
    if rest:
        lines.append(
            f"{rest:,} of {sampler.total:,} images ({rest / sampler.total:.0%}) do not fill a batch and are left out, "
            "others every epoch" + ("; a smaller training.batch leaves out fewer" if rest > WASTED * total else "")
        )
    if sampler.shares is None and max(sampler.sizes) >= UNEVEN * min(sampler.sizes):
        even = total / len(names)
        times = ", ".join(f"{name} {even / size:.2g}" for name, size in zip(names, sampler.sizes, strict=True))
        lines.append(
            f"the largest set outweighs the smallest {max(sampler.sizes) / min(sampler.sizes):.0f} to 1; with "
            f"data.weights equal each gives {even:,.0f} images per epoch, an image so many times: {times}"
        )
    return lines


def draw_views(run: Run, tracker: Tracker) -> Callable[[list[Tensor]], None]:
    """What `one_step` shows its first views to."""

    def draw(views: list[Tensor]) -> None:
        shape, device = (1, 1, 3, 1, 1), views[0].device
        mean, std = (torch.tensor(values, device=device).view(shape) for values in (MEAN, STD))
        tracker.image("views", view_grid([group * std + mean for group in views]), 0)

    return draw


def look(run: Run, tracker: Tracker | None) -> None:
    """Online scores and pictures on rank 0; ``run.best`` holds the best scores.

    Raises:
        HealthStop: on all ranks: the features are not finite, or their rank has collapsed.
    """
    on_first_rank(run.accelerator, lambda: _evaluate(run, tracker) if tracker else None)


def _evaluate(run: Run, tracker: Tracker) -> None:
    size, device = run.options.views.global_size, run.accelerator.device
    evaluation = evaluate(run.method.encoder(), run.data, size, run.options.online, device)
    scores = evaluation.scores
    tracker.log(run.step, scores)
    log.info("step %d: %s", run.step, ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    _draw(run, tracker, evaluation)
    run.last = {"step": run.step} | scores
    if run.step == 0:
        run.baseline = scores
    run.health.observe_rank(run.step, scores["online_rankme"])
    rank_by = next(iter(scores))
    # An untrained network's RankMe says nothing: only where there are labels can it be the best.
    untrained = run.best is not None and run.best["step"] == 0 and run.data.online is None
    if run.best is None or untrained or scores[rank_by] > run.best[rank_by]:
        run.best = {"step": run.step} | scores


def _draw(run: Run, tracker: Tracker, evaluation: Evaluation) -> None:
    size, dataset = run.options.views.global_size, evaluation.dataset
    queries = pictures_of(dataset, evaluation.queries, size)
    if evaluation.nearest.size:
        nearest = [list(pictures_of(dataset, rows, size)) for rows in evaluation.nearest]
        tracker.image("neighbours", neighbour_grid(list(queries), nearest, evaluation.agree), run.step)
    maps = patch_components(run.method.encoder(), queries[:SHOWN], run.accelerator.device)
    if maps is not None:
        tracker.image("patch_components", component_grid(queries[:SHOWN], maps), run.step)


def project(run: Run, tracker: Tracker) -> None:
    """Features of some evaluated images, with labels and thumbnails, for TensorBoard's embedding projector."""
    most, online = run.options.tracking.projector_images, run.data.online
    dataset = online.dataset if online else run.data.datasets[0]
    rows = np.concatenate([online.fit, online.score]) if online else run.data.rows[0]
    rows = np.sort(np.random.default_rng(run.options.training.seed).permutation(rows)[:most])
    if not len(rows):
        return
    features = embed(run.method.encoder(), dataset, rows, run.options.views.global_size, run.accelerator.device)
    names = [str(name) for name in dataset.column("image_id")[rows]]
    header, labels = ["image"], [[name] for name in names]
    if online:
        header = [online.target, "image"]
        labels = [[online.classes[online.labels[row]], name] for row, name in zip(rows, names, strict=True)]
    tracker.projector(features, labels, header, pictures_of(dataset, rows, THUMBNAIL))
