"""``dermeval evaluate``: a data set's whole protocol on frozen features."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from dermeval.features.pool import PooledEmbeddings
from dermeval.probes.contamination import cannot_tell, contamination_summary
from dermeval.probes.encoder_table import WRITTEN as ENCODER_FILES
from dermeval.probes.encoder_table import encoders_report, pools_by_encoder
from dermeval.probes.evaluate_page import ProtocolResult, groups_table, html_page, text_page
from dermeval.probes.groups import attributes, group_scores, values_of
from dermeval.probes.judge import Probe, judge
from dermeval.probes.kept import KeptFits, KeptProbe
from dermeval.probes.knn import HEADLINE, KnnProbe
from dermeval.probes.linear import LinearProbe
from dermeval.probes.options import EvaluateOptions, KnnOptions, LinearOptions
from dermeval.probes.predictions import Predictions, by_case, paired_scores
from dermeval.probes.probe_report import result_json
from dermeval.probes.protocols import PROTOCOL_TARGETS, Experiment, experiments
from dermeval.probes.report import FeatureSource
from dermeval.probes.task import Task, constant_features, task_of
from dermeval.statistics.bootstrap import require_draws
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import write_csv, write_json, write_parquet, write_text
from dermssl.paths import require_new_folder

WRITTEN = ("result.json", "predictions.parquet", "groups.csv", "report.html")


def evaluate(options: EvaluateOptions) -> Report:
    """Run a protocol; see `EvaluateOptions`. Bad input raises InputError."""
    require_draws(options.draws)
    out = Path(options.out) if options.out else None
    pools = pools_by_encoder(options.embeddings)
    pool = next(iter(pools.values()))
    tasks, notes = planned_tasks(pool, options)
    if len(pools) == 1 and pool.seen.reasons is None:
        notes.insert(0, cannot_tell(pool.seen.source))
    for name, own in pools.items():
        notes += [f"{name}: {note}" if len(pools) > 1 else note for note in constant_features(own.features)]
    if out:
        written, key = (ENCODER_FILES, "rows") if len(pools) > 1 else (WRITTEN, "experiments")
        require_new_folder(out, options.overwrite, written, options.embeddings, key=key)
    kept = KeptFits(options.out)
    names = ("knn", "linear") if options.probe == "both" else (options.probe,)
    probes = [KeptProbe(make_probe(name, options.seed), kept) for name in names]
    if len(pools) > 1:
        report = encoders_report(pools, tasks, notes, probes, options)
        kept.remove()
        return report
    plan = [(task, probe, experiment) for task, made in tasks for probe in probes for experiment in made]
    entries, plain, tables = [], [], []
    with tqdm(plan, unit="experiment", disable=None) as bar:
        for task, probe, experiment in bar:
            bar.set_description(f"{task.name}, {probe.name}, {experiment.name}")
            entry, found = _run(task, probe, experiment, options)
            entries.append(entry)
            plain.append(found.get("all"))
            keys = {"target": task.name, "probe": probe.name, "experiment": experiment.name}
            tables += [rows.to_frame().assign(**keys, training=training) for training, rows in found.items()]
    asked = {name: getattr(options, name) for name in ("protocol", "seed", "draws")}
    source = vars(FeatureSource.of(pool))
    result = ProtocolResult(**source, **asked, experiments=entries, notes=list(dict.fromkeys(notes)))
    if out:
        with atomic_folder(out) as temporary:
            write_json(temporary / "result.json", result_json(result))
            table = pa.Table.from_pandas(pd.concat(tables, ignore_index=True), preserve_index=False)
            write_parquet(temporary / "predictions.parquet", table)
            write_csv(temporary / "groups.csv", groups_table(result))
            write_text(temporary / "report.html", html_page(result, plain))
        kept.remove()
    return Report(text_page(result), result_json(result))


def planned_tasks(
    pool: PooledEmbeddings, options: EvaluateOptions
) -> tuple[list[tuple[Task, list[Experiment]]], list[str]]:
    """The targets of the protocol with their experiments, and notes on what cannot be evaluated.

    InputError where the data lacks a target of the protocol, or where no target can be evaluated.
    """
    if not pool.targets:
        raise InputError("the data declares no target, so there is nothing to evaluate")
    wanted = PROTOCOL_TARGETS.get(options.protocol, tuple(pool.targets))
    missing = [name for name in wanted if name not in pool.targets]
    if missing:
        raise InputError(
            f"protocol {options.protocol} needs the target '{missing[0]}', but the data declares "
            f"{', '.join(pool.targets)}: use --protocol generic"
        )
    tasks, notes, failures = [], [], []
    for name in wanted:
        try:
            task = task_of(pool, name)
            made, problems = experiments(options.protocol, task, options.folds, options.seed)
        except InputError as problem:
            # One target may be an identifier or have one class: the others are evaluated all the same.
            notes.append(f"{name} is not evaluated: {problem}")
            failures.append(problem)
            continue
        notes += [f"{name}: {note}" for note in (*task.notes, *problems)]
        tasks.append((task, made))
    if not tasks:
        raise InputError("; ".join(dict.fromkeys(map(str, failures))))
    return tasks, notes


def make_probe(name: str, seed: int) -> Probe:
    """The probe ``name`` with the default options of its command, but k = 20 alone for kNN."""
    if name == "knn":
        return KnnProbe(KnnOptions(embeddings=[], k=[HEADLINE], seed=seed))
    return LinearProbe(LinearOptions(embeddings=[], seed=seed))


def _run(
    task: Task, probe: Probe, experiment: Experiment, options: EvaluateOptions
) -> tuple[dict[str, Any], dict[str, Predictions]]:
    """The experiment's entry of ``result.json``, and its predictions by the kind of training."""
    judged = judge(probe, task, experiment.folds, options.draws, options.seed)
    images = judged.fitted.predictions
    rows = {"image": images, "case": by_case(images)[0]}
    entry: dict[str, Any] = {"target": task.name, "probe": probe.name, "experiment": experiment.name}
    entry |= {"classes": list(task.classes), "positive": task.target.positive} | judged.counts
    entry |= {"levels": {name: result_json(level) for name, level in judged.levels.items()}}
    entry["notes"] = list(judged.notes)
    if experiment.control is not None:
        control = probe.fit(task, experiment.control).predictions
        entry["against_size_matched"] = found = {}
        for level, before in (("image", control), ("case", by_case(control)[0])):
            matched, without = paired_scores([[before], [rows[level]]], options.draws, options.seed)
            found[level] = {
                name: {"control": matched.scores[name].entry(), "difference": difference.entry()}
                for name, difference in without.differences.items()
                if np.ndim(difference.value) == 0
            }
        return entry, {"without": images, "size-matched": control}
    seen, split = judged.contamination, "folds" if len(experiment.folds) > 1 else "official"
    entry["notes"] += [contamination_summary(seen, split)] if seen["known"] else []
    entry["groups"] = {
        attribute: {
            level: group_scores(own, values_of(own, task.frame, values), options.draws, options.seed)
            for level, own in rows.items()
        }
        for attribute, values in attributes(task.frame).items()
    }
    return entry | {"contamination": seen}, {"all": images}
