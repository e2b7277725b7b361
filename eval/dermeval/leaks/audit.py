"""``dermeval leaks``: which records share near-duplicate images, across which splits, and a split without them.

Evidence is given per pair of images. It says that the two pictures coincide; it says nothing about who is shown.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from dermeval.leaks import page, truth
from dermeval.leaks.groups import group_table, leak_groups, repaired, side, straddling
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.pairs import KINDS, Found, find_pairs
from dermeval.leaks.records import Records, open_records
from dermssl import licences
from dermssl.commandline import Report
from dermssl.files import atomic_folder, require_new_folder, write_json, write_parquet, write_text


def leaks(options: LeaksOptions) -> Report:
    """Audit the given embeddings folders; see `LeaksOptions`."""
    out = Path(options.out)
    require_new_folder(out, options.overwrite, "summary.json", options.embeddings, key="pairs_by_evidence")
    records = open_records(options.embeddings)
    found = find_pairs(records, options)
    groups = leak_groups(records.groups, found.pairs)
    split = repaired(groups, records.frame["split"])
    summary = _summary(records, found, groups, split)
    if options.truth is not None:
        summary["truth"] = truth.score(Path(options.truth), records, found.pairs)
    lines = _lines(summary)
    with atomic_folder(out) as folder:
        _write(folder, records, found, groups, split, summary)
        page.write(folder, records, found.pairs, lines, summary["notes"], options.shown)
    text = [f"{out}: {lines[0]}", *[f"  {line}" for line in lines[1:]]]
    text += [f"  note: {note}" for note in summary["notes"]] + [
        f"  {line}" for line in licences.lines(records.licences)
    ]
    return Report("\n".join(text), summary | {"out": str(out)})


def _summary(records: Records, found: Found, groups: Any, split: pd.Series) -> dict[str, Any]:
    pairs, frame = found.pairs, records.frame
    return {
        "images": len(frame),
        "records": int(frame["group_id"].nunique()),
        "pairs": len(pairs),
        "pairs_by_evidence": {kind: int(pairs["evidence"].map(lambda k, kind=kind: kind in k).sum()) for kind in KINDS},
        "pairs_across_splits": int(pairs["across_splits"].sum()),
        "pairs_across_datasets": int(pairs["across_datasets"].sum()),
        "pairs_with_different_labels": int((~pairs["labels_agree"].dropna().astype(bool)).sum()),
        "records_in_leak_groups": int(frame["group_id"][groups > 0].nunique()),
        "leak_groups": len(set(groups[groups > 0])),
        "leak_groups_across_splits": len(straddling(groups, frame["split"])),
        "split": _shares(frame["split"]),
        "split_repaired": _shares(split),
        "images_moved_to_train": int((side(split) != side(frame["split"])).sum()),
        "search": found.search,
        "encoder": records.encoder,
        "datasets": records.datasets,
        "licences": records.licences,
        "notes": _notes(records),
    }


def _shares(split: pd.Series) -> dict[str, dict[str, float]]:
    counts = split.fillna("none").value_counts().sort_index()
    return {str(name): {"images": int(n), "share": round(float(n / len(split)), 4)} for name, n in counts.items()}


def _notes(records: Records) -> list[str]:
    notes = ["Evidence is about images and splits: it shows which records share near-duplicate images, nothing more."]
    closed = [entry["dataset"] for entry in records.licences if not entry["relinking"]]
    if closed and records.frame["dataset"].nunique() > 1:
        notes.append(
            f"The licence of {', '.join(closed)} forbids re-linking: between it and other data sets only file, pixel "
            "and hash copies were looked for, no embeddings were compared."
        )
    no_key = [entry["name"] for entry in records.datasets if not entry["patient_key"]]
    if no_key:
        notes.append(f"{', '.join(no_key)} has no patient key: patient leakage cannot be ruled out.")
    if any(entry["synthetic"] for entry in records.datasets):
        notes.append("SYNTHETIC data, made by dermssl.")
    return notes


def _lines(summary: dict[str, Any]) -> list[str]:
    """The printed page: what was found, where, and what the repaired split looks like."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in summary["pairs_by_evidence"].items())
    search, after = summary["search"], summary["split_repaired"]
    level = search["background"]
    shares = "; ".join(
        f"{name} {100 * before['share']:.1f}% -> {100 * after.get(name, {'share': 0})['share']:.1f}%"
        for name, before in summary["split"].items()
    )
    lines = [
        f"{summary['records_in_leak_groups']} of {summary['records']} records share near-duplicate images "
        f"({summary['pairs']} pairs of {summary['images']} images)",
        f"evidence          {kinds}",
        f"across splits     {summary['pairs_across_splits']} pairs, {summary['leak_groups_across_splits']} of "
        f"{summary['leak_groups']} leak groups",
        f"across data sets  {summary['pairs_across_datasets']} pairs",
        f"labels            {summary['pairs_with_different_labels']} pairs have different labels",
        f"compared          {search['candidates']['compared']} candidates on pixels; agreement >= "
        f"{search['agreement_threshold']:.2f} confirms (background: median {level['median']:.2f}, "
        f"highest of {level['pairs']} {level['highest']:.2f})",
        f"repaired split    {summary['images_moved_to_train']} images moved to train; {shares}",
    ]
    return lines + (_truth_lines(summary["truth"]) if "truth" in summary else [])


def _truth_lines(scored: dict[str, Any]) -> list[str]:
    kinds = ", ".join(f"{kind} {found}/{of}" for kind, (found, of) in scored["by_kind"].items())
    precision = "-" if scored["precision"] is None else f"{scored['precision']:.3f}"
    return [
        f"planted           {scored['found']} of {scored['planted']} record pairs found, recall {scored['recall']:.3f} "
        f"({kinds})",
        f"not planted       {scored['not_planted']} of {scored['record_pairs']} record pairs, precision {precision}",
    ]


def _write(
    folder: Path, records: Records, found: Found, groups: Any, split: pd.Series, summary: dict[str, Any]
) -> None:
    frame = records.frame
    table = found.pairs.drop(columns=["a", "b"]).assign(leak_group=groups[found.pairs["a"]])
    write_parquet(folder / "pairs.parquet", pa.Table.from_pandas(table, schema=PAIRS, preserve_index=False))
    columns = {"image_id": frame["image_id"], "split": frame["split"], "split_repaired": split}
    for name, part in (("groups", group_table(frame, groups)), ("split_repaired", pd.DataFrame(columns))):
        write_text(folder / f"{name}.csv", part.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "summary.json", summary)


PAIRS = pa.schema(
    [
        *[(f"{name}_{end}", pa.string()) for name in ("image_id", "group_id", "dataset", "split") for end in "ab"],
        ("evidence", pa.list_(pa.string())),
        ("hash_bits", pa.int64()),
        ("similarity", pa.float64()),
        ("normalised", pa.float64()),
        ("agreement", pa.float64()),
        ("overlap", pa.float64()),
        ("degrees", pa.float64()),
        ("scale", pa.float64()),
        ("mirrored", pa.bool_()),
        ("across_splits", pa.bool_()),
        ("across_datasets", pa.bool_()),
        ("labels_agree", pa.bool_()),
        ("leak_group", pa.int64()),
    ]
)
"""Schema of ``pairs.parquet``: one row per confirmed pair of images."""
