"""``dermeval compare``: encoders or probes side by side, with paired differences on the same patients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.pages import plots
from dermeval.probes.intervals import interval_json, number
from dermeval.probes.judge import PER_CLASS
from dermeval.probes.options import CompareOptions
from dermeval.probes.predictions import Predictions, by_case
from dermeval.probes.results import Provenance, foot
from dermeval.probes.results_folder import Result, open_results
from dermeval.statistics import comparison as statistics
from dermeval.statistics.comparison import Difference
from dermssl import licences
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.files import write_csv, write_json, write_text
from dermssl.page import Section, render
from dermssl.paths import require_new_folder

MAIN = ("balanced_accuracy", "macro_f1", "macro_auroc", "auroc", "positive_f1", "accuracy")


def compare(options: CompareOptions) -> Report:
    """Compare results folders; see `CompareOptions`.

    Raises:
        InputError: the folders do not answer the same question on the same images, or the output exists.
    """
    out = Path(options.out) if options.out else None
    if out:
        require_new_folder(out, options.overwrite, "comparison.json", options.results, key="rows")
    results = open_results(options.results)
    rows, redrawn = _image_and_case(results, options)
    table = pd.DataFrame(rows)
    info = _joined(results, redrawn)
    data = info | {"rows": rows, "draws": options.draws}
    if out:
        with atomic_folder(out) as temporary:
            write_csv(temporary / "comparison.csv", table)
            write_text(temporary / "comparison.tex", latex(table, info))
            write_text(temporary / "comparison.html", page(table, info, options.draws))
            write_json(temporary / "comparison.json", data)
    return Report(_text(table, info, options.draws), data)


def _image_and_case(results: Sequence[Result], options: CompareOptions) -> tuple[list[dict[str, Any]], int]:
    images = [result.predictions for result in results]
    rows, redrawn = _level("image", results, images, options)
    cases = [[by_case(seed)[0] for seed in seeds] for seeds in images]
    if len(np.unique(cases[0][0].truth)) > 1:
        case_rows, case_redrawn = _level("case", results, cases, options)
        rows, redrawn = rows + case_rows, redrawn + case_redrawn
    return rows, redrawn


def _level(
    level: str, results: Sequence[Result], predictions: Sequence[Sequence[Predictions]], options: CompareOptions
) -> tuple[list[dict[str, Any]], int]:
    """One row per result and score: value, interval, and the paired difference against the first result."""
    first = predictions[0][0]
    compared = statistics.compare(
        first.truth,
        [np.stack([seed.probabilities for seed in seeds]) for seeds in predictions],
        first.frame["group_id"],
        results[0].positive,
        options.draws,
        options.seed,
    )
    rows = []
    parts = zip(results, compared.scores, compared.deviations, [None, *compared.differences], strict=True)
    for result, scores, deviations, differences in parts:
        for name in (name for name in scores if name not in PER_CLASS):
            row: dict[str, Any] = {"level": level, "result": result.name, "score": name}
            row |= interval_json(scores[name])
            row |= {"seeds": len(result.infos), "seed_sd": number(deviations[name])}
            rows.append(row | _difference_json(differences[name] if differences else None))
    return rows, compared.redrawn


def _difference_json(difference: Difference | None) -> dict[str, float | None]:
    names = ("difference", "difference_low", "difference_high", "p")
    if difference is None:
        return dict.fromkeys(names)
    parts = (difference.value, difference.low, difference.high, difference.p)
    return {name: number(part) for name, part in zip(names, parts, strict=True)}


def _joined(results: Sequence[Result], redrawn: int) -> dict[str, Any]:
    """What the report says of all results together, with the footing of `dermeval.probes.results.foot`."""
    first = results[0].info
    infos = [info for result in results for info in result.infos]
    notes = list(dict.fromkeys(note for info in infos for note in info["notes"]))
    if redrawn:
        notes.append(f"{redrawn} bootstrap draws lost a class and were drawn again")
    training = {"splits": "all"} if any(_saw_test(info) for info in infos) else {}
    return {
        "target": first["target"],
        "classes": first["classes"],
        "counts": first["counts"],
        "datasets": first["datasets"],
        "encoder": {"training": training},
        "results": [_named(result) for result in results],
        "licences": licences.merge(entry for info in infos for entry in info["licences"]),
        "synthetic": any(info["synthetic"] for info in infos),
        "notes": notes,
    }


def _provenance(info: dict[str, Any]) -> Provenance:
    return Provenance(info["encoder"], info["datasets"], info["licences"], info["synthetic"])


def _named(result: Result) -> dict[str, Any]:
    encoders = list(dict.fromkeys(info["encoder"]["path"] for info in result.infos))
    entry = {"name": result.name, "probe": result.info["probe"], "encoder": ", ".join(encoders)}
    return entry | {"seeds": len(result.infos)}


def _saw_test(info: dict[str, Any]) -> bool:
    return info["encoder"].get("training", {}).get("splits") == "all"


def _main(table: pd.DataFrame) -> list[str]:
    return [name for name in MAIN if name in set(table["score"])]


def _value(row: pd.Series) -> str:
    text = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return text if pd.isna(row["seed_sd"]) else f"{text}, sd {row['seed_sd']:.3f}"


def _difference(row: pd.Series) -> str:
    if pd.isna(row["difference"]):
        return "reference"
    return f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}], p {row['p']:.3f}"


def _grid(table: pd.DataFrame, level: str, show: Any) -> pd.DataFrame:
    """Results by main scores, each cell as ``show`` writes it."""
    rows = table[(table["level"] == level) & table["score"].isin(_main(table))]
    cells = rows.assign(cell=[show(row) for _, row in rows.iterrows()])
    grid = cells.pivot(index="result", columns="score", values="cell")
    return grid.loc[list(dict.fromkeys(rows["result"])), _main(table)].rename_axis(index=None, columns=None)


def _lead(info: dict[str, Any], draws: int) -> list[str]:
    group, counts = info["datasets"][0]["group"], info["counts"]
    lines = [
        f"{len(info['results'])} results on the same {counts['scored']} images of {counts['scored_groups']} {group}s."
    ]
    for entry in info["results"]:
        mean = f"mean of {entry['seeds']} seeds, " if entry["seeds"] > 1 else ""
        lines.append(f"{entry['name']}: {mean}{entry['probe']} on {entry['encoder']}")
    lines.append(
        f"95% intervals and two-sided p from {draws} paired draws of {group}s; differences are against "
        f"{info['results'][0]['name']}."
    )
    if any(entry["seeds"] > 1 for entry in info["results"]):
        lines.append(
            f"Intervals and p are for these seeds under the same draws of {group}s; sd is that over the seeds."
        )
    return lines


def _text(table: pd.DataFrame, info: dict[str, Any], draws: int) -> str:
    text = [f"comparison on {info['target']}", *_lead(info, draws)]
    for level in dict.fromkeys(table["level"]):
        text += ["", f"{level} level", _grid(table, level, _value).to_string()]
        text += ["", "difference", _grid(table, level, _difference).iloc[1:].to_string()]
    return "\n".join([*text, *foot(_provenance(info), info["notes"])])


def latex(table: pd.DataFrame, info: dict[str, Any]) -> str:
    """A booktabs table of the main scores at the finest level that counts (case where there is one)."""
    level = "case" if "case" in set(table["level"]) else "image"
    grid = _grid(table, level, _value)
    grid.columns = [name.replace("_", " ") for name in grid.columns]
    target = info["target"].replace("_", r"\_")
    caption = f"{target}, {level} level, 95\\% intervals by {info['datasets'][0]['group']}."
    return grid.style.format(escape="latex").format_index(escape="latex").to_latex(hrules=True, caption=caption)


def page(table: pd.DataFrame, info: dict[str, Any], draws: int) -> str:
    """The comparison as one HTML page with plots of scores and differences."""
    sections = []
    for level in dict.fromkeys(table["level"]):
        for heading, show, column, zero in (
            (f"Scores at {level} level", _value, "value", False),
            (f"Differences at {level} level", _difference, "difference", True),
        ):
            grid = _grid(table, level, show)
            grid = grid.iloc[1:] if zero else grid
            rows = [[name, *cells] for name, cells in zip(grid.index, grid.to_numpy().tolist(), strict=True)]
            columns = ["", *(name.replace("_", " ") for name in grid.columns)]
            sections.append(Section(heading, (), columns, rows, [_figure(table, level, column, zero)]))
    title, lead, foot_lines = f"Comparison on {info['target']}", _lead(info, draws), foot(_provenance(info))
    return render(title=title, lead=lead, sections=sections, notes=info["notes"], foot=foot_lines)


def _figure(table: pd.DataFrame, level: str, column: str, zero: bool) -> str:
    ends = ("difference_low", "difference_high") if zero else ("low", "high")
    rows = table[(table["level"] == level) & table[column].notna()]
    panels = []
    for name in _main(table):
        bars = [
            plots.Bar(row["result"], row[column], row[ends[0]], row[ends[1]])
            for _, row in rows[rows["score"] == name].iterrows()
        ]
        panels.append((name.replace("_", " "), bars))
    return plots.interval_plot(panels, zero)
