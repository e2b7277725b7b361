"""The report of `dermeval knn`, `linear` and `finetune`: a page of text, and a results folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dermeval.features.pool import PooledEmbeddings
from dermeval.pages.tables import show
from dermeval.probes.contamination import contamination_lines
from dermeval.probes.folds import left_out_of, make_folds
from dermeval.probes.judge import PER_CLASS, Probe, judge
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

WRITTEN = ("result.json", "predictions.parquet", "shots.png")
"""Files of a results folder. Earlier versions also wrote ``shots.png``."""


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
    fitted, judged = judge(probe, task, folds, options.draws, options.seed)
    points, drawn = few_shot_curve(task, folds, few, probe) if few else ([], pd.DataFrame())
    number = len(folds) if options.split == "folds" else None
    source = FeatureSource.of(task.pool)
    data: dict[str, Any] = vars(source) | {
        "probe": probe.name,
        "protocol": {"split": options.split, "folds": number, "seed": options.seed},
        "target": task.name,
        "classes": list(task.classes),
        **{name: getattr(task.target, name) for name in ("kind", "positive", "level")},
        "settings": fitted.settings,
        "counts": {"labelled": len(task.labels)} | judged["counts"],
        "levels": judged["levels"],
        "notes": [*task.notes, *left, *constant_features(task.features), *judged["notes"], *scarce],
        "contamination": judged["contamination"],
        **fitted.extra,
    }
    data |= {"recall_at_1": same_id_recall(task.pool, options.draws, options.seed)} if recall else {}
    data |= {"shots": points} if points else {}
    if out:
        table = fitted.predictions.to_frame()
        with atomic_folder(out) as temporary:
            write_json(temporary / "result.json", data)
            if points:  # null shots: predictions from all training patients
                table = pd.concat([table.assign(shots=None), drawn], ignore_index=True)
                table = table.astype({"shots": "Int32"})
            write_parquet(temporary / "predictions.parquet", pa.Table.from_pandas(table, preserve_index=False))
        kept.remove()
    return Report(report_text(_text(source, data, task, fitted.lines), source, data["notes"]), data)


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


def _text(source: FeatureSource, data: dict[str, Any], task: Task, lines: Sequence[str]) -> list[str]:
    """The headline, scores at both levels, recall of each class, the probe's ``lines``, recall@1, contamination."""
    counts, levels, unit = data["counts"], data["levels"], task.unit
    split = data["protocol"]["split"]
    folds = f"{data['protocol']['folds']} folds by {unit}"
    how = folds if split == "folds" else f"fit on train, scored once on test; {task.split_origin}"
    fitted = "-".join(map(str, sorted({min(counts["fitted"]), max(counts["fitted"])})))
    votes = levels.get("case", {}).get("by_majority", {})
    majority = ", ".join(f"{name} {show(entry)}" for name, entry in votes.items())
    scores: dict[str, dict[str, Any]] = {}
    recalls: dict[str, dict[str, Any]] = {}
    for name, level in levels.items():
        recall, column = level["scores"]["recall"], f"{name} level"
        scores[column] = {key: show(entry) for key, entry in level["scores"].items() if key not in PER_CLASS}
        recalls[f"{name}s"] = {f"recall of {key}": level["support"][key] for key in recall}
        recalls[column] = {f"recall of {key}": show(entry) for key, entry in recall.items()}
    text = [
        f"{data['probe']}: {data['target']} of {source.names} ({how})",
        source.encoder_line,
        f"{fitted} images fitted, {counts['scored']} scored, of {counts['scored_groups']} {unit}s; 95% intervals from "
        f"{levels['image']['draws']} draws of {unit}s",
        *([f"positive class: {data['positive']}"] if data["positive"] else []),
        "",
        pd.DataFrame(scores).fillna("").to_string(),
        "",
        pd.DataFrame(recalls, dtype=object).fillna("").to_string(),
        *(["", f"case level by majority vote of the images: {majority}"] if majority else []),
        "",
        *lines,
    ]
    for recall in data.get("recall_at_1", []):
        over = counted(recall["queries"], "image")
        over += f", {recall['contaminated']} of them seen in pretraining" if recall["contaminated"] else ""
        text.append(f"same-{recall['kind']} recall@1 of {recall['dataset']}: {show(recall)} over {over}")
    curve = curve_text(data.get("shots", []), unit)
    return [*text, *curve, *contamination_lines(data["contamination"], split, unit)]
