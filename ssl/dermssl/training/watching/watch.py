"""What rank 0 shows of a run: its data, curves, evaluations with their pictures, and the projector at the end."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dermssl import licences, log
from dermssl.backbone.pretrained import LEDGER
from dermssl.devices import on_first_rank
from dermssl.errors import counted
from dermssl.files import write_yaml
from dermssl.parser import flatten
from dermssl.training.progress import Scores
from dermssl.training.run_folder import CARD, CONFIG, write_status
from dermssl.training.setup import Run
from dermssl.training.watching import online
from dermssl.training.watching.pictures import component_grid, neighbour_grid, view_grid
from dermssl.training.watching.tracking import Tracker
from dermssl.views.sampler import Sampler

THUMBNAIL = 48
UNEVEN = 10
"""Ratio of set sizes from which a line explains the effect of pooling by size."""
WASTED = 0.05
"""Share of images that do not fill a batch, from which a line advises a smaller batch."""


def start_tracking(run: Run) -> Tracker | None:
    """The tracker of curves and pictures on rank 0; None on other ranks."""

    def start() -> Tracker:
        write_status(run.folder, "running", run.progress.step, run.steps)
        config = flatten(dataclasses.asdict(run.options)) | {"data.sets": " ".join(run.fingerprints)}
        last_step = run.progress.step if run.progress.baseline else -1
        may_leave = not licences.restricted(run.notices)
        tracker = Tracker(run.folder, last_step, run.options.tracking, config, may_leave)
        # The data sets may lie elsewhere than at the first start; without a state there may be others.
        write_yaml(run.folder / CONFIG, dataclasses.asdict(run.options))
        for file in (LEDGER, CARD):  # a stopped run that goes on trains on further images
            (run.folder / file).unlink(missing_ok=True)
        return tracker

    return on_first_rank(run.accelerator, start)


def announce(run: Run) -> None:
    """Log method, data and hardware, the mixture of data sets, and warnings about the data."""
    options, accelerator = run.options, run.accelerator
    log.info(
        f"{options.method} {options.model.backbone} on {run.sampler.total:,} images of {' + '.join(run.fingerprints)}: "
        f"{counted(options.training.epochs, 'epoch')} x {counted(run.sampler.steps_per_epoch, 'step')} of "
        f"{options.training.batch} images, "
        f"{counted(accelerator.num_processes, 'rank')} on {accelerator.device}, {run.precision}"
        + (f", from step {run.progress.step}" if run.progress.step else "")
    )
    for line in mixture(run.sampler, list(run.fingerprints), options.training.epochs):
        log.info("  %s", line)
    needed = math.ceil(1.5 * options.views.global_size)
    for dataset in run.data.datasets:
        if (side := dataset.info["short_side"]) < needed:
            small = f"{dataset.name} is stored at {side} px, less than 1.5 times the global crop"
            log.warning("warning: %s: prepare it again with --short-side %d", small, needed)
    if run.splits == "all":
        who = "this run trains" if options.data.splits == "all" else "the run that this one starts from was trained"
        log.warning("warning: %s on test rows (data.splits all): every later report states this", who)
    if not run.data.online:
        log.info("  no labelled images to score: RankMe, the effective rank of features, decides which encoder is best")


def mixture(sampler: Sampler, names: Sequence[str], epochs: int) -> list[str]:
    """A line per data set: its share of an epoch, and how often an image is drawn.

    Further lines say how many images do not fill a batch, and what ``data.weights equal`` would give if the sets are
    pooled by size and their sizes differ much.
    """
    total, lines = sampler.steps_per_epoch * sampler.batch, []
    for name, size, quota in zip(names, sampler.sizes, sampler.quotas, strict=True):
        part = quota * total / sampler.total
        often = f"{part / size:.2g}"
        each = "each image once" if often == "1" else f"each of its {size:,} images {often} times"
        share = f"{name} gives {part:,.0f} of {total:,} images per epoch ({part / total:.0%})"
        lines.append(f"{share}: {each}, {part / size * epochs:.3g} times in the whole run")
    rest = sampler.total - total
    if rest:
        lines.append(
            f"{rest:,} of {sampler.total:,} images ({rest / sampler.total:.0%}) do not fill a batch and are left out, "
            "others every epoch" + ("; a smaller training.batch leaves out fewer" if rest > WASTED * total else "")
        )
    if sampler.shares is None and max(sampler.sizes) >= UNEVEN * min(sampler.sizes):
        even, ratio = total / len(names), max(sampler.sizes) / min(sampler.sizes)
        times = ", ".join(f"{name} {even / size:.2g}" for name, size in zip(names, sampler.sizes, strict=True))
        lines.append(
            f"the largest set has {ratio:.0f} times the images of the smallest; with data.weights equal each set gives "
            f"{even:,.0f} images per epoch, so an image comes so many times per epoch: {times}"
        )
    return lines


def draw_views(run: Run, views: list[Tensor], tracker: Tracker) -> None:
    """Show the first ``views`` of a run."""
    shape, device = (1, 1, 3, 1, 1), views[0].device
    mean, std = (torch.tensor(values, device=device).view(shape) for values in run.normalisation)
    tracker.image("views", view_grid([group * std + mean for group in views]), 0)


def log_evaluation(run: Run, tracker: Tracker) -> Scores:
    """Score the encoder, and log scores and pictures. HealthStop: features are not finite, or their rank collapsed."""
    evaluation = online.score_encoder(run.features, run.data, run.options.online)
    scores, step = evaluation.scores, run.progress.step
    tracker.log(step, scores)
    told = ", ".join(f"{name} {value:.3f}" for name, value in online.headline(scores).items())
    log.info(f"step {step}: {told}")
    size, dataset = run.options.views.global_size, evaluation.dataset
    queries = online.pictures_of(dataset, evaluation.queries, size)
    if evaluation.nearest.size:
        nearest = [list(online.pictures_of(dataset, rows, size)) for rows in evaluation.nearest]
        tracker.image("neighbours", neighbour_grid(list(queries), nearest, evaluation.agree), step)
    maps = online.patch_components(run.method.encoder(), queries, run.preprocessing, run.accelerator.device)
    if maps is not None:
        tracker.image("patch_components", component_grid(queries, maps), step)
    for line in below_start(scores, run.progress.baseline, evaluation.scored):
        log.warning("warning: step %d: %s", step, line)
    run.progress.health.observe_rank(step, scores["online_rankme"])
    return scores


def below_start(scores: Scores, first: Scores | None, images: int) -> list[str]:
    """A line for each score that is below the first one by more than the standard error of a share of ``images``.

    This is at most 0.5 / sqrt(images), which is taken. That of balanced accuracy is larger where classes differ in
    size: twice as large with the classes of HAM10000.
    """
    error = 0.5 / math.sqrt(max(images, 1))
    return [
        f"{name} {value:.3f} is below {first[name]:.3f} at the start, by more than the standard error of a share of "
        f"{images} images: lower optim.lr, or raise keep.distillation if the run starts from pretrained weights"
        for name, value in scores.items()
        if first and value < first.get(name, -1.0) - error and name.startswith((online.KNN, online.RECALL))
    ]


def project(run: Run, tracker: Tracker) -> None:
    """Write features, labels and thumbnails of some evaluated images for TensorBoard's embedding projector."""
    most, labelled = run.options.tracking.projector_images, next(iter(run.data.online), None)
    dataset = labelled.dataset if labelled else run.data.datasets[0]
    rows = np.concatenate([labelled.fit, labelled.score]) if labelled else run.data.rows[0]
    rows = np.sort(np.random.default_rng(run.options.training.seed).permutation(rows)[:most])
    if not len(rows):
        return
    names = [str(name) for name in dataset.column("image_id")[rows]]
    header, labels = ["image"], [[name] for name in names]
    if labelled:
        header = [labelled.target, "image"]
        labels = [[labelled.classes[labelled.labels[row]], name] for row, name in zip(rows, names, strict=True)]
    tracker.projector(run.features(dataset, rows), labels, header, online.pictures_of(dataset, rows, THUMBNAIL))
