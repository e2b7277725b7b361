"""What rank 0 shows of a run: what it trains on, curves, evaluations with their pictures, the projector at the end."""

import dataclasses
import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dermssl import licences
from dermssl.devices import on_first_rank
from dermssl.parser import flatten
from dermssl.training.progress import Progress, Scores
from dermssl.training.run_folder import write_status
from dermssl.training.setup import Run
from dermssl.training.watching import online
from dermssl.training.watching.pictures import component_grid, neighbour_grid, view_grid
from dermssl.training.watching.tracking import Tracker
from dermssl.views.sampler import Sampler

log = logging.getLogger("dermssl")

THUMBNAIL = 48
UNEVEN = 10
"""Ratio of set sizes from which a line says what pooling by size does."""
WASTED = 0.05
"""Share of an epoch's images that do not fill a batch, from which a line advises a smaller batch."""


def start_tracking(run: Run, progress: Progress) -> Tracker | None:
    """Where rank 0 sends curves and pictures; None on the other ranks."""

    def start() -> Tracker:
        write_status(run.folder, "running", progress.step, run.steps)
        config = flatten(dataclasses.asdict(run.options)) | {"data.sets": " ".join(run.fingerprints)}
        last_step = progress.step if progress.resumed else -1
        may_leave = not licences.restricted(run.notices)
        return Tracker(run.folder, last_step, run.options.tracking, config, may_leave)

    return on_first_rank(run.accelerator, start)


def announce(run: Run, progress: Progress) -> None:
    """Say what is trained on what, how the sets are mixed, and what is wrong with the data."""
    options, accelerator = run.options, run.accelerator
    log.info(
        f"{options.method} {options.model.backbone} on {run.sampler.total:,} images of {' + '.join(run.fingerprints)}: "
        f"{options.training.epochs} epochs x {run.sampler.steps_per_epoch} steps of {options.training.batch} images, "
        f"{accelerator.num_processes} rank(s) on {accelerator.device}, {run.precision}"
        + (f", from step {progress.step}" if progress.step else "")
    )
    for line in mixture(run.sampler, list(run.fingerprints), options.training.epochs):
        log.info("  %s", line)
    needed = math.ceil(1.5 * options.views.global_size)
    for dataset in run.data.datasets:
        if (side := dataset.info["short_side"]) < needed:
            log.warning(
                f"warning: {dataset.name} is stored at {side} px, under 1.5 x the global crop: better "
                f"`dermssl prepare --short-side {needed}`"
            )
    if options.data.splits == "all":
        log.warning("warning: data.splits is all: test rows are trained on, and every later report will state it")
    if not run.data.online:
        log.info("  no labels to score by: the best encoder is kept by RankMe, the effective rank of its features")


def mixture(sampler: Sampler, names: Sequence[str], epochs: int) -> list[str]:
    """Per data set, its share of an epoch and how often an image is drawn, by ``data.weights``.

    Further lines say how many images do not fill a batch, and, where sets of very different size are pooled by size,
    what ``equal`` would give.
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


def draw_views(run: Run, views: list[Tensor], tracker: Tracker) -> None:
    """Show the first views of a run, as the networks get them."""
    shape, device = (1, 1, 3, 1, 1), views[0].device
    mean, std = (torch.tensor(values, device=device).view(shape) for values in run.normalisation)
    tracker.image("views", view_grid([group * std + mean for group in views]), 0)


def log_evaluation(run: Run, progress: Progress, tracker: Tracker) -> Scores:
    """Score the encoder, log the scores and draw its neighbours; the first score decides which encoder is the best.

    Raises HealthStop: the features are not finite, or their rank has collapsed.
    """
    device = run.accelerator.device
    evaluation = online.score_encoder(run.method.encoder(), run.data, run.preprocessing, run.options.online, device)
    scores = evaluation.scores
    tracker.log(progress.step, scores)
    told = ", ".join(f"{name} {value:.3f}" for name, value in online.headline(scores).items())
    log.info(f"step {progress.step}: {told}")
    size, dataset = run.options.views.global_size, evaluation.dataset
    queries = online.pictures_of(dataset, evaluation.queries, size)
    if evaluation.nearest.size:
        nearest = [list(online.pictures_of(dataset, rows, size)) for rows in evaluation.nearest]
        tracker.image("neighbours", neighbour_grid(list(queries), nearest, evaluation.agree), progress.step)
    maps = online.patch_components(run.method.encoder(), queries[: online.SHOWN], run.preprocessing, device)
    if maps is not None:
        tracker.image("patch_components", component_grid(queries[: online.SHOWN], maps), progress.step)
    for line in below_start(scores, progress.baseline, evaluation.scored):
        log.warning("warning: step %d: %s", progress.step, line)
    progress.health.observe_rank(progress.step, scores["online_rankme"])
    return scores


def below_start(scores: Scores, first: Scores | None, images: int) -> list[str]:
    """One line for each score below that of step 0 by more than the standard error of a share of ``images``."""
    error = 0.5 / math.sqrt(max(images, 1))
    return [
        f"{name} {value:.3f} is below {first[name]:.3f} at the start, by more than its standard error on {images} "
        "images: lower optim.lr or, where the run starts from pretrained weights, raise keep.distillation"
        for name, value in scores.items()
        if first and value < first.get(name, -1.0) - error and name.startswith((online.KNN, online.RECALL))
    ]


def project(run: Run, tracker: Tracker) -> None:
    """Features of some evaluated images, with labels and thumbnails, for TensorBoard's embedding projector."""
    most, labelled = run.options.tracking.projector_images, next(iter(run.data.online), None)
    dataset = labelled.dataset if labelled else run.data.datasets[0]
    rows = np.concatenate([labelled.fit, labelled.score]) if labelled else run.data.rows[0]
    rows = np.sort(np.random.default_rng(run.options.training.seed).permutation(rows)[:most])
    if not len(rows):
        return
    features = online.online_features(run.method.encoder(), dataset, rows, run.preprocessing, run.accelerator.device)
    names = [str(name) for name in dataset.column("image_id")[rows]]
    header, labels = ["image"], [[name] for name in names]
    if labelled:
        header = [labelled.target, "image"]
        labels = [[labelled.classes[labelled.labels[row]], name] for row, name in zip(rows, names, strict=True)]
    tracker.projector(features, labels, header, online.pictures_of(dataset, rows, THUMBNAIL))
