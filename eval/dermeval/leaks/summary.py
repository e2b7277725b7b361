"""The counts of a leak audit, in numbers and in words, and what to do next."""

import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.leaks.earlier import RANKING, VERSION
from dermeval.leaks.groups import LARGE, side
from dermeval.leaks.pairs import LESION, SCENE
from dermeval.leaks.records import AuditedImages
from dermssl.errors import counted
from dermssl.files import read_json, reading
from dermssl.paths import inside, require_folder

MAKER = "dermeval leaks"


def summary_of(images: AuditedImages, pairs: pd.DataFrame, table: pd.DataFrame, split: pd.Series) -> dict[str, Any]:
    """The counts of ``summary.json`` for the kept ``pairs``, the ``table`` of their leak groups, the repaired split."""
    frame, per_group = images.frame, table.drop_duplicates("leak_group")
    after = side(split).to_numpy()
    moved = after != side(frame["split"]).to_numpy()
    of_a, of_b = (after[pairs[end].to_numpy(np.int64)] for end in ("a", "b"))
    evidence = pairs["evidence"].explode()
    return {
        "version": VERSION,
        "images": len(frame),
        "records": int(frame["group_id"].nunique()),
        "pairs": len(pairs),
        "pairs_by_kind": {kind: int((pairs["kind"] == kind).sum()) for kind in (SCENE, LESION)},
        "pairs_by_evidence": {str(name): int(count) for name, count in evidence.value_counts().items()},
        "pairs_across_splits": int(pairs["across_splits"].sum()),
        "pairs_across_splits_after_repair": int((of_a != of_b).sum()),
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
        "images_moved": int(moved.sum()),
        "records_moved": int(frame["group_id"][moved].nunique()),
        "datasets": images.datasets,
        "licences": images.licences,
        "notes": _notes(images),
    }


def _shares(split: pd.Series) -> dict[str, dict[str, float]]:
    counts = split.fillna("none").value_counts().sort_index()
    return {str(name): {"images": int(n), "share": round(float(n / len(split)), 4)} for name, n in counts.items()}


def _notes(images: AuditedImages) -> list[str]:
    notes = ["The evidence is about images and splits: it says which records share near-duplicate images, no more."]
    audited = set(images.frame["dataset"])  # some licences are of data that an encoder was trained on
    closed = [entry["dataset"] for entry in images.licences if not entry["relinking"] and entry["dataset"] in audited]
    if closed and len(audited) > 1:
        notes.append(
            f"The licence of {', '.join(closed)} forbids re-linking, so its images were compared with other data sets "
            "only as copies (same file, same pixels, near hash), not by embeddings, colours or local features."
        )
    no_key = [entry["name"] for entry in images.datasets if not entry["patient_key"]]
    if no_key:
        notes.append(f"{', '.join(no_key)} has no patient key: patient leakage cannot be ruled out.")
    joined = int((images.frame.groupby("group_id")["patient_id"].nunique() > 1).sum())
    if joined:
        notes.append(
            f"Several patients count as one record in {counted(joined, 'record')}, since they have identical files or "
            "one lesion or case (problems.csv of the data set). --every-image finds the pairs within a record too."
        )
    if images.frame["group_id"].nunique() < 2:
        notes.append("There is one record only, so no pair of records could be compared.")
    if any(entry["synthetic"] for entry in images.datasets):
        notes.append("SYNTHETIC data, made by dermssl.")
    return notes


def read_summary(folder: Path) -> dict[str, Any]:
    """``summary.json`` of a leaks folder. Raises InputError unless it has all the results that a review rewrites."""
    path = inside(require_folder(folder, "summary.json", MAKER), "summary.json")
    data = read_json(path, MAKER)
    with reading(path, MAKER):  # a damaged one may lack some
        _ = summary_terms(data), next_steps(data, folder), [*data["notes"], *(one["path"] for one in data["datasets"])]
        _ = data["sha256"][RANKING]
    return data


def finding(data: dict[str, Any]) -> str:
    """The result of the audit in one sentence."""
    return (
        f"{data['records_in_leak_groups']} of {data['records']} records share near-duplicate images "
        f"({counted(data['pairs'], 'pair')} of {counted(data['images'], 'image')})"
    )


