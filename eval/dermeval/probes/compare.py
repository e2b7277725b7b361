"""``dermeval compare``: the results of encoders or probes side by side, with differences paired by patient."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.pages.tables import ReportTable
from dermeval.probes import report
from dermeval.probes.judge import PER_CLASS, redrawn_note
from dermeval.probes.open_results import Result, open_results
from dermeval.probes.options import CompareOptions
from dermeval.probes.predictions import by_case, paired_scores
from dermeval.probes.report import FeatureSource
from dermeval.statistics.bootstrap import Bootstrap, defined, require_draws
from dermssl.commandline import Report
from dermssl.errors import counted
from dermssl.paths import require_new_folder

MAIN = ("balanced_accuracy", "macro_f1", "macro_auroc", "auroc", "positive_f1", "accuracy")
SOURCE = ("encoder", "datasets", "licences", "synthetic")
CELLS = ("result", "score")
WRITTEN = ("comparison.json", "comparison.csv", "comparison.tex", "comparison.html")


def compare(options: CompareOptions) -> Report:
    """Compare results folders; see `CompareOptions`. Bad input raises InputError."""
    require_draws(options.draws)
    if options.out:
        require_new_folder(Path(options.out), options.overwrite, WRITTEN, options.results, key="rows")
    experiments, left_out = open_results(options.results)
    rows, redrawn = [], 0
    for experiment, results in experiments.items():
        levels = {"image": [result.predictions for result in results]}
        cases = [[by_case(seed)[0] for seed in seeds] for seeds in levels["image"]]
        levels |= {"case": cases} if len(np.unique(cases[0][0].truth)) > 1 else {}
        for level, predictions in levels.items():
            keys = ({"experiment": experiment} if experiment else {}) | {"level": level}
            compared = paired_scores(predictions, options.draws, options.seed)
            rows += [keys | row for one in zip(results, compared, strict=True) for row in _rows(*one)]
            redrawn += compared[0].redrawn
    results = next(iter(experiments.values()))
    infos = [info for result in results for info in result.infos]
    source = FeatureSource.of_all([FeatureSource(*(info[key] for key in SOURCE)) for info in infos])
    notes = [
        f"{experiment}: {note}" if experiment else note
        for experiment, found in experiments.items()
        for result in found
        for info in result.infos
        for note in info["notes"]
    ]
    notes = list(dict.fromkeys([*left_out, *notes, *redrawn_note(redrawn)]))
    data = {key: infos[0][key] for key in ("target", "classes", "positive", "counts")} | vars(source)
    named = [
        {
            "name": result.name,
            "probe": result.infos[0]["probe"],
            "encoder": ", ".join(dict.fromkeys(info["encoder"]["path"] for info in result.infos)),
            "seeds": len(result.infos),
        }
        for result in results
    ]
    data |= {"results": named, "notes": notes, "rows": list(map(report.flat_row, rows)), "draws": options.draws}
    tables = _tables(pd.DataFrame(rows))
    # The case level of each experiment comes after its image level, and so takes its place here.
    last = {experiment: scores for (experiment, _), (scores, _) in tables.items()}.values()
    before = f"{data['target']}, " if "" in experiments else ""
    head = f"comparison on {data['target']}" if "" in experiments else "comparison of protocols"
    captions = [(table, f"{before}{table.heading}, by {source.unit}") for table in last]
    lead, shown = _lead(data, list(experiments), source.unit), [table for pair in tables.values() for table in pair]
    return report.side_by_side_report(options.out, WRITTEN, head, lead, shown, captions, report.RESULTS, source, data)


def _rows(result: Result, found: Bootstrap) -> Iterator[dict[str, Any]]:
    """A row of the long table for each score of a result, with the paired difference from the first result."""
    for name in (name for name in found.scores if name not in PER_CLASS):
        row: dict[str, Any] = {"result": result.name, "score": name, "value": found.scores[name].entry()}
        row |= {"seeds": len(result.infos), "seed_sd": defined(found.deviations[name])}
        yield row | {"difference": found.differences[name].entry() if found.differences else None}


def _lead(data: dict[str, Any], experiments: Sequence[str], unit: str) -> list[str]:
    results, counts, single = data["results"], data["counts"], "" in experiments
    scored = f"on the same {counts['scored']} images of {counts['scored_groups']} {unit}s."
    every = f"of {counted(len(experiments), 'experiment')}, each on the same images."
    lines = [f"{len(results)} results {scored if single else every}"]
    if single and data["positive"]:
        lines.append(f"positive class: {data['positive']}")
    for entry in results:
        mean = f"mean of {entry['seeds']} seeds, " if entry["seeds"] > 1 else ""
        lines.append(f"{entry['name']}: {mean}{entry['probe'] + ' on ' if single else ''}{entry['encoder']}")
    how = f"95% intervals and two-sided p from {data['draws']} paired draws of {unit}s"
    lines.append(f"{how}; differences from {results[0]['name']}.")
    if any(entry["seeds"] > 1 for entry in results):
        lines.append(f"All seeds share the draws of {unit}s. Intervals and p hold for these seeds; sd is over them.")
    return lines


def _tables(table: pd.DataFrame) -> dict[tuple[str, str], tuple[ReportTable, ReportTable]]:
    """By experiment (empty: the only one) and level, the main scores and their differences from the first result."""
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
