"""The result of a protocol as text, as a table of groups, and as an HTML page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import auc, confusion_matrix, roc_curve

from dermeval.pages import plots
from dermeval.pages.tables import ReportTable, show, tables_as_text
from dermeval.probes.contamination import sides_table
from dermeval.probes.groups import is_ranked
from dermeval.probes.predictions import Predictions
from dermeval.probes.report import PROTOCOL, FeatureSource, report_page, report_text
from dermeval.statistics.metrics import BINS, confidence_bins

SHOWN = (
    *("balanced_accuracy", "macro_f1", "positive_f1", "positive_precision", "positive_recall"),
    *("macro_auroc", "auroc", "sensitivity_at_90_specificity"),
)
SHIFTED = ("balanced_accuracy", "macro_f1", "positive_f1")
CLASS_SCORES = {"recall": "recall", "precision": "precision", "auroc_per_class": "AUROC"}
Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class ProtocolResult(FeatureSource):
    """``result.json`` of `dermeval evaluate`. The fields are its keys."""

    protocol: str
    seed: int
    draws: int
    experiments: list[dict[str, Any]]
    notes: list[str]


def text_page(result: ProtocolResult) -> str:
    """All tables as aligned text, then notes and licences."""
    return report_text([*_lead(result), *tables_as_text(_tables(result))], result, _notes(result))


def html_page(result: ProtocolResult, predictions: Sequence[Predictions | None]) -> str:
    """The same tables as one page, with plots by group, and by class for the experiments that have ``predictions``."""
    tables = _tables(result, predictions)
    title, *lead = _lead(result)
    return report_page(title, lead, tables, result, _notes(result), PROTOCOL)


def groups_table(result: ProtocolResult) -> pd.DataFrame:
    """The groups as a long table: a row for each experiment, level, attribute, value and score."""
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


def _lead(result: ProtocolResult) -> list[str]:
    draws = f"95% intervals from {result.draws} draws of {result.unit}s"
    return [f"protocol {result.protocol} on {result.names}", result.encoder_line, draws]


def _notes(result: ProtocolResult) -> list[str]:
    own = [f"{one['target']}, {one['experiment']}: {note}" for one in result.experiments for note in one["notes"]]
    return list(dict.fromkeys([*result.notes, *own]))


def _tables(result: ProtocolResult, predictions: Sequence[Predictions | None] | None = None) -> list[ReportTable]:
    """Tables in reading order: scores, unseen groups, contamination, classes, groups; with figures for a page."""
    tables, unit = [], result.unit
    experiments = list(zip(result.experiments, predictions or [None] * len(result.experiments), strict=True))
    for target in dict.fromkeys(entry["target"] for entry in result.experiments):
        own = [(entry, images) for entry, images in experiments if entry["target"] == target]
        plain = [(entry, images) for entry, images in own if "groups" in entry]
        scores = [row for entry, _ in plain for row in _score_rows(entry)]
        shifted = [row for entry, _ in own for row in _shift_rows(entry)]
        seen = [_keys(entry) | row for entry, _ in plain for row in sides_table(entry["contamination"], unit)]
        tables.append(ReportTable(f"{target}: scores", pd.DataFrame(scores)))
        if shifted:
            tables.append(ReportTable(f"{target}: groups unseen in training", pd.DataFrame(shifted)))
        if seen:
            tables.append(ReportTable(f"{target}: clean and contaminated images", pd.DataFrame(seen)))
        for entry, images in plain:
            name = f"{entry['probe']}, {entry['experiment']}"
            rows = pd.DataFrame(_class_rows(entry), dtype=object)
            figures = () if images is None else class_figures(images, entry["levels"]["image"]["scores"])
            tables.append(ReportTable(f"{target} by class: {name}", rows, figures))
            for attribute, levels in entry["groups"].items():
                rows = pd.DataFrame(_group_rows(levels, unit), dtype=object)
                figures = () if predictions is None else _group_figures(levels)
                tables.append(ReportTable(f"{target} by {attribute.replace('_', ' ')}: {name}", rows, figures))
    return tables


def _keys(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("experiment", "probe")}


def _score_rows(entry: dict[str, Any]) -> Rows:
    for level, scored in entry["levels"].items():
        for name, scores in ((level, scored["scores"]), (f"{level}, majority vote", scored.get("by_majority"))):
            if scores:
                shown = {score: show(scores[score]) for score in SHOWN if score in scores}
                yield _keys(entry) | {"level": name, "scored": scored["rows"]} | shown


def _class_rows(entry: dict[str, Any]) -> Rows:
    """Recall, precision and AUROC of each class, with the number of scored images or cases."""
    for level, scored in entry["levels"].items():
        for label, number in scored["support"].items():
            found = {name: scored["scores"].get(key, {}).get(label) for key, name in CLASS_SCORES.items()}
            shown = {name: show(score) for name, score in found.items() if score}
            yield {"class": label, "level": level, "scored": number} | shown


def _shift_rows(entry: dict[str, Any]) -> Rows:
    for level, scores in entry.get("against_size_matched", {}).items():
        for name in (name for name in SHIFTED if name in scores and level in entry["levels"]):
            without, matched = entry["levels"][level]["scores"][name], scores[name]["control"]
            shown = {"without": show(without), "size-matched": show(matched)}
            shown["difference"] = show(scores[name]["difference"], "+.3f")
            yield _keys(entry) | {"level": level, "score": name} | shown


def _group_rows(levels: dict[str, Any], unit: str) -> Rows:
    for level, scored in levels.items():
        most = max((group["classes"] for group in scored["groups"]), default=0)
        for group in scored["groups"]:
            row = {"group": group["value"], "level": level, f"{unit}s": group["patients"], "scored": group["rows"]}
            names = ("balanced_accuracy", "macro_f1")
            shown = {name: show(group[name]) if name in group else group["status"] for name in names}
            yield row | {"classes": group["classes"]} | shown
        if gap := scored["gap"]:
            left = ", ".join(group["value"] for group in scored["groups"] if not is_ranked(group, most))
            name = f"worst {gap['worst']}, best {gap['best']}" + (f", not ranked {left}" if left else "")
            yield {"group": name, "level": level, "balanced_accuracy": f"gap {show(gap)}"}


def class_figures(images: Predictions, scores: Mapping[str, Any]) -> tuple[str, ...]:
    """Confusion matrix, ROC curves and reliability of the images, with the intervals of AUROC that ``scores`` have."""
    truth, probabilities, classes = images.truth, images.probabilities, images.classes
    confidence, guess = probabilities.max(1), probabilities.argmax(1)
    curves = {}
    for label in np.unique(truth) if images.positive is None else [images.positive]:
        false, true, _ = roc_curve(truth == label, probabilities[:, label])
        known = scores.get("auroc") or scores.get("auroc_per_class", {}).get(classes[label])
        area = show(known) if known else f"{auc(false, true):.3f}"
        curves[f"{classes[label]}, AUROC {area}"] = false, true
    bins = confidence_bins(confidence)
    rows = np.bincount(bins, minlength=BINS)
    filled = rows > 0
    means = [np.bincount(bins, values, BINS)[filled] / rows[filled] for values in (confidence, guess == truth)]
    return (
        plots.confusion_plot(confusion_matrix(truth, guess, labels=range(len(classes))), classes),
        plots.roc_plot(curves),
        plots.reliability_plot(means[0], means[1], rows[filled]),
    )


def _group_figures(levels: dict[str, Any]) -> tuple[str, ...]:
    """Balanced accuracy by group at both levels, or at image level where they differ in groups; none without groups."""
    panels = []
    for level, scored in levels.items():
        groups = [group for group in scored["groups"] if group["status"] == "scored"]
        bars = [plots.Bar(group["value"], **group["balanced_accuracy"]) for group in groups]
        panels.append((f"balanced accuracy, {level} level", bars))
    same = [bar.label for bar in panels[0][1]] == [bar.label for bar in panels[-1][1]]
    return (plots.interval_plot(panels if same else panels[:1], same_axis=True),) if panels[0][1] else ()
