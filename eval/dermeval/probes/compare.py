"""``dermeval compare``: encoders or probes side by side, with paired differences on the same patients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.pages.tables import ReportTable
from dermeval.probes import report
from dermeval.probes.judge import PER_CLASS, redrawn_note
from dermeval.probes.open_results import Result, open_results
from dermeval.probes.options import CompareOptions
from dermeval.probes.predictions import Predictions, by_case, paired_scores
from dermeval.probes.report import FeatureSource
from dermeval.statistics.bootstrap import defined
from dermssl.commandline import Report
from dermssl.paths import require_new_folder

MAIN = ("balanced_accuracy", "macro_f1", "macro_auroc", "auroc", "positive_f1", "accuracy")
SOURCE = ("encoder", "datasets", "licences", "synthetic")
CELLS = ("result", "score")
WRITTEN = ("comparison.json", "comparison.csv", "comparison.tex", "comparison.html")


def compare(options: CompareOptions) -> Report:
    """Compare results folders; see `CompareOptions`. Bad input raises InputError."""
    if options.out:
        require_new_folder(Path(options.out), options.overwrite, WRITTEN, options.results, key="rows")
    questions = open_results(options.results)
    rows, redrawn = [], 0
    for question, results in questions.items():
        for level, predictions in _levels(results).items():
            found, lost = _rows(results, predictions, options)
            own = {"experiment": question} if question else {}
            rows += [own | {"level": level} | row for row in found]
            redrawn += lost
    results = next(iter(questions.values()))
    infos = [info for result in results for info in result.infos]
    source = FeatureSource.of_all([FeatureSource(*(info[key] for key in SOURCE)) for info in infos])
    notes = list(dict.fromkeys(note for info in infos for note in info["notes"])) + redrawn_note(redrawn)
    data = {key: infos[0][key] for key in ("target", "classes", "counts")} | vars(source)
    data |= {"results": [_named(result) for result in results], "notes": notes, "rows": rows, "draws": options.draws}
    tables = _tables(pd.DataFrame(rows))
    # Of each experiment, the scores of the case level where there is one: it stands last.
    finest = {experiment: scores for (experiment, _), (scores, _) in tables.items()}.values()
    head = f"comparison on {data['target']}" if "" in questions else "comparison of protocols"
    return report.side_by_side_report(
        options.out,
        WRITTEN,
        head,
        _lead(data, list(questions), source.unit),
        [table for pair in tables.values() for table in pair],
        [(table, f"{data['target']}, {table.heading}, by {source.unit}") for table in finest],
        report.RESULTS,
        source,
        data,
    )


def _levels(results: Sequence[Result]) -> dict[str, list[list[Predictions]]]:
    """The predictions of each result's seeds, of images and, where cases have several classes, of cases."""
    images = [result.predictions for result in results]
    cases = [[by_case(seed)[0] for seed in seeds] for seeds in images]
    return {"image": images} | ({"case": cases} if len(np.unique(cases[0][0].truth)) > 1 else {})


def _rows(
    results: Sequence[Result], predictions: Sequence[Sequence[Predictions]], options: CompareOptions
) -> tuple[list[dict[str, Any]], int]:
    """One row per result and score: value, interval, and the paired difference against the first result."""
    rows = []
    compared = paired_scores(predictions, options.draws, options.seed)
    for result, found in zip(results, compared, strict=True):
        for name in (name for name in found.scores if name not in PER_CLASS):
            row: dict[str, Any] = {"result": result.name, "score": name, **report.long_row(found.scores[name])}
            row |= {"seeds": len(result.infos), "seed_sd": defined(found.deviations[name])}
            rows.append(row | report.interval_columns("difference", found.differences.get(name)))
    return rows, compared[0].redrawn


def _named(result: Result) -> dict[str, Any]:
    """A result as ``comparison.json`` names it."""
    encoders = ", ".join(dict.fromkeys(info["encoder"]["path"] for info in result.infos))
    return {"name": result.name, "probe": result.infos[0]["probe"], "encoder": encoders, "seeds": len(result.infos)}


def _lead(data: dict[str, Any], questions: Sequence[str], unit: str) -> list[str]:
    results, counts = data["results"], data["counts"]
    text = f"{len(results)} results on the same {counts['scored']} images of {counts['scored_groups']} {unit}s."
    if "" not in questions:
        text = f"{len(results)} results of {len(questions)} experiments, each on the same images."
    lines = [text]
    for entry in results:
        mean = f"mean of {entry['seeds']} seeds, " if entry["seeds"] > 1 else ""
        probe = f"{entry['probe']} on " if "" in questions else ""
        lines.append(f"{entry['name']}: {mean}{probe}{entry['encoder']}")
    lines.append(
        f"95% intervals and two-sided p from {data['draws']} paired draws of {unit}s; differences are against "
        f"{results[0]['name']}."
    )
    if any(entry["seeds"] > 1 for entry in results):
        lines.append(f"Intervals and p hold for these seeds, which share the draws of {unit}s; sd is over the seeds.")
    return lines


def _tables(table: pd.DataFrame) -> dict[tuple[str, str], tuple[ReportTable, ReportTable]]:
    """For each experiment (empty: the only one) and level, the main scores and their differences from the first's."""
    table = table if "experiment" in table else table.assign(experiment="")
    table = table.assign(sd=[f", sd {sd:.3f}" if pd.notna(sd) else "" for sd in table["seed_sd"]])
    tables = {}
    for (experiment, level), rows in table[table["score"].isin(MAIN)].groupby(["experiment", "level"], sort=False):
        rows = rows.sort_values("score", key=lambda names: names.map(MAIN.index), kind="stable")
        name, others = ", ".join(filter(None, (experiment, level))) + " level", rows[rows["difference"].notna()]
        figures = (report.dots(rows, CELLS),), (report.dots(others, CELLS, "difference"),)
        tables[str(experiment), str(level)] = (
            report.interval_table(f"scores, {name}", rows, CELLS, more="sd", figures=figures[0]),
            report.interval_table(f"differences, {name}", others, CELLS, "difference", "+.3f", figures=figures[1]),
        )
    return tables
