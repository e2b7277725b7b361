"""Scores of clean images (not seen in pretraining) and of contaminated ones (seen), and their difference.

The two sides have different images, so nothing is paired by image. The bootstrap draws whole patients, within strata of
class and side. So the clean and the contaminated images of one patient are drawn together. Where no patient has images
on both sides, the sides are independent.
"""

from typing import Any

import numpy as np
import pandas as pd

from dermeval.features.ledger import Seen
from dermeval.features.options import HASH_BITS
from dermeval.pages.tables import show
from dermeval.probes.predictions import Predictions
from dermeval.statistics.bootstrap import MIN_PATIENTS, Interval, cluster_codes, drawn_weights, percentiles, too_narrow
from dermssl.errors import InputError

SIDES = ("clean", "contaminated")


def clean_and_contaminated(images: Predictions, seen: Seen, unit: str, draws: int, seed: int) -> dict[str, Any]:
    """The entry ``contamination`` of ``result.json``: how many scored images were seen, why, and the two scores.

    ``known`` is False where the ledger cannot be read. ``sides`` is None where the two cannot be compared; ``why`` then
    gives the reason. ``unit`` is what a group is.
    """
    if seen.reasons is None:
        return {"known": False, "source": seen.source, "images": len(images)}
    reasons = seen.reasons.loc[images.frame["image_id"]]
    flags = reasons.any(axis=1).to_numpy()
    return {
        "known": True,
        "source": seen.source,
        "images": len(images),
        "contaminated": int(flags.sum()),
        "reasons": {name: int(count) for name, count in reasons.sum().items()},
        "hash_only": int((reasons["hash"] & (reasons.sum(axis=1) == 1)).sum()),
        "suspected": int(images.frame["image_id"].isin(seen.suspected).sum()),
    } | _compared(images, flags.astype(int), unit, draws, seed)


def _compared(images: Predictions, side: np.ndarray, unit: str, draws: int, seed: int) -> dict[str, Any]:
    """Balanced accuracy of each side over the classes that both have, and the difference: contaminated minus clean."""
    shared = sorted(set(images.truth[side == 0]) & set(images.truth[side == 1]))
    kept = np.isin(images.truth, shared)
    images, side = images.rows(kept), side[kept]
    patients = [len(set(images.groups[side == number])) for number in (0, 1)]
    if len(shared) < 2:
        return {"sides": None, "why": "the two have fewer than two classes in common"}
    if min(patients) < MIN_PATIENTS:
        return {"sides": None, "why": f"one of the two has fewer than {MIN_PATIENTS} {unit}s"}
    truth, clusters = np.searchsorted(shared, images.truth), cluster_codes(images.groups)
    # Rows of each cluster by class and side, and how many of them are recognised.
    support, hits = np.zeros((2, clusters.max() + 1, 2 * len(shared)))
    np.add.at(support, (clusters, 2 * truth + side), 1)
    np.add.at(hits, (clusters, 2 * truth + side), images.probabilities.argmax(1) == images.truth)

    def balanced(weights: np.ndarray) -> np.ndarray:
        recall = (weights.T @ hits) / (weights.T @ support)
        return recall.reshape(len(recall), -1, 2).mean(1)

    try:
        drawn = np.concatenate([balanced(weights) for weights, _ in drawn_weights(support, draws, seed)])
    except InputError as problem:
        return {"sides": None, "why": str(problem)}
    point, rows, narrow = balanced(np.ones((len(support), 1)))[0], [], []
    for number, name in enumerate(SIDES):
        low, high = percentiles(drawn[:, number])
        narrow.append(too_narrow("balanced_accuracy", point[number], support[:, number::2]) | (low == high))
        row = {"side": name, "images": int((side == number).sum()), "patients": patients[number]}
        rows.append(row | Interval(point[number], low, high, narrow[-1]).entry())
    difference = Interval(point[1] - point[0], *percentiles(drawn[:, 1] - drawn[:, 0]), any(narrow))
    both = int((support.reshape(len(support), -1, 2).sum(1) > 0).all(1).sum())
    classes = [images.classes[label] for label in shared]
    return {"sides": rows, "difference": difference.entry(), "classes": classes, "patients_on_both": both}


def cannot_tell(source: str) -> str:
    """The sentence for an encoder whose ledger cannot be read."""
    return f"clean and contaminated images cannot be told apart: {source}"


def contamination_summary(entry: dict[str, Any], split: str) -> str:
    """The entry in one sentence; ``split`` is ``official`` or ``folds``."""
    if not entry["known"]:
        return cannot_tell(entry["source"])
    text = f"{entry['contaminated']} of {entry['images']} scored images are contaminated"
    if not entry["contaminated"]:
        return f"{text}: the encoder saw none of them in pretraining ({entry['source']})"
    hits = {name: f"{name} {count}" for name, count in entry["reasons"].items() if count}
    if entry["hash_only"]:
        hits["hash"] += f", {entry['hash_only']} of them by hash alone"
    text += ": the encoder saw them, a copy, or their patient or lesion in pretraining, without labels "
    text += f"(reasons: {'; '.join(hits.values())})"
    if split == "folds":
        text += "; folds also score images that the encoder was trained on, a held-out test split does not"
    return text + (f"; clean and contaminated are not compared: {entry['why']}" if entry["sides"] is None else "")


def contamination_lines(entry: dict[str, Any], split: str, unit: str) -> list[str]:
    """The section of a text report: the summary, possible copies, the ledger, and a table of the two sides."""
    text = ["", contamination_summary(entry, split)]
    if entry.get("suspected"):
        text.append(
            f"{entry['suspected']} more may be copies of seen images: their perceptual hashes differ by {HASH_BITS} "
            "bits or less, but one image of each pair could not be read, so these count as clean"
        )
    if entry.get("contaminated"):
        text.append(f"ledger: {entry['source']}")
    sides = sides_table(entry, unit)
    return text + (["", pd.DataFrame(sides).to_string(index=False)] if sides else [])


def sides_table(entry: dict[str, Any], unit: str) -> list[dict[str, Any]]:
    """Rows for clean, contaminated and their difference; none where the two are not compared."""
    if not entry.get("sides"):
        return []
    score, both = f"balanced accuracy of {len(entry['classes'])} classes", entry["patients_on_both"]
    how = f"{both} on both, resampled together" if both else "resampled independently"
    rows = [
        {"": one["side"], "images": one["images"], f"{unit}s": one["patients"], score: show(one)}
        for one in entry["sides"]
    ]
    return [*rows, {"": "difference", "images": "", f"{unit}s": how, score: show(entry["difference"], "+.3f")}]
