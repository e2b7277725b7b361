"""``dermeval compare``: encoders or probes side by side, with paired differences on the same patients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.pages.tables import ReportTable, tables_as_text
from dermeval.probes.intervals import defined
from dermeval.probes.judge import PER_CLASS
from dermeval.probes.options import CompareOptions
from dermeval.probes.predictions import Predictions, by_case
from dermeval.probes.report import RESULTS, FeatureSource, report_page, report_text
from dermeval.probes.results_folder import Result, open_results
from dermeval.probes.side_by_side import (
    difference_columns,
    dots,
    grid,
    interval_cells,
    latex_table,
    table_row,
    write_side_by_side,
)
from dermeval.probes.task import unit_of
from dermeval.statistics.comparison import paired_bootstrap
from dermssl.commandline import Report
from dermssl.paths import require_new_folder

MAIN = ("balanced_accuracy", "macro_f1", "macro_auroc", "auroc", "positive_f1", "accuracy")
KEYS = ("result", "score")
WRITTEN = ("comparison.json", "comparison.csv", "comparison.tex", "comparison.html")


def compare(options: CompareOptions) -> Report:
    """Compare results folders; see `CompareOptions`.

    Raises:
        InputError: the folders do not answer the same question on the same images, or the output exists.
    """
    out = Path(options.out) if options.out else None
    if out:
        require_new_folder(out, options.overwrite, WRITTEN, options.results, key="rows")
    questions = open_results(options.results)
    rows, redrawn = [], 0
    for question, results in questions.items():
        for level, predictions in _levels(results).items():
            found, lost = _rows(results, predictions, options)
            own = {"experiment": question} if question else {}
            rows += [own | {"level": level} | row for row in found]
            redrawn += lost
    first = next(iter(questions.values()))
    source = FeatureSource.of_all([_source(info) for result in first for info in result.infos])
    data = _info(first, source, redrawn) | {"rows": rows, "draws": options.draws}
    tables = {key: _tables(key, own) for key, own in _by_level(pd.DataFrame(rows)).items()}
    flat = [table for pair in tables.values() for table in pair]
    head = f"comparison on {data['target']}" if "" in questions else "comparison of protocols"
    lead = _lead(data, list(questions))
    if out:
        finest = {experiment: pair[0] for (experiment, _), pair in tables.items()}
        tex = [latex_table(table, f"{data['target']}, {table.heading}, by {source.unit}") for table in finest.values()]
        page = report_page(head.capitalize(), lead, flat, source, data["notes"], RESULTS)
        write_side_by_side(out, "comparison", data, tex, page, WRITTEN[-1])
    return Report(report_text([head, *lead, *tables_as_text(flat)], source, data["notes"]), data)


def _source(info: dict[str, Any]) -> FeatureSource:
    return FeatureSource(*(info[key] for key in ("encoder", "datasets", "licences", "synthetic")))


def _levels(results: Sequence[Result]) -> dict[str, list[list[Predictions]]]:
    """The predictions of each result's seeds, of images and, where cases have several classes, of cases."""
    images = [result.predictions for result in results]
    cases = [[by_case(seed)[0] for seed in seeds] for seeds in images]
    return {"image": images} | ({"case": cases} if len(np.unique(cases[0][0].truth)) > 1 else {})


def _rows(
    results: Sequence[Result], predictions: Sequence[Sequence[Predictions]], options: CompareOptions
) -> tuple[list[dict[str, Any]], int]:
    """One row per result and score: value, interval, and the paired difference against the first result."""
    first = predictions[0][0]
    stacked = [np.stack([seed.probabilities for seed in seeds]) for seeds in predictions]
    compared = paired_bootstrap(first.truth, stacked, first.groups, results[0].positive, options.draws, options.seed)
    rows = []
    parts = zip(results, compared.scores, compared.deviations, [None, *compared.differences], strict=True)
    for result, scores, deviations, differences in parts:
        for name in (name for name in scores if name not in PER_CLASS):
            row: dict[str, Any] = {"result": result.name, "score": name, **table_row(scores[name])}
            row |= {"seeds": len(result.infos), "seed_sd": defined(deviations[name])}
            rows.append(row | difference_columns(differences[name] if differences else None))
    return rows, compared.redrawn


def _info(results: Sequence[Result], source: FeatureSource, redrawn: int) -> dict[str, Any]:
    """What the report says of all results together."""
    first = results[0].info
    notes = list(dict.fromkeys(note for result in results for info in result.infos for note in info["notes"]))
    if redrawn:
        notes.append(f"{redrawn} bootstrap draws lost a class and were drawn again")
    named = []
    for result in results:
        encoders = ", ".join(dict.fromkeys(info["encoder"]["path"] for info in result.infos))
        entry = {"name": result.name, "probe": result.info["probe"], "encoder": encoders}
        named.append(entry | {"seeds": len(result.infos)})
    own = {key: first[key] for key in ("target", "classes", "counts")} | vars(source)
    return own | {"results": named, "notes": notes}


def _lead(info: dict[str, Any], questions: Sequence[str]) -> list[str]:
    group, counts = unit_of(info["datasets"]), info["counts"]
    text = (
        f"{len(info['results'])} results on the same {counts['scored']} images of {counts['scored_groups']} {group}s."
    )
    if "" not in questions:
        text = f"{len(info['results'])} results of {len(questions)} experiments, each on the same images."
    lines = [text]
    for entry in info["results"]:
        mean = f"mean of {entry['seeds']} seeds, " if entry["seeds"] > 1 else ""
        probe = f"{entry['probe']} on " if "" in questions else ""
        lines.append(f"{entry['name']}: {mean}{probe}{entry['encoder']}")
    lines.append(
        f"95% intervals and two-sided p from {info['draws']} paired draws of {group}s; differences are against "
        f"{info['results'][0]['name']}."
    )
    if any(entry["seeds"] > 1 for entry in info["results"]):
        lines.append(
            f"Intervals and p are for these seeds under the same draws of {group}s; sd is that over the seeds."
        )
    return lines


def _by_level(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The rows of the main scores, in their order, for each experiment (empty: the only one) and level."""
    table = table if "experiment" in table else table.assign(experiment="")
    parts = {}
    for (experiment, level), rows in table.groupby(["experiment", "level"], sort=False):
        main = rows[rows["score"].isin(MAIN)]
        order = main["score"].map(MAIN.index)
        parts[str(experiment), str(level)] = main.loc[order.sort_values(kind="stable").index]
    return parts


def _tables(key: tuple[str, str], rows: pd.DataFrame) -> tuple[ReportTable, ReportTable]:
    """Results by main scores, and their differences from the first result."""
    name, others = ", ".join(filter(None, key)) + " level", rows[rows["difference"].notna()]
    spread = [f", sd {sd:.3f}" if pd.notna(sd) else "" for sd in rows["seed_sd"]]
    cells = [cell + sd for cell, sd in zip(interval_cells(rows), spread, strict=True)]
    scores = ReportTable(f"scores, {name}", grid(rows, KEYS, cells), (dots(rows, KEYS),))
    cells = interval_cells(others, "difference", "+.3f")
    return scores, ReportTable(f"differences, {name}", grid(others, KEYS, cells), (dots(others, KEYS, "difference"),))
