"""``dermeval compare``: encoders or probes side by side, with paired differences on the same patients."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.pages import plots
from dermeval.pages.tables import ReportTable, tables_as_sections, tables_as_text
from dermeval.probes.intervals import defined, interval_json, show
from dermeval.probes.judge import PER_CLASS
from dermeval.probes.options import CompareOptions
from dermeval.probes.predictions import Predictions, by_case
from dermeval.probes.results import FeatureSource, closing_lines
from dermeval.probes.results_folder import Result, open_results
from dermeval.probes.task import unit_of
from dermeval.statistics.comparison import paired_bootstrap
from dermssl import licences
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.files import write_csv, write_json, write_text
from dermssl.page import render
from dermssl.paths import require_new_folder

MAIN = ("balanced_accuracy", "macro_f1", "macro_auroc", "auroc", "positive_f1", "accuracy")
DIFFERENCE = ("difference", "difference_low", "difference_high", "p")


def compare(options: CompareOptions) -> Report:
    """Compare results folders; see `CompareOptions`.

    Raises:
        InputError: the folders do not answer the same question on the same images, or the output exists.
    """
    out = Path(options.out) if options.out else None
    if out:
        require_new_folder(
            out,
            options.overwrite,
            ("comparison.json", "comparison.csv", "comparison.tex", "comparison.html"),
            options.results,
            key="rows",
        )
    questions = open_results(options.results)
    rows, redrawn = [], 0
    for question, results in questions.items():
        for level, predictions in _levels(results).items():
            found, lost = _rows(results, predictions, options)
            own = {"experiment": question} if question else {}
            rows += [own | {"level": level} | row for row in found]
            redrawn += lost
    table = pd.DataFrame(rows)
    info = _joined(next(iter(questions.values())), redrawn)
    data = info | {"rows": rows, "draws": options.draws}
    tables = _tables(table)
    lead, source = _lead(info, list(questions), options.draws), FeatureSource(*(info[key] for key in KEPT))
    if out:
        title = f"Comparison on {info['target']}" if "" in questions else "Comparison of protocols"
        page = render(
            title=title, lead=lead, sections=tables_as_sections(tables), notes=info["notes"], foot=closing_lines(source)
        )
        with atomic_folder(out) as temporary:
            write_csv(temporary / "comparison.csv", table)
            write_text(temporary / "comparison.tex", "\n".join(_latex(table, info)))
            write_text(temporary / "comparison.html", page)
            write_json(temporary / "comparison.json", data)
    head = f"comparison on {info['target']}" if "" in questions else "comparison of protocols"
    return Report("\n".join([head, *lead, *tables_as_text(tables), *closing_lines(source, info["notes"])]), data)


KEPT = ("encoder", "datasets", "licences", "synthetic")


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
            row: dict[str, Any] = {"result": result.name, "score": name} | interval_json(scores[name])
            row |= {"seeds": len(result.infos), "seed_sd": defined(deviations[name])}
            found = interval_json(differences[name]).values() if differences else [None] * 4
            rows.append(row | dict(zip(DIFFERENCE, found, strict=True)))
    return rows, compared.redrawn


def _joined(results: Sequence[Result], redrawn: int) -> dict[str, Any]:
    """What the report says of all results together."""
    first = results[0].info
    infos = [info for result in results for info in result.infos]
    notes = list(dict.fromkeys(note for info in infos for note in info["notes"]))
    if redrawn:
        notes.append(f"{redrawn} bootstrap draws lost a class and were drawn again")
    named = []
    for result in results:
        encoders = ", ".join(dict.fromkeys(info["encoder"]["path"] for info in result.infos))
        entry = {"name": result.name, "probe": result.info["probe"], "encoder": encoders}
        named.append(entry | {"seeds": len(result.infos)})
    saw_test = any(info["encoder"].get("training", {}).get("splits") == "all" for info in infos)
    return {key: first[key] for key in ("target", "classes", "counts", "datasets")} | {
        "encoder": {"training": {"splits": "all"} if saw_test else {}},
        "results": named,
        "licences": licences.merge(entry for info in infos for entry in info["licences"]),
        "synthetic": any(info["synthetic"] for info in infos),
        "notes": notes,
    }


def _lead(info: dict[str, Any], questions: Sequence[str], draws: int) -> list[str]:
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
        f"95% intervals and two-sided p from {draws} paired draws of {group}s; differences are against "
        f"{info['results'][0]['name']}."
    )
    if any(entry["seeds"] > 1 for entry in info["results"]):
        lines.append(
            f"Intervals and p are for these seeds under the same draws of {group}s; sd is that over the seeds."
        )
    return lines


def _value(row: pd.Series) -> str:
    return show(row) if pd.isna(row["seed_sd"]) else f"{show(row)}, sd {row['seed_sd']:.3f}"


def _difference(row: pd.Series) -> str:
    parts = dict(zip(("value", "low", "high", "p"), (row[name] for name in DIFFERENCE), strict=True))
    return show(parts, "+.3f") if pd.notna(parts["value"]) else "reference"


def _grid(rows: pd.DataFrame, cell: Callable[[pd.Series], str]) -> pd.DataFrame:
    """Results by main scores."""
    scores = [name for name in MAIN if name in set(rows["score"])]
    rows = rows[rows["score"].isin(scores)]
    cells = rows.assign(cell=[cell(row) for _, row in rows.iterrows()])
    grid = cells.pivot(index="result", columns="score", values="cell")
    return grid.loc[list(dict.fromkeys(rows["result"])), scores].rename_axis(index=None, columns=None)


def _parts(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each experiment and level, and how they are called."""
    keys = [key for key in ("experiment", "level") if key in table]
    return [(", ".join(key) + " level", rows) for key, rows in table.groupby(keys, sort=False)]


def _tables(table: pd.DataFrame) -> list[ReportTable]:
    tables = []
    for name, rows in _parts(table):
        for what, cell, column in (("scores", _value, "value"), ("differences", _difference, "difference")):
            grid = _grid(rows, cell)
            grid = grid.iloc[1:] if column == "difference" else grid
            figure = _figure(rows[rows[column].notna()], column)
            tables.append(ReportTable(f"{what}, {name}", grid.reset_index(names=""), (figure,)))
    return tables


def _figure(rows: pd.DataFrame, column: str) -> str:
    ends = ("low", "high") if column == "value" else ("difference_low", "difference_high")
    panels = []
    for name in (name for name in MAIN if name in set(rows["score"])):
        own = rows[rows["score"] == name]
        bars = [plots.Bar(row["result"], row[column], row[ends[0]], row[ends[1]]) for _, row in own.iterrows()]
        panels.append((name.replace("_", " "), bars))
    return plots.interval_plot(panels, zero=column == "difference")


def _latex(table: pd.DataFrame, info: dict[str, Any]) -> list[str]:
    """A booktabs table of the main scores of each experiment, at case level where there is one."""
    finest = {rows.get("experiment", rows["level"]).iloc[0]: (name, rows) for name, rows in _parts(table)}
    if "experiment" not in table:
        finest = dict([finest.popitem()])
    found = []
    for name, rows in finest.values():
        grid = _grid(rows, _value)
        grid.columns = [column.replace("_", " ") for column in grid.columns]
        caption = name if "experiment" in table else f"{info['target']}, {name}"
        caption = caption.replace("_", r"\_") + f", 95\\% intervals by {unit_of(info['datasets'])}."
        style = grid.style.format(escape="latex").format_index(escape="latex")
        found.append(style.to_latex(hrules=True, caption=caption))
    return found
