"""Scores per skin type, sex, age and centre, with the worst group and its distance from the best."""

from typing import Any

import numpy as np
import pandas as pd

from dermeval.probes.predictions import Predictions, paired_scores
from dermeval.probes.protocols import age_bands
from dermeval.statistics.bootstrap import MIN_PATIENTS, RARE, Interval, percentiles
from dermssl.dataset.manifest import TONE_GROUPS

LOWER_IS_BETTER = ("brier", "ece")
RANKED_BY = "balanced_accuracy"

MISSING = "missing"
"""The group of the images whose value is not known; scored where there are others, and never ranked."""


def attributes(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """What groups are formed by: name -> ``(N,)`` of text or None, for those columns that hold anything."""
    pairs = frame["fitzpatrick"].map(TONE_GROUPS, na_action="ignore")  # as the literature pools them
    pairs = pairs.where(pairs.notna(), frame["tone_group"]) if "tone_group" in frame else pairs
    found = {
        "fitzpatrick": _text(frame["fitzpatrick"].map(lambda kind: f"{kind:.0f}", na_action="ignore")),
        "fitzpatrick_pairs": _text(pairs),
        "sex": _text(frame["sex"]),
        "age": age_bands(frame["age"]),
        "centre": _text(frame["centre"] if "centre" in frame else frame["country"]),
    }
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def _text(values: pd.Series) -> np.ndarray:
    return values.astype(object).where(values.notna(), None).to_numpy()


def values_of(predictions: Predictions, frame: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """The ``values`` of the task's ``frame`` rows for each row of ``predictions``, matched by id.

    A case takes the value of its images, None where they differ.
    """
    key = "image_id" if "image_id" in predictions.frame else "case_id"
    table = pd.DataFrame({"id": frame[key], "value": values}).dropna()
    same = table.groupby("id")["value"].agg(lambda found: found.iloc[0] if found.nunique() == 1 else None)
    return _text(predictions.frame[key].map(same))


def group_scores(predictions: Predictions, values: np.ndarray, draws: int, seed: int) -> dict[str, Any]:
    """All scores of each value with intervals by patient, and for each the gap between best and worst value.

    ``gap`` is that of balanced accuracy, ``gaps`` holds all. ``values`` are text or None, which is the group `MISSING`.

    Groups under `MIN_PATIENTS` patients, or with one class, are named but not scored. Only groups that hold every
    class are ranked, as fewer classes are an easier question. Best and worst are those of the sample, so the gap is
    the largest of several and errs on the large side.
    """
    named = np.array([MISSING if value is None else value for value in values], dtype=object)
    # ``<=16`` before ``17-40`` before ``>65``, the missing last
    order = sorted(set(named), key=lambda value: (value == MISSING, value[0] != "<", value[0] == ">", value))
    rows, sampled = [], {}
    for index, value in enumerate(order):
        inside = predictions.rows(named == value)
        held = [len(set(inside.groups[inside.truth == label])) for label in np.unique(inside.truth)]
        row: dict[str, Any] = {"value": value, "patients": len(set(inside.groups)), "rows": len(inside)}
        row |= {"classes": len(held), "rare_classes": sum(patients < RARE for patients in held)}
        row["status"] = "one class" if len(held) < 2 else "scored"
        if row["patients"] < MIN_PATIENTS:
            row["status"] = "insufficient"
        if row["status"] == "scored":
            (found,) = paired_scores([[inside]], draws, seed + index)
            row |= {name: own.entry() for name, own in found.scores.items() if np.ndim(own.value) == 0}
            sampled[value] = found.drawn
        rows.append(row)
    gaps = _gaps(rows, sampled, len(np.unique(predictions.truth)))
    return {"groups": rows, "gap": gaps.get(RANKED_BY), "gaps": gaps}


def is_ranked(row: dict[str, Any], classes: int) -> bool:
    """Whether a group is compared with others: it is scored, known, and holds all ``classes``."""
    return row["status"] == "scored" and row["classes"] == classes and row["value"] != MISSING


def _gaps(rows: list[dict[str, Any]], sampled: dict[str, dict[str, np.ndarray]], classes: int) -> dict[str, Any]:
    """Best and worst value of every score, and by how much they differ; nothing with fewer than two ranked values."""
    ranked = [row for row in rows if is_ranked(row, classes)]
    if len(ranked) < 2:
        return {}
    gaps = {}
    for name in (name for name in sampled[ranked[0]["value"]] if name in ranked[0]):
        sign = -1 if name in LOWER_IS_BETTER else 1
        order = sorted(ranked, key=lambda row: sign * row[name]["value"])
        worst, best = order[0], order[-1]
        drawn = sign * (sampled[best["value"]][name] - sampled[worst["value"]][name])
        value = np.float64(sign * (best[name]["value"] - worst[name]["value"]))
        narrow = "narrow" in best[name] or "narrow" in worst[name]
        gap = Interval(value, *percentiles(drawn), narrow)
        gaps[name] = {"best": best["value"], "worst": worst["value"]} | gap.entry()
    return gaps
