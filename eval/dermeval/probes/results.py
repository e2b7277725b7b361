"""The result of a probe: ``result.json``, a page of text, and a results folder."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.features.pool import Pool
from dermeval.probes import contamination
from dermeval.probes.folds import Fold, make_folds, patients_of
from dermeval.probes.intervals import show
from dermeval.probes.judge import PER_CLASS, Judged, Level, Probe, judge
from dermeval.probes.options import ProbeOptions
from dermeval.probes.recall import same_id_recall
from dermeval.probes.shots import Curve, curve_text, few_shot_curve
from dermeval.probes.task import Task, open_task
from dermssl import licences
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.files import write_json, write_parquet
from dermssl.paths import require_new_folder

OPTIONAL = {"by_k", "recall_at_1", "shots", "by_majority"}
"""Keys of ``result.json`` that are left out where there is nothing to say."""


@dataclass(frozen=True)
class Provenance:
    """What every report says of where its features come from, and under which licences."""

    encoder: dict[str, Any]
    datasets: list[dict[str, Any]]
    licences: list[dict[str, Any]]
    synthetic: bool

    @property
    def unit(self) -> str:
        """What a group is, in the singular."""
        return " or ".join(dict.fromkeys(entry["group"] for entry in self.datasets))

    @staticmethod
    def of(pool: Pool) -> "Provenance":
        """That of the pooled embeddings folders."""
        keys = ("name", "fingerprint", "synthetic", "group", "case", "patient_key")
        datasets = [{key: entry[key] for key in keys} for entry in pool.datasets]
        return Provenance(pool.encoder, datasets, pool.licences, any(entry["synthetic"] for entry in pool.licences))


@dataclass(frozen=True)
class ProbeResult(Provenance):
    """``result.json`` of `dermeval knn`, `linear` and further probes; the fields are its keys."""

    probe: str
    protocol: dict[str, Any]
    target: str
    classes: list[str]
    kind: str
    positive: str | None
    level: str
    settings: dict[str, Any]
    counts: dict[str, Any]
    levels: dict[str, Level]
    notes: list[str]
    contamination: dict[str, Any]
    by_k: list[dict[str, Any]] | None = None
    recall_at_1: list[dict[str, Any]] | None = None
    shots: list[dict[str, Any]] | None = None


def as_json(value: Any) -> Any:
    """A result, and the dataclasses in it, as ``result.json`` has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: as_json(held) for name, held in fields.items() if held is not None or name not in OPTIONAL}
    if isinstance(value, dict):
        return {key: as_json(held) for key, held in value.items()}
    return [as_json(held) for held in value] if isinstance(value, list | tuple) else value


def probe_report(probe: Probe, options: ProbeOptions, recall: bool = False) -> Report:
    """Run one probe as its command does: judge it, add recall@1 and the few-shot curve, write and print the result.

    Raises:
        InputError: unusable embeddings, target, split or output folder.
    """
    out = Path(options.out) if options.out else None
    if out:
        require_new_folder(out, options.overwrite, "result.json", options.embeddings, key="probe")
    task = open_task(options.embeddings, options.target)
    folds = make_folds(task, options.split, options.folds, options.seed)
    judged = judge(probe, task, folds, options.draws, options.seed)
    found = same_id_recall(task.pool, options.draws, options.seed) if recall else None
    curve = few_shot_curve(task, folds, options, probe) if options.shots else None
    result = _result(probe, task, folds, options, judged, found, curve)
    data = as_json(result)
    if out:
        with atomic_folder(out) as temporary:
            write_json(temporary / "result.json", data)
            table = curve.table_with(judged.predictions) if curve else judged.predictions.to_table()
            write_parquet(temporary / "predictions.parquet", table)
            if curve:
                curve.draw(temporary / "shots.png", data)
    return Report("\n".join(_text(result, task, judged.fitted.lines)), data)


