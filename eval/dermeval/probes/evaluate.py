"""``dermeval evaluate``: a data set's whole protocol on frozen features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from dermeval.features.pool import Pool, open_pool
from dermeval.probes import contamination
from dermeval.probes.evaluate_page import groups_table, html_page, text_page
from dermeval.probes.groups import attributes, group_scores, of_predictions
from dermeval.probes.intervals import interval_json, number
from dermeval.probes.judge import Probe, judge
from dermeval.probes.knn import HEADLINE, KnnProbe
from dermeval.probes.linear import LinearProbe
from dermeval.probes.options import EvaluateOptions, KnnOptions, LinearOptions
from dermeval.probes.predictions import Predictions, by_case
from dermeval.probes.protocols import PROTOCOL_TARGETS, Experiment, experiments
from dermeval.probes.results import Provenance, as_json
from dermeval.probes.task import Task, task_of
from dermeval.statistics.comparison import compare
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import write_csv, write_json, write_parquet, write_text
from dermssl.paths import require_new_folder


@dataclass(frozen=True)
class ProtocolResult(Provenance):
    """``result.json`` of `dermeval evaluate`; the fields are its keys."""

    protocol: str
    seed: int
    draws: int
    experiments: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class Run:
    """One experiment done by one probe: its entry of ``result.json`` and the predictions behind it."""

    entry: dict[str, Any]
    predictions: list[tuple[str, Predictions]]


def evaluate(options: EvaluateOptions) -> Report:
    """Run a protocol; see `EvaluateOptions`.

    Raises:
        InputError: unusable embeddings or output folder, or data that lacks what the protocol needs.
    """
    out = Path(options.out) if options.out else None
    if out:
        require_new_folder(out, options.overwrite, "result.json", options.embeddings, key="experiments")
    pool = open_pool(options.embeddings)
    probes = ("knn", "linear") if options.probe == "both" else (options.probe,)
    runs: list[Run] = []
    notes = [contamination.unknown(pool.seen.source)] if pool.seen.reasons is None else []
    for name in _targets(pool, options.protocol):
        try:
            task = task_of(pool, name)
            planned, problems = experiments(options.protocol, task, options.folds, options.seed)
        except InputError as problem:
            if options.protocol != "generic" or len(pool.targets) == 1:
                raise
            # Among all that the data declares one may be an identifier; the others are worth their scores.
            notes.append(f"{name} is not evaluated: {problem}")
            continue
        notes += [f"{name}: {note}" for note in (*task.notes, *problems)]
        plan = [(probe, experiment) for probe in probes for experiment in planned]
        for probe, experiment in tqdm(plan, desc=name, unit="experiment", disable=None):
            runs.append(_run(task, probe, experiment, options))
    if not runs:
        raise InputError("; ".join(notes))
    result = ProtocolResult(
        **vars(Provenance.of(pool)),
        protocol=options.protocol,
        seed=options.seed,
        draws=options.draws,
        experiments=[run.entry for run in runs],
        notes=list(dict.fromkeys(notes)),
    )
    if out:
        _write(out, result, runs)
    return Report(text_page(result), as_json(result))


def _targets(pool: Pool, protocol: str) -> list[str]:
    if not pool.targets:
        raise InputError("the data declares no target, so there is nothing to evaluate")
    if protocol == "generic":
        return list(pool.targets)
    missing = [name for name in PROTOCOL_TARGETS[protocol] if name not in pool.targets]
    if missing:
        raise InputError(
            f"protocol {protocol} needs the target '{missing[0]}', the data declares {', '.join(pool.targets)}: "
            f"use --protocol generic"
        )
    return list(PROTOCOL_TARGETS[protocol])


def make_probe(name: str, seed: int) -> Probe:
    """The probe ``name`` with the settings of its command's defaults; kNN takes k 20, clipped."""
    if name == "knn":
        return KnnProbe(KnnOptions([], k=[HEADLINE], seed=seed))
    return LinearProbe(LinearOptions([], seed=seed))


def _run(task: Task, name: str, experiment: Experiment, options: EvaluateOptions) -> Run:
    probe = make_probe(name, options.seed)
    judged = judge(probe, task, experiment.folds, options.draws, options.seed)
    images = judged.predictions
    entry: dict[str, Any] = {
        "target": task.name,
        "probe": name,
        "experiment": experiment.name,
        "classes": list(task.classes),
        "fitted": [len(fold.train) for fold in experiment.folds],
        "scored": len(images),
        "scored_groups": int(images.frame["group_id"].nunique()),
        "levels": as_json(judged.levels),
        "notes": list(judged.notes),
    }
    if experiment.control is None:
        split = "folds" if len(experiment.folds) > 1 else "official"
        seen = judged.contamination
        entry["notes"] += [contamination.summary(seen, split)] if seen["known"] else []
        entry |= {"groups": _groups(task, images, options), "contamination": seen}
        return Run(entry, [("all", images)])
    control = probe.fit(task, experiment.control).predictions
    entry["against_size_matched"] = _against(control, images, task.positive, options)
    return Run(entry, [("without", images), ("size-matched", control)])


def _against(
    control: Predictions, images: Predictions, positive: int | None, options: EvaluateOptions
) -> dict[str, Any]:
    """Scores of the size-matched control, and by how much training without the group differs from it."""
    levels = {}
    for level, (before, after) in {
        "image": (control, images),
        "case": (by_case(control)[0], by_case(images)[0]),
    }.items():
        both = [before.probabilities, after.probabilities]
        compared = compare(before.truth, both, before.frame["group_id"], positive, options.draws, options.seed)
        levels[level] = {
            name: {
                "control": interval_json(compared.scores[0][name]),
                "difference": interval_json(difference) | {"p": number(difference.p)},
            }
            for name, difference in compared.differences[0].items()
            if difference.value.ndim == 0
        }
    return levels


def _groups(task: Task, images: Predictions, options: EvaluateOptions) -> dict[str, Any]:
    """Scores per value of each patient attribute, at image and at case level."""
    found: dict[str, Any] = {}
    for attribute, values in attributes(task.frame).items():
        for level, predictions in (("image", images), ("case", by_case(images)[0])):
            chosen = of_predictions(predictions, task.frame, values)
            scored = group_scores(predictions, chosen, task.positive, options.draws, options.seed)
            found.setdefault(attribute, {})[level] = scored
    return found


def _write(folder: Path, result: ProtocolResult, runs: list[Run]) -> None:
    tables = []
    for run in runs:
        keys = {key: run.entry[key] for key in ("target", "probe", "experiment")}
        tables += [p.to_table().to_pandas().assign(**keys, training=training) for training, p in run.predictions]
    with atomic_folder(folder) as temporary:
        write_json(temporary / "result.json", as_json(result))
        table = pa.Table.from_pandas(pd.concat(tables, ignore_index=True), preserve_index=False)
        write_parquet(temporary / "predictions.parquet", table)
        write_csv(temporary / "groups.csv", groups_table(result))
        write_text(temporary / "report.html", html_page(result))
