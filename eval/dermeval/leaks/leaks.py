"""``dermeval leaks``: which records share near-duplicate images, and a split that does not separate them.

The evidence is about pairs of images: both show one scene or one lesion. It says nothing about the person shown.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dermeval.features.ledger import seen_images
from dermeval.leaks import certainty, report
from dermeval.leaks.decisions import ACCEPT, FILE, REJECT, decided, kept_pairs, standing_decisions, write_results
from dermeval.leaks.earlier import BACKGROUND, HASHED, IDENTITY, open_earlier
from dermeval.leaks.earlier import FILE as AUDITED
from dermeval.leaks.find import ScoredPairs, find_pairs
from dermeval.leaks.options import PRECISION, LeaksOptions
from dermeval.leaks.pairs import IDENTICAL_SCORE, rank_pairs, write_ranking
from dermeval.leaks.planted import scores_of_planted
from dermeval.leaks.records import AuditedImages, open_audited
from dermeval.leaks.summary import finding, next_steps, summary_terms
from dermeval.leaks.terminal import PICTURE as REVIEW_PICTURE
from dermeval.leaks.work import open_work
from dermssl import licences
from dermssl.atomic import atomic_folder, locked, remove_folder
from dermssl.commandline import Report
from dermssl.dataset.dataset import open_dataset
from dermssl.errors import InputError
from dermssl.files import sha256_file, write_csv, write_json, write_npy, write_parquet
from dermssl.paths import require_new_folder

SEEN = "pretrained_on.csv"
PICTURE = "images/" + 16 * "[0-9a-f]" + ".jpg"
WRITTEN = (
    *("summary.json", "pairs.parquet", "ranking.parquet", "images.parquet", "background.npy"),
    *("groups.csv", "ranking.csv", "split_repaired.csv", "decisions.csv", "report.html", SEEN, PICTURE),
    REVIEW_PICTURE,
)
"""Files of a leaks folder."""


def leaks(options: LeaksOptions, images: AuditedImages | None = None) -> Report | None:
    """Audit dataset folders, or the ``images`` that were opened from them; see `LeaksOptions`.

    Ranks above 0 return None.
    """
    if options.precision is not None and options.expected_false is not None:
        raise InputError("--precision and --expected-false both set the threshold: give one of them")
    out = Path(options.out)
    require_new_folder(out, options.overwrite, WRITTEN, options.folders, key="pairs_by_evidence")
    images = images or open_audited(options.folders, options.every_image)
    with locked(out):
        decisions = standing_decisions([*map(Path, filter(None, [options.since])), out], images)
        earlier = open_earlier(options.since, images, options.every_image)
        work = open_work(out, images, options)
        with work.together():  # all have read what rank 0 removes at the end
            found = find_pairs(images, options, work, earlier)
        if work.rank:
            return None
        ranking = rank_pairs(found, options.ranked, images, earlier)
        ranking, threshold = confirmed_ranking(ranking, decisions, options)
        with atomic_folder(out) as folder:
            pairs = kept_pairs(ranking, decisions)
            write_ranking(folder, ranking)
            data = write_results(folder, images, pairs)
            write_parquet(folder / AUDITED, pa.Table.from_pandas(images.frame[IDENTITY], preserve_index=False))
            write_npy(folder / BACKGROUND, found.background.scores)
            data |= {
                "sha256": {name: sha256_file(folder / name) for name in HASHED},
                "every_image": options.every_image,
                "shown": options.shown,
                "sources": found.shares_of_sources(threshold),
                "hidden": (earlier.known.all() and earlier.hidden) or found.hidden(),
            }
            data |= {"certainty": _certainty(images, found, ranking, threshold, options)}
            data["notes"] += moved_by_review(ranking, decisions, threshold, options)
            data["pretraining"] = _seen(folder, images)
            write_json(folder / "summary.json", data)
            terms, steps = summary_terms(data), next_steps(data, out)
            if len(decisions):
                write_csv(folder / FILE, decisions)
            report.write_report(folder, images, pairs, data, terms, steps)
        remove_folder(work.folder)
    lines = [f"{name:<18}{text}" for name, text in terms.items()] + [f"{'next':<18}{step}" for step in steps]
    lines += [*(f"note: {note}" for note in data["notes"]), *licences.notice_lines(images.licences)]
    return Report("\n  ".join([f"{out}: {finding(data)}", *lines]), data | {"out": str(out)})


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


def moved_by_review(
    ranking: pd.DataFrame, decisions: pd.DataFrame, threshold: float, options: LeaksOptions
) -> list[str]:
    """A note if a person's decisions moved the threshold: one wrong rejection can raise it far."""
    before = confirmed_ranking(ranking, decisions.iloc[:0], options)[1]
    if before == threshold:
        return []
    old, new = ("none" if np.isinf(score) else f"{score:.2f}" for score in (before, threshold))
    why = "rejected pairs count as false, accepted pairs as true; take a wrong decision out of decisions.csv"
    return [f"The decisions of an earlier review moved the threshold from {old} to {new}: {why}."]


