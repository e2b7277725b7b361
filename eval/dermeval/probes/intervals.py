"""A score and its interval, as ``result.json`` and tables have them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dermeval.statistics.bootstrap import Interval
from dermeval.statistics.comparison import Difference


def number(value: Any) -> float | None:
    """A score as JSON has it: null where it is undefined."""
    return None if np.isnan(value) else float(value)


def interval_json(interval: Interval | Difference, classes: Sequence[str] = ()) -> dict[str, Any]:
    """``value``, ``low``, ``high``; for per-class scores one such entry per class name."""
    if np.ndim(interval.value):
        parts = np.stack([interval.value, interval.low, interval.high], axis=1)
        return {name: interval_json(Interval(*part)) for name, part in zip(classes, parts, strict=True)}
    return {"value": number(interval.value), "low": number(interval.low), "high": number(interval.high)}


def show(entry: dict[str, Any], digits: str = ".3f") -> str:
    """``0.412 [0.371, 0.455]``, in the number format ``digits``."""
    if entry["value"] is None:
        return "undefined"
    value, low, high = (format(entry[key], digits) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
