"""``dermeval leaks``: which records share near-duplicate images, and a split that does not separate them.

The evidence is about pairs of images: both show one scene or one lesion. It says nothing about the person shown.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dermeval.features.ledger import seen_images
from dermeval.leaks import certainty, report
from dermeval.leaks.decisions import ACCEPT, FILE, REJECT, decided, kept_pairs, read_decisions, write_results
from dermeval.leaks.earlier import FILE as AUDITED
from dermeval.leaks.earlier import IDENTITY, VERSION, open_earlier
from dermeval.leaks.find import ScoredPairs, find_pairs
from dermeval.leaks.groups import LARGE, group_table, side
from dermeval.leaks.options import PRECISION, LeaksOptions
from dermeval.leaks.pairs import IDENTICAL_SCORE, LESION, SCENE, rank_pairs, write_ranking
from dermeval.leaks.planted import scores_of_planted
from dermeval.leaks.records import AuditedImages, open_audited
from dermeval.leaks.terminal import PICTURE as REVIEW_PICTURE
from dermeval.leaks.work import open_work
from dermssl import licences
from dermssl.atomic import atomic_folder, locked, remove_folder
from dermssl.commandline import Report
from dermssl.dataset.dataset import open_dataset
from dermssl.errors import InputError
from dermssl.files import write_csv, write_json, write_npy, write_parquet
from dermssl.paths import require_new_folder

SEEN = "pretrained_on.csv"
PICTURE = "images/" + 16 * "[0-9a-f]" + ".jpg"
WRITTEN = (
    *("summary.json", "pairs.parquet", "ranking.parquet", "images.parquet", "background.npy"),
    *("groups.csv", "ranking.csv", "split_repaired.csv", "decisions.csv", "report.html", SEEN, PICTURE),
    REVIEW_PICTURE,
)
"""Files of a leaks folder."""


def leaks(options: LeaksOptions) -> Report | None:
    """Audit dataset folders; see `LeaksOptions`. Ranks above 0 return None."""
    if options.precision is not None and options.expected_false is not None:
        raise InputError("--precision and --expected-false both set the threshold: give one of them")
    out = Path(options.out)
    require_new_folder(out, options.overwrite, WRITTEN, options.folders, key="pairs_by_evidence")
    images = open_audited(options.folders, options.every_image)
    with locked(out):
        decisions = read_decisions(out / FILE)
        earlier = open_earlier(options.since, images, options.every_image)
        work = open_work(out, images, options)
        found = find_pairs(images, options, work, earlier)
        work.meet()  # all have read what rank 0 removes at the end
        if work.rank:
            return None
        ranking = rank_pairs(found, options.ranked, images, earlier)
        ranking, threshold = confirmed_ranking(ranking, decisions, options)
        with atomic_folder(out) as folder:
            pairs = kept_pairs(ranking, decisions)
            write_ranking(folder, ranking)
            groups, split = write_results(folder, images, pairs)
            write_parquet(folder / AUDITED, pa.Table.from_pandas(images.frame[IDENTITY], preserve_index=False))
            write_npy(folder / "background.npy", found.background.scores.astype(np.float32))
            data = _summary(images, pairs, groups, split, options)
            data |= {"sources": found.shares_of_sources(threshold), "hidden": found.hidden()}
            data |= {"certainty": _certainty(images, found, ranking, threshold, options)}
            data["pretraining"] = _seen(folder, images)
            write_json(folder / "summary.json", data)
            lines = _lines(data)
            if len(decisions):
                write_csv(folder / FILE, decisions)
            report.write_report(folder, images, pairs, lines, data["notes"], options.shown)
        remove_folder(work.folder)
    below = [*lines[1:], *(f"note: {note}" for note in data["notes"]), *licences.notice_lines(images.licences)]
    return Report("\n  ".join([f"{out}: {lines[0]}", *below]), data | {"out": str(out)})


def confirmed_ranking(
    ranking: pd.DataFrame, decisions: pd.DataFrame, options: LeaksOptions
) -> tuple[pd.DataFrame, float]:
    """The ranking with a column ``confirmed``, and the threshold: the lowest score of a confirmed pair.

    A person's decisions bound the number of false pairs above a score: it is at least the number of rejected pairs, and
    at most the number of pairs that were not accepted.
    """
    table = ranking[ranking["score"] < IDENTICAL_SCORE]
    verdict, scores = decided(table, decisions), table["score"].to_numpy(float)

    def above(part: np.ndarray) -> np.ndarray:
        return len(part) - np.searchsorted(np.sort(part), scores)

    at_least, at_most = above(scores[verdict == REJECT]), above(scores[verdict != ACCEPT])
    expected, most = (
        np.clip(table[name].to_numpy(float), at_least, at_most) for name in ("expected_false", "most_false")
    )
    threshold = certainty.threshold_of(scores, expected, most, options.precision or PRECISION, options.expected_false)
    return ranking.assign(confirmed=ranking["score"] >= min(threshold, IDENTICAL_SCORE)), threshold


def _summary(
    images: AuditedImages, pairs: pd.DataFrame, groups: np.ndarray, split: pd.Series, options: LeaksOptions
) -> dict[str, Any]:
    frame = images.frame
    table = group_table(frame, groups, images.labels)
    per_group = table.drop_duplicates("leak_group")
    after = side(split).to_numpy()
    moved = after != side(frame["split"]).to_numpy()
    of_a, of_b = (after[pairs[end].to_numpy(np.int64)] for end in ("a", "b"))
    evidence = pairs["evidence"].explode()
    return {
        "version": VERSION,
        "every_image": options.every_image,
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


def _certainty(
    images: AuditedImages, found: ScoredPairs, ranking: pd.DataFrame, threshold: float, options: LeaksOptions
) -> dict[str, Any]:
    """What the threshold rests on, the recall of planted copies, and the false-match ratios."""
    precision = options.precision or PRECISION
    planted = scores_of_planted(images.pictures, options.planted, found.store.detail, options.workers)
    scores, kept = ranking["score"].to_numpy(float), ranking["confirmed"].to_numpy(bool)
    reached = certainty.would_be_confirmed(
        planted["score"].to_numpy(float), scores, kept, found.background, precision, options.expected_false
    )
    background, ends = found.background.scores, found.candidates[["a", "b"]].to_numpy(np.int64)
    above = int(found.background.counted(np.array([threshold]))[0])
    return {
        "precision": precision if options.expected_false is None else None,
        "expected_false": options.expected_false,
        "threshold": None if np.isinf(threshold) else threshold,
        "confirmed_by_score": int((kept & (scores < IDENTICAL_SCORE)).sum()),
        "background_pairs": len(background),
        "background_pairs_above": above,
        "most_false_by_count": float(above + certainty.poisson_bound(above)),
        "expected_false_pairs": float(ranking["expected_false"][kept].max()) if kept.any() else 0.0,
        "compared": len(found.candidates),
        "highest_background": float(background[0]) if len(background) else None,
        "planted": {
            "copies": len(planted),
            "recall": float(reached.mean()) if len(planted) else None,
            "by_kind": pd.Series(reached).groupby(planted["kind"].to_numpy(), sort=False).mean().to_dict(),
        },
        "false_match_ratio": certainty.false_match_ratios(
            certainty.world_scores(found.evidence)[:, 1], _strata_of_pairs(images, ends)
        ),
    }


def _seen(folder: Path, images: AuditedImages) -> list[dict[str, Any]]:
    """The number of images of each split that each encoder saw in pretraining; ``pretrained_on.csv`` lists them."""
    entries, tables = [], []
    known = {entry["name"]: open_dataset(entry["path"]) for entry in images.datasets}
    for one in images.embedded:
        frame = images.frame.iloc[one.rows]
        seen = seen_images(one.encoder, frame, known)
        entry = {"encoder": one.encoder["path"], "source": seen.source, "known": seen.reasons is not None}
        if seen.reasons is not None:
            flags, split = seen.reasons.any(axis=1).to_numpy(), frame["split"].fillna("none")
            counts = pd.crosstab(split.to_numpy(), flags).reindex(columns=[False, True], fill_value=0)
            entry["splits"] = {name: [int(row[True]), int(row.sum())] for name, row in counts.iterrows()}
            table = seen.reasons[flags].reset_index(names="image_id")
            tables.append(table.assign(encoder=one.encoder["path"], split=frame["split"].to_numpy()[flags]))
        entries.append(entry)
    if tables:
        write_csv(folder / SEEN, pd.concat(tables, ignore_index=True))
    return entries


def _strata_of_pairs(images: AuditedImages, ends: np.ndarray) -> dict[str, np.ndarray]:
    """For each data set and each Fitzpatrick type the pairs ``(P, 2)`` of which both images belong to it, ``(P,)``."""
    strata = {}
    for column, title in (("dataset", "data set"), ("fitzpatrick", "Fitzpatrick")):
        for value in images.frame.get(column, pd.Series(dtype=object)).dropna().unique():
            shown = f"{value:g}" if isinstance(value, float) else value
            strata[f"{title} {shown}"] = (images.frame[column].to_numpy()[ends] == value).all(axis=1)
    return strata


def _shares(split: pd.Series) -> dict[str, dict[str, float]]:
    counts = split.fillna("none").value_counts().sort_index()
    return {str(name): {"images": int(n), "share": round(float(n / len(split)), 4)} for name, n in counts.items()}


def _notes(images: AuditedImages) -> list[str]:
    notes = ["The evidence is about images and splits: it says which records share near-duplicate images, no more."]
    closed = [entry["dataset"] for entry in images.licences if not entry["relinking"]]
    if closed and images.frame["dataset"].nunique() > 1:
        notes.append(
            f"The licence of {', '.join(closed)} forbids re-linking, so its images were compared with other data sets "
            "only as copies (same file, same pixels, near hash), not by embeddings, colours or local features."
        )
    no_key = [entry["name"] for entry in images.datasets if not entry["patient_key"]]
    if no_key:
        notes.append(f"{', '.join(no_key)} has no patient key: patient leakage cannot be ruled out.")
    if images.frame["group_id"].nunique() < 2:
        notes.append("There is one record only, so no pair of records could be compared.")
    if any(entry["synthetic"] for entry in images.datasets):
        notes.append("SYNTHETIC data, made by dermssl.")
    return notes


def _lines(data: dict[str, Any]) -> list[str]:
    """The printed report, the headline first."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in data["pairs_by_evidence"].items()) or "none"
    sure, after = data["certainty"], data["split_repaired"]
    shares = "; ".join(
        f"{name} {100 * before['share']:.1f}% -> {100 * after.get(name, {'share': 0})['share']:.1f}%"
        for name, before in data["split"].items()
    )
    wanted = f"{sure['expected_false']:g} expected false pairs" if sure["precision"] is None else ""
    wanted = wanted or f"precision {sure['precision']:g}"
    threshold = "no pair reaches it" if sure["threshold"] is None else f"score >= {sure['threshold']:.2f}"
    lines = [
        f"{data['records_in_leak_groups']} of {data['records']} records share near-duplicate images "
        f"({data['pairs']} pairs of {data['images']} images)",
        f"pairs             {', '.join(f'{count} {kind}' for kind, count in data['pairs_by_kind'].items())}",
        f"evidence          {kinds}",
        f"compared          {sure['compared']} candidate pairs; threshold for {wanted}: {threshold}, "
        f"{sure['expected_false_pairs']:.1f} false pairs expected",
        f"background        {_resolution(sure)}",
        f"across splits     {data['pairs_across_splits']} pairs, {data['leak_groups_across_splits']} of "
        f"{data['leak_groups']} leak groups",
        f"across data sets  {data['pairs_across_datasets']} pairs, {data['leak_groups_across_datasets']} leak groups",
        f"labels            {data['pairs_with_different_labels']} pairs have different labels, "
        f"{data['leak_groups_with_label_conflicts']} leak groups hold a conflict",
        f"repaired split    {data['records_moved']} records ({data['images_moved']} images) moved; {shares}",
    ]
    return lines + _further_lines(data)


