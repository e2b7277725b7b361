"""``dermeval leaks``: which records share near-duplicate images, across which splits, and a split without them.

Evidence is given per pair of images. It says that two pictures show one scene or lesion; it says nothing about who is
shown.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.leaks import certainty, report, truth
from dermeval.leaks.decisions import kept_pairs, read_decisions, write_decisions
from dermeval.leaks.find import Found, find_pairs, summary
from dermeval.leaks.groups import LARGE, group_table, leak_groups, repaired, side, strata
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.pairs import LESION, SCENE, describe_pairs, to_arrow
from dermeval.leaks.planted import scores_of_planted
from dermeval.leaks.records import Records, open_records, pools
from dermssl import licences
from dermssl.atomic import atomic_folder, locked
from dermssl.commandline import Report
from dermssl.files import read_json, write_csv, write_json, write_npy, write_parquet
from dermssl.paths import require_new_folder

PLAN = "plan.json"
VERSION = 2
"""Of the leaks folder; 1 had no scores."""


def leaks(options: LeaksOptions) -> Report:
    """Audit dataset folders; see `LeaksOptions`."""
    out = Path(options.out)
    require_new_folder(out, options.overwrite, "summary.json", options.folders, key="pairs_by_evidence")
    records = open_records(options.folders, options.every_image)
    with locked(out):
        work = _work_folder(out, records, options)
        found = find_pairs(records, options, work)
        kept, threshold = confirmed_pairs(found, records, options)
        pairs = describe_pairs(found, kept, records)
        decisions = read_decisions(out)
        groups = leak_groups(records.groups, kept_pairs(pairs, decisions))
        split = repaired(groups, records.frame, strata(records.frame, records.labels))
        data = _summary(records, found, kept, pairs, groups, split, threshold, options)
        if options.truth is not None:
            data["truth"] = truth.score(Path(options.truth), records, pairs)
        lines = _lines(data)
        with atomic_folder(out) as folder:
            _write(folder, records, found, pairs, groups, split, data)
            if len(decisions):
                write_decisions(folder, decisions)
            report.write(folder, records, pairs, lines, data["notes"], options.shown)
        shutil.rmtree(work)
    text = [f"{out}: {lines[0]}", *[f"  {line}" for line in lines[1:]]]
    text += [f"  note: {note}" for note in data["notes"]]
    text += [f"  {line}" for line in licences.notice_lines(records.licences)]
    return Report("\n".join(text), data | {"out": str(out)})


def _work_folder(out: Path, records: Records, options: LeaksOptions) -> Path:
    """``<out>.unfinished``: what a killed command had finished, if it was on the same images; else empty."""
    path = out.resolve()
    work = path.with_name(f"{path.name}.unfinished")
    require_new_folder(work, True, PLAN, options.folders)
    plan = {"version": VERSION, "datasets": records.datasets, "images": len(records.frame)}
    if (work / PLAN).is_file() and read_json(work / PLAN, "dermeval leaks") != plan:
        shutil.rmtree(work)
    write_json(work / PLAN, plan)
    return work


def confirmed_pairs(found: Found, records: Records, options: LeaksOptions) -> tuple[pd.DataFrame, float]:
    """The candidates above the threshold, and the threshold. Sets that forbid re-linking meet others by copies only."""
    table = found.candidates
    scores, expected = table["score"].to_numpy(), table["expected_false"].to_numpy()
    kept, threshold = certainty.confirmed(scores, expected, options.precision, options.expected_false)
    pool = np.zeros(len(records.frame), np.int64)
    for number, rows in enumerate(pools(records).values()):
        pool[rows] = number
    world = table["world"].to_numpy(np.int64)
    correlation = found.evidence["correlation"][np.arange(len(table)), world]
    apart = pool[table["a"].to_numpy(np.int64)] != pool[table["b"].to_numpy(np.int64)]
    kept &= ~apart | (correlation >= certainty.SCENE_CORRELATION)
    return table[kept], threshold


def _summary(
    records: Records,
    found: Found,
    kept: pd.DataFrame,
    pairs: pd.DataFrame,
    groups: np.ndarray,
    split: pd.Series,
    threshold: float,
    options: LeaksOptions,
) -> dict[str, Any]:
    frame = records.frame
    table = group_table(frame, groups, records.labels)
    per_group = table.drop_duplicates("leak_group")
    kinds = {"file": int(found.identical["file"].sum()), "pixels": int(found.identical["pixels"].sum())}
    sources = summary(found, kept)
    return {
        "version": VERSION,
        "every_image": options.every_image,
        "images": len(frame),
        "records": int(frame["group_id"].nunique()),
        "pairs": len(pairs),
        "pairs_by_kind": {kind: int((pairs["kind"] == kind).sum()) for kind in (SCENE, LESION)},
        "pairs_by_evidence": kinds | {name: entry["confirmed"] for name, entry in sources.items()},
        "pairs_across_splits": int(pairs["across_splits"].sum()),
        "pairs_across_datasets": int(pairs["across_datasets"].sum()),
        "pairs_with_different_labels": int((~pairs["labels_agree"].dropna().astype(bool)).sum()),
        "records_in_leak_groups": len(table),
        "leak_groups": len(per_group),
        "leak_groups_across_splits": int(per_group["straddles"].sum()),
        "leak_groups_across_datasets": int(per_group["across_datasets"].sum()),
        "leak_groups_with_label_conflicts": int(per_group["conflict"].sum()),
        "large_leak_groups": int(per_group["large"].sum()),
        "split": _shares(frame["split"]),
        "split_repaired": _shares(split),
        "images_moved": int((side(split) != side(frame["split"])).sum()),
        "records_moved": int(frame["group_id"][(side(split) != side(frame["split"])).to_numpy()].nunique()),
        "certainty": _certainty(records, found, kept, threshold, options),
        "sources": sources,
        "datasets": records.datasets,
        "licences": records.licences,
        "notes": _notes(records),
    }


def _certainty(
    records: Records, found: Found, kept: pd.DataFrame, threshold: float, options: LeaksOptions
) -> dict[str, Any]:
    """How the threshold came about, and what it misses and lets through."""
    planted = scores_of_planted(records.pictures, options.planted, options.workers)
    reached = planted["score"] >= threshold
    scores = certainty.world_scores(found.evidence)[:, 1] if len(found.evidence) else np.zeros(0)
    return {
        "precision": options.precision,
        "threshold": None if np.isinf(threshold) else threshold,
        "expected_false_pairs": float(kept["expected_false"].max()) if len(kept) else 0.0,
        "compared": len(found.candidates),
        "highest_background": float(found.background.scores[0]) if len(found.background.scores) else None,
        "planted": {
            "copies": len(planted),
            "recall": float(reached.mean()) if len(planted) else None,
            "by_kind": {str(kind): float(part.mean()) for kind, part in reached.groupby(planted["kind"], sort=False)},
        },
        "false_match_ratio": certainty.false_match_ratios(scores, _strata_of_pairs(records, found.candidates)),
    }


def _strata_of_pairs(records: Records, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Per data set and Fitzpatrick type the pairs within it."""
    ends = table[["a", "b"]].to_numpy(np.int64)
    strata = {}
    for column, title in (("dataset", "data set"), ("fitzpatrick", "Fitzpatrick")):
        if column not in records.frame:
            continue
        values = records.frame[column].to_numpy()[ends]
        for value in records.frame[column].dropna().unique():
            shown = f"{value:g}" if isinstance(value, float) else value
            strata[f"{title} {shown}"] = (values == value).all(axis=1)
    return strata


