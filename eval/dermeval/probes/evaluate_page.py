"""The result of a protocol as text, as a table of groups, and as an HTML page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from dermeval.pages import plots
from dermeval.pages.tables import ReportTable, show, tables_as_text
from dermeval.probes.contamination import sides_table
from dermeval.probes.groups import is_ranked
from dermeval.probes.predictions import Predictions
from dermeval.probes.report import PROTOCOL, report_page, report_text
from dermeval.statistics.metrics import BINS, confidence_bins

if TYPE_CHECKING:
    from dermeval.probes.evaluate import ProtocolResult

SHOWN = (
    "balanced_accuracy",
    "macro_f1",
    "positive_f1",
    "positive_precision",
    "positive_recall",
    "macro_auroc",
    "auroc",
    "sensitivity_at_90_specificity",
)
SHIFTED = ("balanced_accuracy", "macro_f1", "positive_f1")
CLASS_SCORES = {"recall": "recall", "precision": "precision", "auroc_per_class": "AUROC"}


def text_page(result: "ProtocolResult") -> str:
    """All experiments as aligned tables, then groups, notes and licences."""
    return report_text([*_lead(result), *tables_as_text(_tables(result))], result, _notes(result))


def html_page(result: "ProtocolResult", predictions: Sequence[Predictions | None] = ()) -> str:
    """The same tables as one page, with plots of groups, and of classes from each experiment's ``predictions``."""
    tables = _tables(result, dict(enumerate(predictions)))
    return report_page(f"Protocol {result.protocol}", _lead(result), tables, result, _notes(result), PROTOCOL)


def groups_table(result: "ProtocolResult") -> pd.DataFrame:
    """One row per experiment, level, attribute, value and score: the long form behind the group tables."""
    rows = []
    for entry in result.experiments:
        for attribute, levels in entry.get("groups", {}).items():
            for level, group in ((level, group) for level, scored in levels.items() for group in scored["groups"]):
                keys = {key: entry[key] for key in ("target", "probe", "experiment")}
                keys |= {"level": level, "attribute": attribute}
                keys |= {key: group[key] for key in ("value", "patients", "rows", "classes", "status")}
                scored = {name: value for name, value in group.items() if isinstance(value, dict)}
                for name, value in (scored or {"": {}}).items():
                    ends = {key: value.get(key) for key in ("low", "high")} | {"narrow": "narrow" in value}
                    rows.append(keys | {"score": name, "estimate": value.get("value")} | ends)
    return pd.DataFrame(rows)


def _lead(result: "ProtocolResult") -> list[str]:
    return [
        f"protocol {result.protocol} on {result.names}",
        result.encoder_line,
        f"95% intervals from {result.draws} draws of {result.unit}s",
    ]


def _notes(result: "ProtocolResult") -> list[str]:
    own = [
        f"{entry['target']}, {entry['experiment']}: {note}" for entry in result.experiments for note in entry["notes"]
    ]
    return list(dict.fromkeys([*result.notes, *own]))


def _tables(result: "ProtocolResult", predictions: dict[int, Predictions | None] | None = None) -> list[ReportTable]:
    """Tables in reading order: scores, generalisation, classes, groups."""
    tables = []
    for target in dict.fromkeys(entry["target"] for entry in result.experiments):
        entries = {index: entry for index, entry in enumerate(result.experiments) if entry["target"] == target}
        plain = {index: entry for index, entry in entries.items() if "groups" in entry}
        shifted = [row for entry in entries.values() for row in _shift_rows(entry)]
        seen = [row for entry in plain.values() for row in _seen_rows(entry, result.unit)]
        scores = pd.DataFrame([row for entry in plain.values() for row in _score_rows(entry)])
        tables.append(ReportTable(f"{target}: scores", scores))
        if shifted:
            tables.append(ReportTable(f"{target}: groups unseen in training", pd.DataFrame(shifted)))
        if seen:
            heading = f"{target}: images clean of pretraining, and contaminated"
            tables.append(ReportTable(heading, pd.DataFrame(seen)))
        for index, entry in plain.items():
            name = f"{entry['probe']}, {entry['experiment']}"
            figures = _class_figures((predictions or {}).get(index), entry)
            tables.append(
                ReportTable(f"{target} by class: {name}", pd.DataFrame(_class_rows(entry), dtype=object), figures)
            )
            for attribute, levels in entry["groups"].items():
                figure = _group_figure(levels) if predictions is not None else None
                rows = pd.DataFrame(_group_rows(levels, result.unit), dtype=object)
                heading = f"{target} by {attribute.replace('_', ' ')}: {name}"
                tables.append(ReportTable(heading, rows, (figure,) if figure else ()))
    return tables


