"""Scores by skin type, sex, age and centre, with the gap between the best and the worst group."""

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
"""The group of the images whose value is not known. It is scored, but never ranked."""


def attributes(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The attributes that form groups, by name: ``(N,)`` of text or None. Attributes without any value are left out."""
    pairs = frame["fitzpatrick"].map(TONE_GROUPS, na_action="ignore")  # pooled as in the literature
    found = {
        "fitzpatrick": _text(frame["fitzpatrick"].map(lambda kind: f"{kind:.0f}", na_action="ignore")),
        "fitzpatrick_pairs": _text(pairs.where(pairs.notna(), frame["tone_group"])),
        "sex": _text(frame["sex"]),
        "age": age_bands(frame["age"]),
        "centre": _text(frame["centre"] if "centre" in frame else frame["country"]),
    }
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def _text(values: pd.Series) -> np.ndarray:
    return values.astype(object).where(values.notna(), None).to_numpy()


def values_of(predictions: Predictions, frame: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """The value of each prediction, from the ``values`` of ``frame`` by id; None for a case whose images differ."""
    key = "image_id" if "image_id" in predictions.frame else "case_id"
    table = pd.DataFrame({"id": frame[key], "value": values}).dropna()
    same = table.groupby("id")["value"].agg(lambda found: found.iloc[0] if found.nunique() == 1 else None)
    return _text(predictions.frame[key].map(same))


def group_scores(predictions: Predictions, values: np.ndarray, draws: int, seed: int) -> dict[str, Any]:
    """All scores of each group with intervals by patient, and the gap between the best and the worst group.

    ``values`` ``(N,)`` name the group of each row; None is the group `MISSING`. ``gap`` is that of balanced accuracy;
    ``gaps`` holds the gap of every score.

    A group with fewer than `MIN_PATIENTS` patients, or with one class, is named but not scored. Only groups with every
    class are ranked, because fewer classes are easier to tell apart. Best and worst group are those of the sample. The
    gap is thus the largest of several differences, and errs on the large side.
    """
    named = np.array([MISSING if value is None else value for value in values], dtype=object)
    # ``<=16``, ``17-40``, ``>65``, then the missing values.
    order = sorted(set(named), key=lambda value: (value == MISSING, value[0] != "<", value[0] == ">", value))
    rows, sampled = [], {}
    for index, value in enumerate(order):
        inside = predictions.rows(named == value)
        held = [len(set(inside.groups[inside.truth == label])) for label in np.unique(inside.truth)]
        row: dict[str, Any] = {"value": value, "patients": len(set(inside.groups)), "rows": len(inside)}
        row |= {"classes": len(held), "rare_classes": sum(patients < RARE for patients in held)}
        few = row["patients"] < MIN_PATIENTS
        row["status"] = "insufficient" if few else "one class" if len(held) < 2 else "scored"
        if row["status"] == "scored":
            (found,) = paired_scores([[inside]], draws, seed + index)
            row |= {name: own.entry() for name, own in found.scores.items() if np.ndim(own.value) == 0}
            sampled[value] = found.drawn
        rows.append(row)
    gaps = _gaps(rows, sampled, len(np.unique(predictions.truth)))
    return {"groups": rows, "gap": gaps.get(RANKED_BY), "gaps": gaps}


def is_ranked(row: dict[str, Any], classes: int) -> bool:
    """Whether a group is compared with others: it is scored, its value is known, and it has all ``classes``."""
    return row["status"] == "scored" and row["classes"] == classes and row["value"] != MISSING


def _gaps(rows: list[dict[str, Any]], sampled: dict[str, dict[str, np.ndarray]], classes: int) -> dict[str, Any]:
    """By score, the best and the worst group and the gap between them; empty with fewer than two ranked groups."""
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
