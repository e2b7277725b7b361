"""Schedules as arrays over the global step. Ranks, restarts and accumulation do not change them."""

import numpy as np


def cosine(start: float, end: float, steps: int) -> np.ndarray:
    """Half a cosine ``(steps,)`` from ``start`` at step 0 to ``end`` at step ``steps``, one past the last.

    As in DINO and SimCLR: end + (start - end)(1 + cos(pi t / T)) / 2.
    """
    t = np.arange(steps)
    return end + 0.5 * (start - end) * (1 + np.cos(np.pi * t / max(steps, 1)))


def warmup_cosine(peak: float, end: float, warmup: int, steps: int) -> np.ndarray:
    """Linear warm-up from 0 to ``peak`` in ``warmup`` steps, then `cosine` to ``end``, ``(steps,)``."""
    warmup = min(warmup, steps)
    rise = np.linspace(0, peak, warmup) if warmup > 1 else np.full(warmup, peak)
    return np.concatenate([rise, cosine(peak, end, steps - warmup)])


def warmup_constant(start: float, value: float, warmup: int, steps: int) -> np.ndarray:
    """Linear change from ``start`` to ``value`` in ``warmup`` steps, then constant, ``(steps,)``."""
    warmup = min(warmup, steps)
    return np.concatenate([np.linspace(start, value, warmup), np.full(steps - warmup, value)])
