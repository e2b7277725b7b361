"""Scores per skin type, sex, age and centre, with the worst group and its distance from the best."""

from typing import Any

import numpy as np
import pandas as pd

from dermeval.probes.intervals import interval_json
from dermeval.probes.predictions import Predictions
from dermeval.probes.protocols import age_bands
from dermeval.statistics.bootstrap import (
    MIN_PATIENTS,
    Interval,
    cluster_codes,
    debiased,
    interval_of,
    percentiles,
    resample,
)
from dermeval.statistics.scorer import Scorer

LOWER_IS_BETTER = ("brier", "ece")
RANKED_BY = "balanced_accuracy"
RARE = 5
"""A class with fewer patients hardly varies between draws, so that intervals over classes come out too narrow."""


def attributes(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """What groups are formed by: name -> ``(N,)`` of text or None, for those columns that hold anything."""
    found = {
        "fitzpatrick": _text(frame["fitzpatrick"].map(lambda kind: f"{kind:.0f}", na_action="ignore")),
        "sex": _text(frame["sex"]),
        "age": age_bands(frame["age"]),
        "centre": _text(frame["centre"] if "centre" in frame else frame["country"]),
    }
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def _text(values: pd.Series) -> np.ndarray:
    return values.astype(object).where(values.notna(), None).to_numpy()


def of_predictions(predictions: Predictions, frame: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """The ``values`` of the task's ``frame`` rows for each row of ``predictions``, matched by id.

    A case takes the value of its images, None where they differ.
    """
    key = "image_id" if "image_id" in predictions.frame else "case_id"
    table = pd.DataFrame({"id": frame[key], "value": values}).dropna()
    same = table.groupby("id")["value"].agg(lambda found: found.iloc[0] if found.nunique() == 1 else None)
    return _text(predictions.frame[key].map(same))


def group_scores(
    predictions: Predictions, values: np.ndarray, positive: int | None, draws: int, seed: int
) -> dict[str, Any]:
    """All scores of each value with intervals by patient, and for each the gap between best and worst value.

    ``gap`` is that of balanced accuracy, ``gaps`` holds all.

    Groups under `MIN_PATIENTS` patients, or with one class, are named but not scored. Only groups that hold every
    class are ranked, as fewer classes are an easier question. Best and worst are those of the sample, so the gap is
    the largest of several and errs on the large side.
    """
    rows, sampled = [], {}
    for index, value in enumerate(_ordered(values)):
        inside = values == value
        groups = predictions.frame["group_id"].to_numpy(dtype=object)[inside]
        truth = predictions.truth[inside]
        row: dict[str, Any] = {"value": value, "patients": len(set(groups)), "rows": int(inside.sum())}
        row["classes"] = len(np.unique(truth))
        row["rare_classes"] = sum(len(set(groups[truth == label])) < RARE for label in np.unique(truth))
        row["status"] = _status(row)
        if row["status"] == "scored":
            scorer = Scorer(truth, predictions.probabilities[inside], cluster_codes(groups), positive)
            (drawn,), _ = resample([scorer], draws, seed + index)
            point = scorer.point()
            single = [name for name in point if np.ndim(point[name]) == 0]
            row |= {name: interval_json(interval_of(name, point[name], drawn[name])) for name in single}
            sampled[value] = {name: debiased(name, point[name], drawn[name])[1] for name in single}
        rows.append(row)
    gaps = _gaps(rows, sampled, len(np.unique(predictions.truth)))
    return {"groups": rows, "gap": gaps.get(RANKED_BY), "gaps": gaps}


def _ordered(values: np.ndarray) -> list[str]:
    """Distinct values in reading order: ``<=16`` before ``17-40`` before ``>65``."""
    return sorted({value for value in values if value is not None}, key=lambda v: (v[0] != "<", v[0] == ">", v))


def _status(row: dict[str, Any]) -> str:
    if row["patients"] < MIN_PATIENTS:
        return "insufficient"
    return "scored" if row["classes"] > 1 else "one class"


def _gaps(rows: list[dict[str, Any]], sampled: dict[str, dict[str, np.ndarray]], classes: int) -> dict[str, Any]:
    """Best and worst value of every score, and by how much they differ; nothing with fewer than two ranked values."""
    ranked = [row for row in rows if row["status"] == "scored" and row["classes"] == classes]
    if len(ranked) < 2:
        return {}
    gaps = {}
    for name in sampled[ranked[0]["value"]]:
        sign = -1 if name in LOWER_IS_BETTER else 1
        order = sorted(ranked, key=lambda row: sign * row[name]["value"])
        worst, best = order[0], order[-1]
        drawn = sign * (sampled[best["value"]][name] - sampled[worst["value"]][name])
        interval = Interval(np.float64(sign * (best[name]["value"] - worst[name]["value"])), *percentiles(drawn))
        gaps[name] = {"best": best["value"], "worst": worst["value"]} | interval_json(interval)
    return gaps
