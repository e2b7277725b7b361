"""Several encoders in one table: probes, few labels, skin types and recall@1.

All encoders are scored on the same images under the same draws of patients, so that differences and ranks are paired.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dermeval.features.embeddings import how_made, open_embeddings, saw_test
from dermeval.features.pool import PooledEmbeddings, open_pool
from dermeval.pages.tables import ReportTable, show
from dermeval.probes import report
from dermeval.probes.contamination import cannot_tell
from dermeval.probes.evaluate_page import class_figures
from dermeval.probes.folds import Fold
from dermeval.probes.groups import attributes, values_of
from dermeval.probes.judge import Probe
from dermeval.probes.options import EvaluateOptions
from dermeval.probes.predictions import Predictions, paired_scores
from dermeval.probes.probe_report import recall_hits
from dermeval.probes.protocols import Experiment
from dermeval.probes.report import FeatureSource
from dermeval.probes.shots import draw_of_each_class, fewest_patients
from dermeval.probes.task import Task
from dermeval.statistics.bootstrap import DIGITS, MEAN, MIN_PATIENTS, Bootstrap, Interval, paired_means, percentiles
from dermssl.commandline import Report
from dermssl.errors import InputError, counted

SCORE, MEAN_RANK, RECALL = "balanced_accuracy", "mean rank", "recall@1"
KEYS = ("encoder", "column")
WRITTEN = ("encoders.json", "encoders.csv", "encoders.tex", "report.html")
log = logging.getLogger("dermssl")


def pools_by_encoder(folders: Sequence[str]) -> dict[str, PooledEmbeddings]:
    """By a short name of each encoder, its embeddings folders as one pool. All pools have the same images and order.

    InputError where the encoders were not run on the same images.
    """
    by_encoder: dict[str, list[str]] = {}
    for folder in folders:
        by_encoder.setdefault(str(how_made(open_embeddings(folder))), []).append(folder)
    pools = [open_pool(own) for own in by_encoder.values()]
    names = report.distinct_names(
        [Path(pool.encoder["path"]).name or pool.encoder["path"] for pool in pools],
        [Path(own[0]).name for own in by_encoder.values()],
        [own[0] for own in by_encoder.values()],
    )
    return {name: _in_order(pool, pools[0]) for name, pool in zip(names, pools, strict=True)}


def _in_order(pool: PooledEmbeddings, first: PooledEmbeddings) -> PooledEmbeddings:
    """``pool`` with its rows in the order of ``first``."""
    ids, wanted = pd.Index(pool.frame["image_id"]), first.frame["image_id"]
    if len(ids) != len(wanted) or not wanted.isin(ids).all():
        raise InputError(
            f"{pool.folder} and {first.folder} come from different encoders and hold {len(ids)} and {len(wanted)} "
            f"images, of which {int(wanted.isin(ids).sum())} are shared: embed the same data with each"
        )
    rows = ids.get_indexer(wanted)
    if (rows == np.arange(len(rows))).all():
        return pool
    return replace(pool, table=pool.table.take(rows), features=np.asarray(pool.features)[rows])


def encoders_report(
    pools: dict[str, PooledEmbeddings],
    planned: Sequence[tuple[Task, list[Experiment]]],
    notes: Sequence[str],
    probes: Sequence[Probe],
    options: EvaluateOptions,
) -> Report:
    """The table of encoders on the first experiment of each target; see `EvaluateOptions`."""
    first = next(iter(pools))
    sources = [FeatureSource.of(pool) for pool in pools.values()]
    source = FeatureSource.of_all(sources)
    lead = [
        f"{len(pools)} encoders, each on the same images; differences from {first}",
        *(_scored_line(task, made[0]) for task, made in planned),
        f"scores are {SCORE.replace('_', ' ')} at image level, or recall@1 of all images where a column says so",
        f"95% intervals and p from {options.draws} paired draws of {source.unit}s",
        *(f"{name}: {pool.encoder['path']}" for name, pool in pools.items() if name != pool.encoder["path"]),
    ]
    rows: list[dict[str, Any]] = []
    by_class: list[ReportTable] = []
    for task, made in planned:
        columns = []
        for column in _columns(pools.values(), task, made[0].folds, probes, options):
            scores = [show(one.scores[column.score].entry()) for one in column.encoders]
            log.info("%s, %s: %s", task.name, column.name, "; ".join(map(" ".join, zip(pools, scores, strict=True))))
            columns.append(column)
            # Columns of few labels, of skin types and of recall have no predictions.
            for name, predictions in zip(pools, column.predictions, strict=True) if column.predictions else ():
                heading = f"{task.name} by class: {name}, {column.name}"
                by_class.append(ReportTable(heading, pd.DataFrame(), class_figures(predictions, {})))
        rows += _target_rows(pools, task.name, columns)
        notes = [*notes, *_few_label_notes(task, made[0].folds, probes[-1])]
    tables = _tables(pd.DataFrame(rows))
    data = {"protocol": options.protocol} | {key: held for key, held in vars(source).items() if key != "encoder"}
    data |= {"encoders": {name: pool.encoder for name, pool in pools.items()}}
    data |= {"notes": [*notes, *(_seen_note(name, pool, rows) for name, pool in pools.items())]}
    data |= {"rows": list(map(report.flat_row, rows))}
    head, captions = f"protocol {options.protocol} on {source.names}", [(table, table.heading) for table in tables]
    tables += by_class
    return report.side_by_side_report(options.out, WRITTEN, head, lead, tables, captions, report.ENCODERS, source, data)


def _scored_line(task: Task, experiment: Experiment) -> str:
    """How many images of how many patients are scored, and by which split or folds."""
    scored = np.unique(np.concatenate([fold.test for fold in experiment.folds]))
    images = f"{len(scored)} of {len(task.labels)} images are scored, those"
    if len(scored) == len(task.labels):
        images = f"{len(scored)} images"
    return f"{task.name}: {images} of {counted(len(set(task.groups[scored])), task.unit)}, {experiment.name}"


def _tenths(held: Sequence[int]) -> tuple[dict[int, int], int]:
    """By class a tenth of its ``held`` training patients, but at least one; and the fewest of a class that has some."""
    shares = {label: max(1, round(report.SHARE * patients)) for label, patients in enumerate(held)}
    return shares, min((shares[label] for label, patients in enumerate(held) if patients), default=1)


def _few_label_notes(task: Task, folds: Sequence[Fold], probe: Probe) -> Iterator[str]:
    """Notes on classes with too few patients for a draw, or for the choice of a classifier."""
    held = fewest_patients(task, folds)
    few = [f"{name} ({count})" for name, count in zip(task.classes, held, strict=True) if count < report.FEW]
    if few:
        yield f"{task.name}, {report.FEW} {task.unit}s per class: classes with fewer give all: {', '.join(few)}"
    if probe.name == "linear" and _tenths(held)[1] == 1:
        yield (
            f"{task.name}, linear, {report.SHARE:.0%} of {task.unit}s: a class has one {task.unit}, too few to choose "
            "a classifier, so the default one is taken"
        )


def _seen_note(name: str, pool: PooledEmbeddings, rows: Sequence[dict[str, Any]]) -> str:
    """How many of the scored images, and of the queries of recall@1, the encoder has seen in pretraining."""
    if pool.seen.reasons is None:
        return f"{name}: {cannot_tell(pool.seen.source)}"
    counts = [
        f"{row['seen']} of {row['images']} " + (f"queries of {row['column']}" if RECALL in row["column"] else "images")
        for row in rows
        if row["encoder"] == name and row.get("seen") and "," not in row["column"]
    ]
    said = "; ".join(dict.fromkeys(counts)) or "none of the scored images"
    every = " (all splits, test images included)" if saw_test(pool.encoder) else ""
    _, unknown, starts = pool.seen.source.partition("; what its start")
    return f"{name} has seen in pretraining: {said}{every}{unknown}{starts}"


class Column(NamedTuple):
    """The score of each encoder in one column, and the ids of the scored ``images``.

    In the columns that the page also shows by class, ``predictions`` has those of each encoder.
    """

    name: str
    score: str
    encoders: list[Bootstrap]
    images: pd.Series
    predictions: Sequence[Predictions] = ()


def _target_rows(pools: dict[str, PooledEmbeddings], target: str, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """The rows of the long table for one target, with the mean ranks last."""
    rows: list[dict[str, Any]] = []
    ranks = []
    for column, score, encoders, images, _ in columns:
        sampled = [np.r_[one.scores[score].value, one.drawn[score]] for one in encoders]
        ranks.append(rankdata(-np.round(sampled, DIGITS), axis=0))  # in the sample, then in each draw
        for (name, pool), found, rank in zip(pools.items(), encoders, ranks[-1], strict=True):
            seen = None if pool.seen.reasons is None else int(pool.seen.flags(images).sum())
            row = {"target": target, "column": column, "encoder": name, "images": len(images), "seen": seen}
            interval, difference = found.scores[score], found.differences.get(score)
            row |= {"value": interval.entry(), "difference": difference.entry() if difference else None}
            rows.append(row | {"rank": Interval(rank[0], *percentiles(rank[1:]), interval.narrow).entry()})
    for name, rank in zip(pools, np.mean(ranks, axis=0), strict=True):
        mean = Interval(rank[0], *percentiles(rank[1:])).entry()
        rows.append({"target": target, "column": MEAN_RANK, "encoder": name, "value": mean})
    return rows


def _columns(
    pools: Iterable[PooledEmbeddings],
    first: Task,
    folds: Sequence[Fold],
    probes: Sequence[Probe],
    options: EvaluateOptions,
) -> Iterator[Column]:
    """A column for each probe, then for the last probe from few labels and on skin types, then for recall@1.

    All encoders have the labels, patients and folds of the ``first`` task.
    """
    rows = pd.Index(first.pool.frame["image_id"]).get_indexer(first.frame["image_id"])
    tasks = [replace(first, pool=pool, features=np.asarray(pool.features)[rows]) for pool in pools]
    last = probes[-1]
    whole: list[Predictions] = []
    for probe in probes:
        whole = [probe.fit(task, folds).predictions for task in tasks]
        scored = whole[0].frame["image_id"]
        compared = paired_scores([[own] for own in whole], options.draws, options.seed)
        yield Column(probe.name, SCORE, compared, scored, whole)
    tenths, fewest = _tenths(fewest_patients(first, folds))
    few_labels: dict[str, tuple[int | dict[int, int], int]] = {
        f"{report.FEW} {first.unit}s per class": (report.FEW, report.FEW),
        f"{report.SHARE:.0%} of {first.unit}s": (tenths, fewest),
    }
    for column, (wanted, shots) in few_labels.items():
        drawn = [draw_of_each_class(first, folds, wanted, [options.seed, run]) for run in range(report.RUNS)]
        few = [[last.fit(task, one, shots).predictions for one in drawn] for task in tasks]
        yield Column(f"{last.name}, {column}", SCORE, paired_scores(few, options.draws, options.seed), scored)
    values = attributes(first.frame).get("fitzpatrick_pairs")
    if values is not None:
        of_rows = values_of(whole[0], first.frame, values)
        for value in sorted(set(of_rows) - {None}):
            inside = [own.rows(of_rows == value) for own in whole]
            if len(set(inside[0].groups)) >= MIN_PATIENTS and len(np.unique(inside[0].truth)) > 1:
                compared = paired_scores([[own] for own in inside], options.draws, options.seed)
                yield Column(f"{last.name}, skin types {value}", SCORE, compared, inside[0].frame["image_id"])
    hits = [list(recall_hits(task.pool.features, first.pool.frame)) for task in tasks]
    for found in zip(*hits, strict=True):
        dataset, kind, queries, _ = found[0]
        compared = paired_means([own for *_, own in found], first.pool.groups[queries], options.draws, options.seed)
        images = first.pool.frame["image_id"].iloc[queries]
        yield Column(f"same-{kind} {RECALL} of {dataset}", MEAN, compared, images)


def _tables(table: pd.DataFrame) -> list[ReportTable]:
    """For each target the tables of scores, of differences and of ranks, with a row for each encoder."""
    tables = []
    for target, own in table.groupby("target", sort=False):
        scored = own[own["column"] != MEAN_RANK]
        others = scored[scored["difference"].notna()]
        tables += [
            report.interval_table(f"{target}: scores", own, KEYS, figures=(report.dots(scored, KEYS),)),
            report.interval_table(f"{target}: differences", others, KEYS, "difference", "+.3f"),
            report.interval_table(f"{target}: ranks", scored, KEYS, "rank", ".1f"),
        ]
    return tables