def _shares(split: pd.Series) -> dict[str, dict[str, float]]:
    counts = split.fillna("none").value_counts().sort_index()
    return {str(name): {"images": int(n), "share": round(float(n / len(split)), 4)} for name, n in counts.items()}


def _notes(records: Records) -> list[str]:
    notes = ["Evidence is about images and splits: it shows which records share near-duplicate images, nothing more."]
    closed = [entry["dataset"] for entry in records.licences if not entry["relinking"]]
    if closed and records.frame["dataset"].nunique() > 1:
        notes.append(
            f"The licence of {', '.join(closed)} forbids re-linking: between it and other data sets only copies of "
            "images were looked for, by file, pixels and hash: no embeddings, colours or local features."
        )
    no_key = [entry["name"] for entry in records.datasets if not entry["patient_key"]]
    if no_key:
        notes.append(f"{', '.join(no_key)} has no patient key: patient leakage cannot be ruled out.")
    if records.frame["group_id"].nunique() < 2:
        notes.append("There is one record only, so there is nothing to compare it with.")
    if any(entry["synthetic"] for entry in records.datasets):
        notes.append("SYNTHETIC data, made by dermssl.")
    return notes


def _lines(data: dict[str, Any]) -> list[str]:
    """The printed page: what was found, where, how sure it is, and what the repaired split looks like."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in data["pairs_by_evidence"].items())
    sure, after = data["certainty"], data["split_repaired"]
    shares = "; ".join(
        f"{name} {100 * before['share']:.1f}% -> {100 * after.get(name, {'share': 0})['share']:.1f}%"
        for name, before in data["split"].items()
    )
    threshold = "none reached" if sure["threshold"] is None else f"score >= {sure['threshold']:.2f}"
    lines = [
        f"{data['records_in_leak_groups']} of {data['records']} records share near-duplicate images "
        f"({data['pairs']} pairs of {data['images']} images)",
        f"pairs             {', '.join(f'{count} {kind}' for kind, count in data['pairs_by_kind'].items())}",
        f"evidence          {kinds}",
        f"compared          {sure['compared']} candidate pairs; threshold for precision {sure['precision']:g}: "
        f"{threshold}, {sure['expected_false_pairs']:.1f} false pairs expected",
        f"across splits     {data['pairs_across_splits']} pairs, {data['leak_groups_across_splits']} of "
        f"{data['leak_groups']} leak groups",
        f"across data sets  {data['pairs_across_datasets']} pairs, {data['leak_groups_across_datasets']} leak groups",
        f"labels            {data['pairs_with_different_labels']} pairs have different labels, "
        f"{data['leak_groups_with_label_conflicts']} leak groups hold a conflict",
        f"repaired split    {data['records_moved']} records ({data['images_moved']} images) moved; {shares}",
    ]
    if data["large_leak_groups"]:
        lines.append(f"large groups      {data['large_leak_groups']} of more than {LARGE} records: look at these first")
    if sure["planted"]["copies"]:
        by_kind = ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in sure["planted"]["by_kind"].items())
        lines.append(f"planted copies    {100 * sure['planted']['recall']:.0f}% reach the threshold ({by_kind})")
    if sure["false_match_ratio"]:
        ratios = ", ".join(f"{name} {entry['ratio']:g}" for name, entry in sure["false_match_ratio"].items())
        lines.append(f"false matches     relative to all background pairs: {ratios}")
    return lines + (_truth_lines(data["truth"]) if "truth" in data else [])


def _truth_lines(scored: dict[str, Any]) -> list[str]:
    kinds = ", ".join(f"{kind} {found}/{of}" for kind, (found, of) in scored["by_kind"].items())
    precision = "-" if scored["precision"] is None else f"{scored['precision']:.3f}"
    return [
        f"planted records   {scored['found']} of {scored['planted']} record pairs found, recall {scored['recall']:.3f} "
        f"({kinds})",
        f"not planted       {scored['not_planted']} of {scored['record_pairs']} record pairs, precision {precision}",
    ]


def _write(
    folder: Path,
    records: Records,
    found: Found,
    pairs: pd.DataFrame,
    groups: np.ndarray,
    split: pd.Series,
    data: dict[str, Any],
) -> None:
    frame = records.frame
    write_parquet(folder / "pairs.parquet", to_arrow(pairs.assign(leak_group=groups[pairs["a"]])))
    columns = {"image_id": frame["image_id"], "split": frame["split"], "split_repaired": split}
    write_csv(folder / "groups.csv", group_table(frame, groups, records.labels))
    write_csv(folder / "split_repaired.csv", pd.DataFrame(columns))
    write_npy(folder / "background.npy", found.background.scores.astype(np.float32))
    write_json(folder / "summary.json", data)
