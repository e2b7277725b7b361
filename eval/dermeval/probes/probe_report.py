"""The report of `dermeval knn`, `linear` and `finetune`: a page of text, and a results folder."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dermeval.features.pool import PooledEmbeddings
from dermeval.pages.tables import show
from dermeval.probes.contamination import contamination_lines
from dermeval.probes.folds import left_out_of, make_folds
from dermeval.probes.judge import PER_CLASS, Judgement, Level, Probe, judge
from dermeval.probes.kept import KeptFits, KeptProbe
from dermeval.probes.options import FinetuneOptions, ProbeOptions
from dermeval.probes.report import FeatureSource, report_text
from dermeval.probes.shots import curve_text, few_shot_curve, scarce_classes
from dermeval.probes.task import Task, constant_features
from dermeval.statistics.bootstrap import MEAN, paired_means, require_draws
from dermssl import neighbours
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.errors import counted
from dermssl.files import write_json, write_parquet
from dermssl.parser import refuse_unused
from dermssl.paths import require_new_folder

OPTIONAL = {"by_k", "recall_at_1", "shots", "by_majority"}
"""Keys that ``result.json`` leaves out where they are None."""
WRITTEN = ("result.json", "predictions.parquet", "shots.png")
"""Files of a results folder. Earlier versions also wrote ``shots.png``."""


@dataclass(frozen=True)
class ProbeResult(FeatureSource):
    """``result.json`` of `dermeval knn`, `linear` and `finetune`; the fields are its keys."""

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


def result_json(result: Any) -> dict[str, Any]:
    """A result, and the dataclasses in it, as in ``result.json``."""

    def without_empty(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in items if value is not None or name not in OPTIONAL}

    return dataclasses.asdict(result, dict_factory=without_empty)


def probe_report(
    probe: Probe, task: Task, options: ProbeOptions | FinetuneOptions, inputs: Sequence[str], recall: bool = False
) -> Report:
    """Run one probe as its command does: judge it, add recall@1 and the few-shot curve, and write the results folder.

    ``inputs`` are the folders that the command reads, which the output may not replace.
    """
    require_draws(options.draws)
    if options.split == "official":
        refuse_unused(options, ["folds"], "--split folds")
    if isinstance(options, ProbeOptions) and not options.shots:
        refuse_unused(options, ["shot_draws"], "--shots")
    out = Path(options.out) if options.out else None
    if out:
        require_new_folder(out, options.overwrite, WRITTEN, inputs, "probe", probe.name)
    kept = KeptFits(options.out)
    probe = KeptProbe(probe, kept)
    folds = make_folds(task, options.split, options.folds, options.seed)
    left = left_out_of(task, folds[0]) if options.split == "official" else []
    few = options if isinstance(options, ProbeOptions) and options.shots else None
    scarce = scarce_classes(task, folds, few.shots) if few else []
    judged = judge(probe, task, folds, options.draws, options.seed)
    points, drawn = few_shot_curve(task, folds, few, probe) if few else ([], pd.DataFrame())
    number = len(folds) if options.split == "folds" else None
    result = ProbeResult(
        **vars(FeatureSource.of(task.pool)),
        probe=probe.name,
        protocol={"split": options.split, "folds": number, "seed": options.seed},
        target=task.name,
        classes=list(task.classes),
        **{name: getattr(task.target, name) for name in ("kind", "positive", "level")},
        settings=judged.fitted.settings,
        counts={"labelled": len(task.labels)} | judged.counts,
        levels=judged.levels,
        notes=[*task.notes, *left, *constant_features(task.features), *judged.notes, *scarce],
        contamination=judged.contamination,
        **judged.fitted.extra,
        recall_at_1=same_id_recall(task.pool, options.draws, options.seed) if recall else None,
        shots=points or None,
    )
    data = result_json(result)
    if out:
        table = judged.fitted.predictions.to_frame()
        with atomic_folder(out) as temporary:
            write_json(temporary / "result.json", data)
            if points:  # null shots: predictions from all training patients
                table = pd.concat([table.assign(shots=None), drawn], ignore_index=True)
                table = table.astype({"shots": "Int32"})
            write_parquet(temporary / "predictions.parquet", pa.Table.from_pandas(table, preserve_index=False))
        kept.remove()
    return Report(report_text(_text(result, task, judged), result, result.notes), data)


def recall_hits(features: np.ndarray, frame: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """For each data set and kind (``lesion``, ``patient``): the query rows, and whether each is a hit of recall@1.

    Kinds whose ids do not repeat in a data set are left out.
    """
    for dataset, rows in frame.groupby("dataset", sort=False).indices.items():
        for kind in ("lesion", "patient"):
            ids = frame[f"{kind}_id"].iloc[rows].to_numpy()
            queries, hits = neighbours.recall_at_1(np.asarray(features)[rows], ids)
            if len(queries):
                yield str(dataset), kind, rows[queries], hits


def same_id_recall(pool: PooledEmbeddings, draws: int, seed: int) -> list[dict[str, Any]]:
    """Same-lesion and same-patient recall@1 of each data set of ``pool``, with intervals by group.

    ``contaminated`` counts the queries that the encoder saw in pretraining, None where that is not known.
    """
    found, seen = [], pool.seen.flags(pool.frame["image_id"])
    for dataset, kind, queries, hits in recall_hits(pool.features, pool.frame):
        (mean,) = paired_means([hits.astype(float)], pool.groups[queries], draws, seed)
        contaminated = None if seen.isna().all() else int(seen.iloc[queries].sum())
        entry = {"kind": kind, "dataset": dataset, "queries": len(queries), "contaminated": contaminated}
        found.append(entry | mean.scores[MEAN].entry())
    return found


def _text(result: ProbeResult, task: Task, judged: Judgement) -> list[str]:
    """The headline, scores at both levels, recall of each class, the lines of the probe, recall@1, contamination."""
    counts, split, unit = result.counts, result.protocol["split"], task.unit
    folds = f"{result.protocol['folds']} folds by {unit}"
    how = folds if split == "folds" else f"fit on train, scored once on test; {task.split_origin}"
    fitted = "-".join(map(str, sorted({min(counts["fitted"]), max(counts["fitted"])})))
    votes = result.levels["case"].by_majority if "case" in result.levels else None
    majority = ", ".join(f"{name} {show(entry)}" for name, entry in (votes or {}).items())
    scores: dict[str, dict[str, Any]] = {}
    recalls: dict[str, dict[str, Any]] = {}
    for name, level in result.levels.items():
        recall, column = level.scores["recall"], f"{name} level"
        scores[column] = {key: show(entry) for key, entry in level.scores.items() if key not in PER_CLASS}
        recalls[f"{name}s"] = {f"recall of {key}": level.support[key] for key in recall}
        recalls[column] = {f"recall of {key}": show(entry) for key, entry in recall.items()}
    text = [
        f"{result.probe}: {result.target} of {result.names} ({how})",
        result.encoder_line,
        f"{fitted} images fitted, {counts['scored']} scored, of {counts['scored_groups']} {unit}s; 95% intervals from "
        f"{result.levels['image'].draws} draws of {unit}s",
        *([f"positive class: {result.positive}"] if result.positive else []),
        "",
        pd.DataFrame(scores).fillna("").to_string(),
        "",
        pd.DataFrame(recalls, dtype=object).fillna("").to_string(),
        *(["", f"case level by majority vote of the images: {majority}"] if majority else []),
        "",
        *judged.fitted.lines,
    ]
    for recall in result.recall_at_1 or []:
        over = counted(recall["queries"], "image")
        over += f", {recall['contaminated']} of them seen in pretraining" if recall["contaminated"] else ""
        text.append(f"same-{recall['kind']} recall@1 of {recall['dataset']}: {show(recall)} over {over}")
    return [*text, *curve_text(result.shots or [], unit), *contamination_lines(result.contamination, split, unit)]
