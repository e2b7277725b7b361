"""A score and its interval, as ``result.json`` and tables have them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dermeval.statistics.bootstrap import Interval
from dermeval.statistics.comparison import Difference

NARROW = "too narrow"
"""Follows an interval that is wider in truth."""


def defined(value: Any) -> float | None:
    """A score as JSON has it: null where it is undefined."""
    return None if np.isnan(value) else float(value)


def interval_json(interval: Interval, classes: Sequence[str] = ()) -> dict[str, Any]:
    """``value``, ``low``, ``high``, and ``p`` of a difference; for per-class scores one such entry per class name.

    Only where the interval is too narrow, ``narrow`` says so.
    """
    if np.ndim(interval.value):
        columns = map(np.asarray, (interval.value, interval.low, interval.high, interval.narrow))
        return {name: interval_json(Interval(*part)) for name, *part in zip(classes, *columns, strict=True)}
    entry: dict[str, Any] = {name: defined(getattr(interval, name)) for name in ("value", "low", "high")}
    entry |= {"narrow": True} if interval.narrow else {}
    return entry | {"p": defined(interval.p)} if isinstance(interval, Difference) else entry


def show(entry: dict[str, Any], digits: str = ".3f") -> str:
    """``0.412 [0.371, 0.455]``, in the number format ``digits``; a difference also has its p.

    An interval that is too narrow is followed by `NARROW`, which every report explains.
    """
    if entry["value"] is None or np.isnan(entry["value"]):
        return "undefined"
    value, low, high = (format(entry[key], digits) for key in ("value", "low", "high"))
    text = f"{value} [{low}, {high}]" + (f" {NARROW}" if entry.get("narrow") else "")
    return text + (f", p {entry['p']:.3f}" if "p" in entry else "")