def summary_terms(data: dict[str, Any]) -> dict[str, str]:
    """The results of the audit in words, by their names."""
    sure, after = data["certainty"], data["split_repaired"]
    shares = "; ".join(
        f"{name} {100 * before['share']:.1f}% -> {100 * after.get(name, {'share': 0})['share']:.1f}%"
        for name, before in data["split"].items()
    )
    wanted = f"{sure['expected_false']:g} expected false pairs" if sure["precision"] is None else ""
    wanted = wanted or f"precision {sure['precision']:g}"
    threshold = "no pair reaches it" if sure["threshold"] is None else f"score >= {sure['threshold']:.2f}"
    terms = {
        "pairs": ", ".join(f"{count} {kind}" for kind, count in data["pairs_by_kind"].items()),
        "evidence": ", ".join(f"{kind} {count}" for kind, count in data["pairs_by_evidence"].items()) or "none",
        "compared": f"{counted(sure['compared'], 'candidate pair')}; threshold for {wanted}: {threshold}, "
        f"{sure['expected_false_pairs']:.1f} false pairs expected",
        "background": _resolution(sure),
        "across splits": f"{counted(data['pairs_across_splits'], 'pair')}, {data['leak_groups_across_splits']} of "
        f"{counted(data['leak_groups'], 'leak group')}",
        "across data sets": f"{counted(data['pairs_across_datasets'], 'pair')}, "
        f"{counted(data['leak_groups_across_datasets'], 'leak group')}",
        "labels": f"different in {counted(data['pairs_with_different_labels'], 'pair')} and within "
        f"{counted(data['leak_groups_with_label_conflicts'], 'leak group')}",
        "repaired split": f"{counted(data['records_moved'], 'record')} ({counted(data['images_moved'], 'image')}) "
        f"moved; {shares}",
    }
    return terms | _further_terms(data)


def _further_terms(data: dict[str, Any]) -> dict[str, str]:
    """The results that only some audits have."""
    terms, sure = dict[str, str](), data["certainty"]
    if data["hidden"]["images"]:
        terms["left out"] = (
            f"{100 * data['hidden']['share']:.0f}% of the area of {counted(data['hidden']['images'], 'image')}, where "
            "a ruler, stamp, frame or watermark stands that images of several records show"
        )
    if left := data["pairs_across_splits_after_repair"]:
        terms["left across"] = (
            f"{counted(left, 'confirmed pair')} too weak to join two records, across splits after the repair: to "
            "accept a pair in `dermeval review` joins its records"
        )
    if data["large_leak_groups"]:
        large = counted(data["large_leak_groups"], "group")
        terms["large groups"] = f"{large} of more than {LARGE} records: check these first"
    if sure["planted"]["copies"]:
        by_kind = ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in sure["planted"]["by_kind"].items())
        share = f"{100 * sure['planted']['recall']:.0f}%"
        once = f"{share} of the copies that the audit made would be confirmed once compared"
        terms["planted copies"] = f"{once} ({by_kind})"
    if sure["false_match_ratio"]:
        ratios = ", ".join(f"{name}: {entry['ratio']:g}" for name, entry in sorted(sure["false_match_ratio"].items()))
        terms["false matches"] = f"ratio to the rate among all background pairs: {ratios}"
    for number, entry in enumerate(data["pretraining"], 1):
        counts = "; ".join(f"{name} {seen} of {all_}" for name, (seen, all_) in entry.get("splits", {}).items())
        name = "pretraining" if number == 1 else f"pretraining {number}"
        terms[name] = f"images that {entry['encoder']} saw: {counts or 'not known'} ({entry['source']})"
    return terms


def next_steps(data: dict[str, Any], folder: Path) -> list[str]:
    """What to do with the results in the leaks ``folder``: sentences with commands."""
    out = shlex.quote(str(folder))
    if not data["pairs"]:
        return [f"No pair is confirmed. `dermeval review {out}` shows the strongest pairs below the threshold."]
    steps = [f"`dermeval review {out}` shows the pairs, to accept or reject each."]
    if data["leak_groups_across_splits"]:
        steps.append(f"`dermssl split DATA --apply {out}` puts each leak group on one side of the split.")
    if data["leak_groups"] and not data["every_image"]:
        steps.append(f"`dermssl split DATA --folds 5 --together {out}` draws folds that keep leak groups together.")
    return steps


def _resolution(sure: dict[str, Any]) -> str:
    """Which false-pair counts and precisions the number of background pairs can support."""
    most, count = sure["most_false_by_count"], sure["confirmed_by_score"]
    text = f"{sure['background_pairs']} mirrored pairs, {sure['background_pairs_above']} of them above the threshold: "
    text += f"by this count at most {most:.1f} confirmed pairs are false (95% confidence)"
    if sure["precision"] is None:
        return text
    needed = math.ceil(most / (1 - sure["precision"]))
    text += f", which is enough for precision {sure['precision']:g} from {needed} pairs on"
    below = f"; with {counted(count, 'pair')} the threshold rests on the extrapolated tail of the background"
    return text + (below if 0 < count < needed else "")
