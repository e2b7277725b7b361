"""Several encoders in one table, as papers print it: probes, few labels, groups and recall@1, paired by patient.

All encoders are scored on the same images under the same draws of patients, so that differences and ranks are paired.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dermeval.features.embeddings import open_embeddings
from dermeval.features.pool import PooledEmbeddings, open_pool
from dermeval.pages import plots
from dermeval.pages.tables import ReportTable, tables_as_sections, tables_as_text
from dermeval.probes.folds import Fold
from dermeval.probes.groups import MISSING, attributes, values_of
from dermeval.probes.intervals import interval_json, show
from dermeval.probes.judge import Probe
from dermeval.probes.options import EvaluateOptions
from dermeval.probes.predictions import Predictions
from dermeval.probes.protocols import Experiment
from dermeval.probes.recall import recall_hits
from dermeval.probes.results import FeatureSource, closing_lines
from dermeval.probes.results_folder import printable
from dermeval.probes.shots import draw_of_each_class
from dermeval.probes.task import Task, task_of
from dermeval.statistics.bootstrap import MIN_PATIENTS, Interval, percentiles
from dermeval.statistics.comparison import Difference, paired_bootstrap, paired_means
from dermssl import licences
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import write_csv, write_json, write_text
from dermssl.page import render
from dermssl.paths import require_new_folder

SHOTS, SHARE, RUNS = 5, 0.1, 3
"""Patients of each class, share of the training patients, and draws of either, for the columns with few labels."""
SCORE = "balanced_accuracy"
TERMS = {
    "balanced accuracy": "The mean of the recall of each class, so that rare classes count as much as frequent ones.",
    "knn, linear": "Weighted vote of the 20 nearest training images; logistic regression on the frozen features.",
    "per class, 10%": f"Trained on {SHOTS} {{unit}}s of each class, or on a tenth of those of each class; the mean of "
    f"{RUNS} draws.",
    "recall@1": "The share of images whose nearest other image shows the same lesion (patient).",
    "rank": "1 is the best encoder of a column. The mean rank is over all columns; its interval over draws of {unit}s.",
    "p": "Probability of so large a difference from the first encoder, or a larger one, if there were none. It is not "
    "corrected for the number of columns.",
}
log = logging.getLogger("dermssl")


def pools_by_encoder(folders: Sequence[str]) -> dict[str, PooledEmbeddings]:
    """The embeddings folders pooled by the encoder that made them, in the order given, by a short name of each.

    Raises:
        InputError: an unusable folder, or encoders that were not run on the same images.
    """
    by_encoder: dict[str, list[str]] = {}
    for folder in folders:
        part = open_embeddings(folder)
        made = [part.encoder.get(key, "cls") for key in ("fingerprint", "preprocessing", "features")]
        by_encoder.setdefault(str([*made, part.info.get("dtype")]), []).append(folder)
    pools = [open_pool(own) for own in by_encoder.values()]
    short = [Path(pool.encoder["path"]).name or pool.encoder["path"] for pool in pools]
    if len(set(short)) < len(short):
        short = [Path(own[0]).name for own in by_encoder.values()]
    if len(set(short)) < len(short):
        short = [own[0] for own in by_encoder.values()]
    return {printable(name): _in_order(pool, pools[0]) for name, pool in zip(short, pools, strict=True)}


def _in_order(pool: PooledEmbeddings, first: PooledEmbeddings) -> PooledEmbeddings:
    ids, wanted = pd.Index(pool.frame["image_id"]), first.frame["image_id"]
    if len(ids) != len(wanted) or not wanted.isin(ids).all():
        raise InputError(
            f"{pool.where} and {first.where} come from different encoders and hold {len(ids)} and {len(wanted)} "
            f"images, of which {int(wanted.isin(ids).sum())} are shared: embed the same data with each"
        )
    rows = ids.get_indexer(wanted)
    if (rows == np.arange(len(rows))).all():
        return pool
    frame = pool.frame.iloc[rows].reset_index(drop=True)
    return dataclasses.replace(pool, features=np.asarray(pool.features)[rows], frame=frame)


def encoders_report(
    pools: dict[str, PooledEmbeddings],
    planned: Sequence[tuple[Task, list[Experiment]]],
    notes: Sequence[str],
    probes: dict[str, Probe],
    options: EvaluateOptions,
) -> Report:
    """The table of encoders on the first experiment of each target, written and printed; see `EvaluateOptions`."""
    out, names = Path(options.out) if options.out else None, list(pools)
    if out:
        require_new_folder(
            out,
            options.overwrite,
            ("encoders.json", "encoders.csv", "encoders.tex", "report.html"),
            options.embeddings,
            key="rows",
        )
    rows: list[dict[str, Any]] = []
    lead = [f"{len(names)} encoders, each on the same images; differences are against {names[0]}"]
    for task, (experiment, *_) in planned:
        tasks = [task_of(pool, task.name) for pool in pools.values()]
        lead.append(
            f"{task.name}: {len(task.labels)} images of {len(set(task.groups))} {task.unit}s, {experiment.name}"
        )
        ranks = []
        for column, scores, differences, drawn in _columns(tasks, experiment.folds, probes, options):
            best_first = rankdata(-drawn, axis=0)
            ranks.append(best_first)
            point = rankdata([-float(score.value) for score in scores])
            for name, score, difference, rank, own in zip(names, scores, differences, point, best_first, strict=True):
                row = {"target": task.name, "column": column, "encoder": name} | interval_json(score)
                row |= _named("difference", interval_json(difference) if difference else {})
                rows.append(row | _named("rank", interval_json(Interval(np.float64(rank), *percentiles(own)))))
            log.info("%s, %s: %s", task.name, column, "; ".join(show(interval_json(score)) for score in scores))
        mean = np.mean(ranks, axis=0)
        for name, own in zip(names, mean, strict=True):
            point = np.mean([row["rank"] for row in rows if row["target"] == task.name and row["encoder"] == name])
            entry = interval_json(Interval(np.float64(point), *percentiles(own)))
            rows.append({"target": task.name, "column": "mean rank", "encoder": name} | entry)
    sources = [FeatureSource.of(pool) for pool in pools.values()]
    merged = licences.merge(entry for source in sources for entry in source.licences)
    source = dataclasses.replace(sources[0], licences=merged)
    lead.append(
        f"{SCORE.replace('_', ' ')} of images but for recall@1; 95% intervals and p from {options.draws} paired "
        f"draws of {source.unit}s"
    )
    lead += [f"{name}: {pool.encoder['path']}" for name, pool in pools.items()]
    data = {
        "protocol": options.protocol,
        "encoders": {name: one.encoder for name, one in zip(names, sources, strict=True)},
        "datasets": source.datasets,
        "licences": merged,
        "synthetic": source.synthetic,
        "notes": list(notes),
        "rows": rows,
    }
    table = pd.DataFrame(rows)
    if out:
        _write(out, table, data, lead, source)
    text = [f"protocol {options.protocol} on {source.names}", *lead, *tables_as_text(_tables(table))]
    return Report("\n".join([*text, *closing_lines(source, list(notes))]), data)


Column = tuple[str, Sequence[Interval], Sequence[Difference | None], np.ndarray]
"""Its name, each encoder's score, its difference from the first's, and the scores under every draw ``(E, B)``."""


def _columns(
    tasks: Sequence[Task], folds: Sequence[Fold], probes: dict[str, Probe], options: EvaluateOptions
) -> Iterator[Column]:
    first = tasks[0]

    def paired(name: str, found: Sequence[Sequence[Predictions]]) -> Column:
        one, runs = found[0][0], [np.stack([run.probabilities for run in own]) for own in found]
        compared = paired_bootstrap(one.truth, runs, one.groups, first.positive, options.draws, options.seed)
        drawn = np.stack([scores[SCORE] for scores in compared.drawn])
        differences = [None, *(entry[SCORE] for entry in compared.differences)]
        return name, [scores[SCORE] for scores in compared.scores], differences, drawn

    whole: list[Predictions] = []
    for name, probe in probes.items():
        whole = [probe.fit(task, folds).predictions for task in tasks]
        yield paired(name, [[own] for own in whole])
    name, probe = list(probes.items())[-1]
    most = [_patients(first, fold) for fold in folds]
    few = {
        f"{name}, {SHOTS} {first.unit}s per class": dict.fromkeys(range(len(first.classes)), SHOTS),
        f"{name}, {SHARE:.0%} of {first.unit}s": {
            label: max(1, round(SHARE * min(held.get(label, 0) for held in most))) for label in most[0]
        },
    }
    for column, wanted in few.items():
        drawn = [
            [
                Fold(fold.number, draw_of_each_class(first, fold, wanted, [options.seed, run]), fold.test)
                for fold in folds
            ]
            for run in range(RUNS)
        ]
        yield paired(column, [[probe.few(task, one, min(wanted.values())) for one in drawn] for task in tasks])
    values = attributes(first.frame).get("fitzpatrick_pairs")
    if values is not None:
        of_rows = values_of(whole[0], first.frame, values)
        for value in sorted({value for value in of_rows if value not in (None, MISSING)}):
            inside = [own.rows(of_rows == value) for own in whole]
            if len(set(inside[0].groups)) >= MIN_PATIENTS and len(np.unique(inside[0].truth)) > 1:
                yield paired(f"{name}, skin types {value}", [[own] for own in inside])
    groups = first.pool.frame["group_id"].to_numpy(dtype=object)
    hits = [list(recall_hits(task.pool.features, task.pool.frame)) for task in tasks]
    for found in zip(*hits, strict=True):
        dataset, kind, queries, _ = found[0]
        compared = paired_means([own for *_, own in found], groups[queries], options.draws, options.seed)
        yield f"same-{kind} recall@1 of {dataset}", *compared


def _patients(task: Task, fold: Fold) -> dict[int, int]:
    """Training patients of each class."""
    labels, groups = task.labels[fold.train], task.groups[fold.train]
    return {int(label): len(set(groups[labels == label])) for label in np.unique(labels)}


def _named(prefix: str, entry: dict[str, Any]) -> dict[str, Any]:
    named = {prefix: entry.get("value")} | {f"{prefix}_{end}": entry.get(end) for end in ("low", "high")}
    return named | ({"p": entry.get("p")} if prefix == "difference" else {})


def _tables(table: pd.DataFrame) -> list[ReportTable]:
    """Scores, differences and ranks: one row for each encoder, one column for each column of the table."""
    tables = []
    for target, own in table.groupby("target", sort=False):
        scored = own[own["column"] != "mean rank"]
        figure = plots.interval_plot(
            [
                (
                    column,
                    [plots.Bar(row["encoder"], row["value"], row["low"], row["high"]) for _, row in part.iterrows()],
                )
                for column, part in scored.groupby("column", sort=False)
            ][:6]
        )
        for what, digits, rows in (("", ".3f", own), ("difference", "+.3f", scored), ("rank", ".1f", scored)):
            ends = ("value", "low", "high") if not what else (what, f"{what}_low", f"{what}_high")
            part = rows.dropna(subset=[ends[0]])
            names = dict(zip(ends, ("value", "low", "high"), strict=True)) | (
                {"p": "p"} if what == "difference" else {}
            )
            cells = [show({new: row[old] for old, new in names.items()}, digits) for _, row in part.iterrows()]
            grid = part.assign(cell=cells).pivot(index="encoder", columns="column", values="cell")
            order = list(dict.fromkeys(part["encoder"])), list(dict.fromkeys(part["column"]))
            grid = grid.loc[order].rename_axis(index=None, columns=None).reset_index(names="")
            figures = () if what else (figure,)
            tables.append(ReportTable(f"{target}: {what + 's' if what else 'scores'}", grid, figures))
    return tables


def _write(folder: Path, table: pd.DataFrame, data: dict[str, Any], lead: Sequence[str], source: FeatureSource) -> None:
    tables = _tables(table)
    terms = {term: meaning.replace("{unit}", source.unit) for term, meaning in TERMS.items()}
    shown = [*tables, ReportTable("What the words mean", pd.DataFrame(), terms=terms)]
    title = f"{len(data['encoders'])} encoders on {source.names}"
    latex = []
    for part in tables:
        style = part.frame.set_index("").rename_axis(None).style.format(escape="latex")
        style = style.format_index(escape="latex").format_index(escape="latex", axis=1)
        latex.append(style.to_latex(hrules=True, caption=part.heading.replace("_", r"\_")))
    with atomic_folder(folder) as temporary:
        write_json(temporary / "encoders.json", data)
        write_csv(temporary / "encoders.csv", table)
        write_text(temporary / "encoders.tex", "\n".join(latex))
        page = render(
            title=title,
            lead=lead,
            sections=tables_as_sections(shown),
            notes=data["notes"],
            foot=closing_lines(source),
        )
        write_text(temporary / "report.html", page)
