"""Schedules as arrays over the global step, so that ranks, restarts and accumulation change nothing."""

import numpy as np


def cosine(start: float, end: float, steps: int) -> np.ndarray:
    """Half a cosine from ``start`` at step 0 towards ``end``, which step ``steps`` would reach, ``(steps,)``.

    DINO's and SimCLR's form: end + (start - end)(1 + cos(pi t / T)) / 2.
    """
    t = np.arange(steps)
    return end + 0.5 * (start - end) * (1 + np.cos(np.pi * t / max(steps, 1)))


def warmup_cosine(peak: float, end: float, warmup: int, steps: int, start: float = 0.0) -> np.ndarray:
    """Linear warm-up from ``start`` to ``peak`` over ``warmup`` steps, then `cosine` to ``end``, ``(steps,)``."""
    warmup = min(warmup, steps)
    rise = np.linspace(start, peak, warmup, endpoint=True) if warmup > 1 else np.full(warmup, peak)
    return np.concatenate([rise, cosine(peak, end, steps - warmup)])


def warmup_constant(start: float, value: float, warmup: int, steps: int) -> np.ndarray:
    """Linear change from ``start`` to ``value`` over ``warmup`` steps, then constant, ``(steps,)``."""
    warmup = min(warmup, steps)
    return np.concatenate([np.linspace(start, value, warmup), np.full(steps - warmup, value)])