def _result(
    probe: Probe,
    task: Task,
    folds: Sequence[Fold],
    options: ProbeOptions,
    judged: Judged,
    recall: list[dict[str, Any]] | None,
    curve: Curve | None,
) -> ProbeResult:
    scored = judged.predictions.frame
    split = options.split
    return ProbeResult(
        **vars(Provenance.of(task.pool)),
        probe=probe.name,
        protocol={"split": split, "folds": len(folds) if split == "folds" else None, "seed": options.seed},
        target=task.name,
        classes=list(task.classes),
        kind=task.target.kind,
        positive=task.target.positive,
        level=task.target.level,
        settings=judged.fitted.settings,
        counts={
            "labelled": len(task.labels),
            "fitted": [len(fold.train) for fold in folds],
            "scored": len(scored),
            "scored_groups": patients_of(scored),
        },
        levels=judged.levels,
        notes=[*task.notes, *judged.notes, *(curve.notes if curve else [])],
        contamination=judged.contamination,
        **judged.fitted.extra,
        recall_at_1=recall,
        shots=curve.points if curve else None,
    )


def _text(result: ProbeResult, task: Task, lines: Sequence[str]) -> list[str]:
    """Headline, scores at both levels, recall per class, what the probe says, notes, licences."""
    counts, split, fitted = result.counts, result.protocol["split"], result.counts["fitted"]
    folds = f"{result.protocol['folds']} folds by {task.unit}"
    how = folds if split == "folds" else f"fit on train, scored once on test; {task.split_origin}"
    votes = result.levels["case"].by_majority if "case" in result.levels else None
    majority = ", ".join(f"{name} {show(entry)}" for name, entry in (votes or {}).items())
    text = [
        f"{result.probe}: {result.target} of {', '.join(entry['name'] for entry in result.datasets)} ({how})",
        f"encoder: {result.encoder['path']} (fingerprint {result.encoder['fingerprint'][:12]})",
        f"{'-'.join(map(str, sorted({min(fitted), max(fitted)})))} images fitted, {counts['scored']} scored, of "
        f"{counts['scored_groups']} {task.unit}s; 95% intervals from {result.levels['image'].draws} draws of "
        f"{task.unit}s",
        "",
        score_table(result.levels),
        "",
        recall_table(result.levels),
        *(["", f"case level by majority vote of its images: {majority}"] if majority else []),
        "",
        *lines,
    ]
    for recall in result.recall_at_1 or []:
        text.append(
            f"same-{recall['kind']} recall@1 of {recall['dataset']}: {show(recall)} over {recall['queries']} images"
        )
    text += curve_text(result.shots or [], task.unit)
    return [*text, *contamination.lines(result.contamination, split, task.unit), *foot(result, result.notes)]


def score_table(levels: dict[str, Level]) -> str:
    """One line per score, one column per level."""
    shown = {
        f"{name} level": {key: show(entry) for key, entry in level.scores.items() if key not in PER_CLASS}
        for name, level in levels.items()
    }
    return pd.DataFrame(shown).to_string()


def recall_table(levels: dict[str, Level]) -> str:
    """Recall of each class with the number of images and cases behind it."""
    columns: dict[str, dict[str, Any]] = {}
    for name, level in levels.items():
        recall = level.scores["recall"]
        columns[f"{name}s"] = {f"recall of {key}": level.support[key] for key in recall}
        columns[f"{name} level"] = {f"recall of {key}": show(entry) for key, entry in recall.items()}
    return pd.DataFrame(columns).to_string()


def foot(source: Provenance, notes: Sequence[str] = ()) -> list[str]:
    """Notes, data warnings and licence lines that close every report."""
    text = ["", *[f"note: {note}" for note in notes]]
    if source.synthetic:
        text.append("SYNTHETIC data: these scores say nothing about patients")
    for entry in source.datasets:
        if not entry["patient_key"]:
            text.append(
                f"{entry['name']} has no patient key: patient leakage cannot be ruled out, "
                f"and intervals may be too narrow"
            )
    if source.encoder.get("training", {}).get("splits") == "all":
        text.append("the encoder was pretrained on all splits, test images included")
    return [*text, *licences.notice_lines(source.licences)]