def _certainty(
    images: AuditedImages, found: ScoredPairs, ranking: pd.DataFrame, threshold: float, options: LeaksOptions
) -> dict[str, Any]:
    """What the threshold rests on, the recall of planted copies, and the false-match ratios."""
    precision = options.precision or PRECISION
    planted = scores_of_planted(images.pictures, options.planted, found.store.detail, options.workers)
    # The threshold follows from the pairs that were compared, so identical images do not count here either.
    table = ranking[ranking["score"] < IDENTICAL_SCORE]
    scores, kept = table["score"].to_numpy(float), table["confirmed"].to_numpy(bool)
    reached = certainty.would_be_confirmed(
        planted["score"].to_numpy(float), scores, kept, found.background, precision, options.expected_false
    )
    background, by_chance = found.background.scores, ~certainty.mirrored_copies(found.evidence)
    ends = found.candidates[["a", "b"]].to_numpy(np.int64)[by_chance]
    above = int(found.background.counted(np.array([threshold]))[0])
    return {
        "precision": precision if options.expected_false is None else None,
        "expected_false": options.expected_false,
        "threshold": None if np.isinf(threshold) else threshold,
        "confirmed_by_score": int(kept.sum()),
        "background_pairs": len(background),
        "background_pairs_above": above,
        "most_false_by_count": float(above + certainty.poisson_bound(above)),
        "expected_false_pairs": float(table["expected_false"][kept].max()) if kept.any() else 0.0,
        "compared": len(found.candidates),
        "highest_background": float(background[0]) if len(background) else None,
        "planted": {
            "copies": len(planted),
            "recall": float(reached.mean()) if len(planted) else None,
            "by_kind": pd.Series(reached).groupby(planted["kind"].to_numpy(), sort=False).mean().to_dict(),
        },
        "false_match_ratio": certainty.false_match_ratios(
            certainty.world_scores(found.evidence[by_chance])[:, 1], _strata_of_pairs(images, ends)
        ),
    }


def _seen(folder: Path, images: AuditedImages) -> list[dict[str, Any]]:
    """The number of images of each split that each encoder saw in pretraining; ``pretrained_on.csv`` lists them."""
    entries, tables = [], []
    known = {entry["name"]: open_dataset(entry["path"]) for entry in images.datasets}
    own = pd.concat([dataset.frame(["image_id", "group_id"]) for dataset in known.values()]).set_index("image_id")
    for one in images.embedded:
        frame = images.frame.iloc[one.rows]
        frame = frame.assign(group_id=own["group_id"][frame["image_id"]].to_numpy())  # not that of --every-image
        seen = seen_images(one.encoder, frame, known)
        entry = {"encoder": one.encoder["path"], "fingerprint": one.encoder["fingerprint"], "features": one.digest()}
        entry |= {"source": seen.source, "known": seen.reasons is not None}
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
        for value in images.frame[column].dropna().unique():
            shown = f"{value:g}" if isinstance(value, float) else value
            strata[f"{title} {shown}"] = (images.frame[column].to_numpy()[ends] == value).all(axis=1)
    return strata