def _score_rows(entry: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for level, scored in entry["levels"].items():
        keys = {"experiment": entry["experiment"], "probe": entry["probe"]}
        for name, scores in ((level, scored["scores"]), (f"{level}, majority vote", scored.get("by_majority"))):
            if scores:
                shown = {score: show(scores[score]) for score in SHOWN if score in scores}
                rows.append(keys | {"level": name, "scored": scored["rows"]} | shown)
    return rows


def _class_rows(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Recall, precision and AUROC of each class, with the images or cases behind them."""
    rows = []
    for level, scored in entry["levels"].items():
        for label, number in scored["support"].items():
            found = {
                name: show(scored["scores"][key][label])
                for key, name in CLASS_SCORES.items()
                if label in scored["scores"].get(key, {})
            }
            rows.append({"class": label, "level": level, "scored": number} | found)
    return rows


def _seen_rows(entry: dict[str, Any], unit: str) -> list[dict[str, Any]]:
    if not entry["contamination"].get("sides"):
        return []
    keys = {"experiment": entry["experiment"], "probe": entry["probe"]}
    return [keys | row for row in sides_table(entry["contamination"], unit)]


def _shift_rows(entry: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for level, scores in entry.get("against_size_matched", {}).items():
        for name in (name for name in SHIFTED if name in scores and level in entry["levels"]):
            difference = scores[name]["difference"]
            rows.append(
                {"experiment": entry["experiment"], "probe": entry["probe"], "level": level, "score": name}
                | {
                    "without": show(entry["levels"][level]["scores"][name]),
                    "size-matched": show(scores[name]["control"]),
                }
                | {"difference": show(difference, "+.3f")}
            )
    return rows


def _group_rows(levels: dict[str, Any], unit: str) -> list[dict[str, Any]]:
    rows = []
    for level, scored in levels.items():
        most = max(group["classes"] for group in scored["groups"])
        for group in scored["groups"]:
            row = {"group": group["value"], "level": level, f"{unit}s": group["patients"], "scored": group["rows"]}
            row["classes"] = group["classes"]
            for name in ("balanced_accuracy", "macro_f1"):
                row[name] = show(group[name]) if name in group else group["status"]
            rows.append(row)
        if scored["gap"]:
            gap, left = scored["gap"], [g["value"] for g in scored["groups"] if not is_ranked(g, most)]
            name = f"worst {gap['worst']}, best {gap['best']}" + (f", not ranked {', '.join(left)}" if left else "")
            rows.append({"group": name, "level": level, "balanced_accuracy": f"gap {show(gap)}"})
    return rows


def _class_figures(predictions: Predictions | None, entry: dict[str, Any]) -> tuple[str, ...]:
    """Confusion matrix, ROC curves and reliability of the images."""
    if predictions is None:
        return ()
    truth, probabilities, classes = predictions.truth, predictions.probabilities, predictions.classes
    confusion = np.zeros((len(classes), len(classes)))
    np.add.at(confusion, (truth, probabilities.argmax(1)), 1)
    scores, curves = entry["levels"]["image"]["scores"], {}
    for label in np.unique(truth) if entry["positive"] is None else [classes.index(entry["positive"])]:
        false, true, _ = roc_curve(truth == label, probabilities[:, label])
        area = scores["auroc"] if "auroc" in scores else scores["auroc_per_class"][classes[label]]
        curves[f"{classes[label]}, AUROC {show(area)}"] = false, true
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    bins = confidence_bins(confidence)
    rows = np.bincount(bins, minlength=BINS)
    filled = rows > 0
    means = [np.bincount(bins, values, BINS)[filled] / rows[filled] for values in (confidence, right)]
    return (
        plots.confusion_plot(confusion, classes),
        plots.roc_plot(curves),
        plots.reliability_plot(means[0], means[1], rows[filled]),
    )


def _group_figure(levels: dict[str, Any]) -> str | None:
    """Balanced accuracy per group at both levels."""
    panels = []
    for level, scored in levels.items():
        bars = [
            plots.Bar(group["value"], **group["balanced_accuracy"])
            for group in scored["groups"]
            if group["status"] == "scored"
        ]
        panels.append((f"balanced accuracy, {level} level", bars))
    same = [bar.label for bar in panels[0][1]] == [bar.label for bar in panels[-1][1]]
    return plots.interval_plot(panels if same else panels[:1], same_axis=True) if panels[0][1] else None
