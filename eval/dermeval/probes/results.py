"""Scores of predictions as JSON, as a page of text, and as a results folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.features.pool import Pool
from dermeval.probes.folds import Fold, patients_of
from dermeval.probes.intervals import interval_json, show
from dermeval.probes.predictions import Predictions, by_case
from dermeval.probes.shots import Curve
from dermeval.probes.task import Task
from dermeval.statistics.bootstrap import bootstrap
from dermssl import licences
from dermssl.files import atomic_folder, write_json, write_parquet

PER_CLASS = ("precision", "recall", "f1", "auroc_per_class", "average_precision_per_class")
HARD = ("accuracy", "balanced_accuracy", "macro_f1", "positive_f1")


def score(predictions: Predictions, positive: int | None, draws: int, seed: int) -> dict[str, Any]:
    """All scores of ``predictions`` with intervals by patient, as written to ``result.json``.

    Per-class scores are those of the classes that occur in the truth.
    """
    groups = predictions.frame["group_id"].to_numpy(dtype=object)
    result = bootstrap(predictions.truth, predictions.probabilities, groups, positive, draws, seed)
    scores = {name: interval_json(interval, predictions.classes) for name, interval in result.scores.items()}
    support = np.bincount(predictions.truth, minlength=len(predictions.classes))
    absent = [name for name, rows in zip(predictions.classes, support, strict=True) if rows == 0]
    for name in (name for name in PER_CLASS if name in scores):
        scores[name] = {key: value for key, value in scores[name].items() if key not in absent}
    return {
        "scores": scores,
        "rows": len(predictions),
        "support": dict(zip(predictions.classes, map(int, support), strict=True)),
        "clusters": result.clusters,
        "draws": result.draws,
        "redrawn": result.redrawn,
    }


def score_levels(images: Predictions, positive: int | None, draws: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """`score` at image and at case level, and notes on what the case level left out."""
    cases, conflicting = by_case(images)
    levels = {"image": score(images, positive, draws, seed)}
    notes = []
    if conflicting:
        notes.append(f"{conflicting} cases have images with different labels and are out of case-level scores")
    if len(np.unique(cases.truth)) > 1:
        levels["case"] = score(cases, positive, draws, seed)
        levels["case"]["by_majority"] = _hard_scores(by_case(images, "majority")[0], positive, draws, seed)
    else:
        notes.append("fewer than two classes are left at case level, which is not scored")
    redrawn = sum(level["redrawn"] for level in levels.values())
    if redrawn:
        notes.append(f"{redrawn} bootstrap draws lost a class and were drawn again")
    return levels, notes


def _hard_scores(cases: Predictions, positive: int | None, draws: int, seed: int) -> dict[str, Any]:
    """The scores that need no probability, as votes make none."""
    scores = score(cases, positive, draws, seed)["scores"]
    return {name: scores[name] for name in HARD if name in scores}


def describe(
    probe: str, task: Task, folds: Sequence[Fold], split: str, settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Everything of ``result.json`` that is known before scoring: protocol, target, provenance, counts."""
    scored = np.concatenate([fold.test for fold in folds])
    protocol = {"split": split, "folds": len(folds) if split == "folds" else None, "seed": seed}
    return {
        "probe": probe,
        "protocol": protocol,
        "target": task.name,
        "classes": list(task.classes),
        "kind": task.target.kind,
        "positive": task.target.positive,
        "level": task.target.level,
        "settings": settings,
        **provenance(task.pool),
        "counts": {
            "labelled": len(task.labels),
            "fitted": [len(fold.train) for fold in folds],
            "scored": len(scored),
            "scored_groups": patients_of(task.frame.iloc[scored]),
        },
    }


def provenance(pool: Pool) -> dict[str, Any]:
    """Encoder, data sets, licences and the warnings that every report foots with."""
    return {
        "encoder": pool.encoder,
        "datasets": [
            {key: entry[key] for key in ("name", "fingerprint", "synthetic", "group", "case", "patient_key")}
            for entry in pool.datasets
        ],
        "licences": pool.licences,
        "synthetic": any(entry["synthetic"] for entry in pool.licences),
    }


def write_results(folder: Path, result: dict[str, Any], predictions: Predictions, curve: Curve | None = None) -> None:
    """Write a results folder atomically, with the few-shot ``curve`` where there is one."""
    with atomic_folder(folder) as temporary:
        write_json(temporary / "result.json", result)
        table = curve.table_with(predictions) if curve else predictions.to_table()
        write_parquet(temporary / "predictions.parquet", table)
        if curve:
            curve.draw(temporary / "shots.png", result)


def page(result: dict[str, Any], extra: Sequence[str] = ()) -> str:
    """The report of one probe as text: headline, scores at both levels, recall per class, notes, licences."""
    group = result["datasets"][0]["group"]
    counts, levels, protocol = result["counts"], result["levels"], result["protocol"]
    how = (
        f"{protocol['folds']} folds by {group}" if protocol["split"] == "folds" else "fit on train, scored once on test"
    )
    names = ", ".join(entry["name"] for entry in result["datasets"])
    fitted = f"{min(counts['fitted'])}-{max(counts['fitted'])}" if len(counts["fitted"]) > 1 else counts["fitted"][0]
    return "\n".join(
        [
            f"{result['probe']}: {result['target']} of {names} ({how})",
            f"encoder: {result['encoder']['path']} (fingerprint {result['encoder']['fingerprint'][:12]})",
            f"{fitted} images fitted, {counts['scored']} scored, of {counts['scored_groups']} {group}s; "
            f"95% intervals from {levels['image']['draws']} draws of {group}s",
            "",
            score_table(levels),
            "",
            recall_table(levels),
            *_majority_lines(levels),
            *extra,
            *foot(result),
        ]
    )


def score_table(levels: dict[str, Any]) -> str:
    """One line per score, one column per level."""
    shown = {
        f"{level} level": {name: show(entry) for name, entry in scored["scores"].items() if name not in PER_CLASS}
        for level, scored in levels.items()
    }
    return pd.DataFrame(shown).to_string()


def recall_table(levels: dict[str, Any]) -> str:
    """Recall of each class with the number of images and cases behind it."""
    columns: dict[str, dict[str, Any]] = {}
    for level, scored in levels.items():
        recall = scored["scores"]["recall"]
        columns[f"{level}s"] = {f"recall of {name}": scored["support"][name] for name in recall}
        columns[f"{level} level"] = {f"recall of {name}": show(entry) for name, entry in recall.items()}
    return pd.DataFrame(columns).to_string()


def _majority_lines(levels: dict[str, Any]) -> list[str]:
    votes = levels.get("case", {}).get("by_majority", {})
    shown = ", ".join(f"{name} {show(entry)}" for name, entry in votes.items())
    return ["", f"case level by majority vote of its images: {shown}"] if votes else []


def foot(result: dict[str, Any]) -> list[str]:
    """Notes, data warnings and licence lines that close every report."""
    text = ["", *[f"note: {note}" for note in result["notes"]]]
    if result["synthetic"]:
        text.append("SYNTHETIC data: these scores say nothing about patients")
    for entry in result["datasets"]:
        if not entry["patient_key"]:
            text.append(
                f"{entry['name']} has no patient key: patient leakage cannot be ruled out, "
                f"and intervals may be too narrow"
            )
    if result["encoder"].get("training", {}).get("splits") == "all":
        text.append("the encoder was pretrained on all splits, test images included")
    return [*text, *licences.lines(result["licences"])]