def _further_lines(data: dict[str, Any]) -> list[str]:
    """The lines that only some audits have."""
    lines, sure = list[str](), data["certainty"]
    if data["hidden"]["images"]:
        lines.append(
            f"left out          {100 * data['hidden']['share']:.0f}% of the area of {data['hidden']['images']} "
            "images, where a ruler, stamp, frame or watermark stands at the same place in several records"
        )
    if left := data["pairs_across_splits_after_repair"]:
        lines.append(
            f"left across       {left} confirmed pairs lie across splits after the repair, each too weak to join two "
            "records: to accept a pair in `dermeval review` joins its records"
        )
    if data["large_leak_groups"]:
        lines.append(f"large groups      {data['large_leak_groups']} have more than {LARGE} records: check these first")
    if sure["planted"]["copies"]:
        by_kind = ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in sure["planted"]["by_kind"].items())
        share = f"{100 * sure['planted']['recall']:.0f}%"
        lines.append(f"planted copies    {share} of the copies that the audit made would be confirmed ({by_kind})")
    if sure["false_match_ratio"]:
        ratios = ", ".join(f"{name} {entry['ratio']:g}" for name, entry in sure["false_match_ratio"].items())
        lines.append(f"false matches     ratio to the rate among all background pairs: {ratios}")
    for entry in data["pretraining"]:
        counts = "; ".join(f"{name} {seen} of {all_}" for name, (seen, all_) in entry.get("splits", {}).items())
        lines.append(
            f"pretraining       images that {entry['encoder']} saw: {counts or 'not known'} ({entry['source']})"
        )
    return lines


def _resolution(sure: dict[str, Any]) -> str:
    """Which false-pair counts and precisions the number of background pairs can support."""
    most, count = sure["most_false_by_count"], sure["confirmed_by_score"]
    text = f"{sure['background_pairs']} mirrored pairs, {sure['background_pairs_above']} of them above the threshold: "
    text += f"by this count at most {most:.1f} confirmed pairs are false (95% confidence)"
    if sure["precision"] is None:
        return text
    needed = math.ceil(most / (1 - sure["precision"]))
    text += f", which is enough for precision {sure['precision']:g} from {needed} pairs on"
    below = f"; with {count} pairs the threshold rests on the extrapolated tail of the background"
    return text + (below if 0 < count < needed else "")
