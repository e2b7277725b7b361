"""``dermeval knn``: the weighted vote of the nearest neighbours (Caron et al. 2021, section 4.1) and the majority's."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.probes import contamination
from dermeval.probes.folds import Fold, make_folds, missing_classes
from dermeval.probes.intervals import interval_json, show
from dermeval.probes.options import KnnOptions
from dermeval.probes.predictions import Predictions, collect
from dermeval.probes.recall import same_id_recall
from dermeval.probes.results import describe, page, score_levels, write_results
from dermeval.probes.shots import curve_text, few_shot_curve
from dermeval.probes.task import Task, open_task
from dermeval.statistics.bootstrap import cluster_codes
from dermeval.statistics.scorer import Scorer
from dermssl import neighbours
from dermssl.commandline import Report
from dermssl.files import require_new_folder

HEADLINE = 20
MAJORITY = math.inf
"""The temperature at which all neighbours weigh the same: the majority vote."""


def knn(options: KnnOptions) -> Report:
    """Judge features by their neighbours; see `KnnOptions`.

    Raises:
        InputError: unusable embeddings, target, split or output folder.
    """
    out = Path(options.out) if options.out else None
    if out:
        require_new_folder(out, options.overwrite, "result.json", options.embeddings, key="probe")
    task = open_task(options.embeddings, options.target)
    folds = make_folds(task, options.split, options.folds, options.seed)
    ks, headline, clipped = choose_ks(options.k, min(len(fold.train) for fold in folds))
    votes = predict_votes(task, folds, ks, (options.temperature, MAJORITY), options.seed)
    by_k, majority = (dict(zip(ks, found, strict=True)) for found in votes)
    levels, notes = score_levels(by_k[headline], task.positive, options.draws, options.seed)
    settings = {"k": headline, "temperature": options.temperature}
    result = describe("knn", task, folds, options.split, settings, options.seed)
    result |= {"levels": levels, "by_k": _by_k(by_k, majority, task)}
    result["notes"] = [*task.notes, *missing_classes(task, folds), *clipped, *notes]
    result["contamination"] = contamination.clean_and_contaminated(
        by_k[headline], task.pool.seen, options.draws, options.seed
    )
    result["recall_at_1"] = _recall(task, options) if options.recall else []
    curve = (
        few_shot_curve(task, folds, options, lambda drawn, _: _headline(task, drawn, options))
        if options.shots
        else None
    )
    if curve:
        result |= {"shots": curve.points, "notes": [*result["notes"], *curve.notes]}
    if out:
        write_results(out, result, by_k[headline], curve)
    seen = contamination.lines(result["contamination"], options.split)
    return Report(page(result, [*_extra(result), *seen]), result)


def choose_ks(asked: Sequence[int], train: int) -> tuple[list[int], int, list[str]]:
    """The ks to run (clipped to the ``train`` images, without repeats), the headline, and a note on clipping."""
    headline = min(HEADLINE if HEADLINE in asked else asked[0], train)
    ks = sorted({min(k, train) for k in asked})
    too_large = [str(k) for k in sorted(set(asked)) if k > train]
    notes = [f"k = {', '.join(too_large)} exceeds the {train} training images and is clipped"] if too_large else []
    return ks, headline, notes


def predict(task: Task, folds: Sequence[Fold], ks: Sequence[int], temperature: float, seed: int) -> list[Predictions]:
    """Out-of-sample predictions of every k."""
    return predict_votes(task, folds, ks, [temperature], seed)[0]


def predict_votes(
    task: Task, folds: Sequence[Fold], ks: Sequence[int], temperatures: Sequence[float], seed: int
) -> list[list[Predictions]]:
    """For each temperature the predictions of every k; the neighbours are searched once, for the largest."""
    found = [
        neighbours.knn_votes(
            task.features[fold.test],
            task.features[fold.train],
            task.labels[fold.train],
            len(task.classes),
            ks,
            temperatures,
        ).probabilities
        for fold in folds
    ]
    return [[collect(task, list(folds), [votes[k, t] for votes in found], seed) for k in ks] for t in temperatures]


def _headline(task: Task, folds: list[Fold], options: KnnOptions) -> Predictions:
    _, k, _ = choose_ks(options.k, min(len(fold.train) for fold in folds))
    return predict(task, folds, [k], options.temperature, options.seed)[0]


def _by_k(by_k: dict[int, Predictions], majority: dict[int, Predictions], task: Task) -> list[dict[str, Any]]:
    """Scores of the weighted vote for each k, and those of the majority vote under ``majority_`` names."""
    rows = []
    for k in by_k:
        row: dict[str, Any] = {"k": k}
        for prefix, predictions in (("", by_k[k]), ("majority_", majority[k])):
            clusters = cluster_codes(predictions.frame["group_id"])
            point = Scorer(predictions.truth, predictions.probabilities, clusters, task.positive).point()
            row |= {prefix + name: float(point[name]) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
        rows.append(row)
    return rows


def _recall(task: Task, options: KnnOptions) -> list[dict[str, Any]]:
    found = same_id_recall(task.pool, options.draws, options.seed)
    return [
        {"kind": recall.kind, "dataset": recall.dataset, "queries": recall.queries} | interval_json(recall.interval)
        for recall in found
    ]


def _extra(result: dict[str, Any]) -> list[str]:
    settings = result["settings"]
    table = pd.DataFrame(result["by_k"]).to_string(index=False, float_format=lambda value: f"{value:.3f}")
    text = [
        "",
        f"image level by k (all else is the weighted vote with k = {settings['k']}, T = {settings['temperature']:g})",
        table,
        "",
    ]
    for recall in result["recall_at_1"]:
        text.append(
            f"same-{recall['kind']} recall@1 of {recall['dataset']}: {show(recall)} over {recall['queries']} images"
        )
    return [*text, *curve_text(result)]
