"""Classification scores of a confusion table; the leading axis holds resamples, so one call scores thousands.

Classes that never occur in the truth are left out of macro averages, as they have no recall.
"""

import numpy as np

BINS = 15
"""Equal-width confidence bins of the calibration error."""


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient, 0 where the denominator is 0 (scikit-learn's ``zero_division=0``)."""
    return np.divide(
        numerator, denominator, out=np.zeros(np.broadcast(numerator, denominator).shape), where=denominator != 0
    )


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of right predictions. ``confusion`` is ``(B, C, C)``, truth by prediction; returns ``(B,)``."""
    return ratio(np.trace(confusion, axis1=1, axis2=2), confusion.sum((1, 2)))


def recall(confusion: np.ndarray) -> np.ndarray:
    """Recall (sensitivity) of each class, ``(B, C)``."""
    return ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2))


def precision(confusion: np.ndarray) -> np.ndarray:
    """Precision of each class, ``(B, C)``; 0 where the class is never predicted."""
    return ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(1))


def f1(confusion: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall of each class, ``(B, C)``."""
    return ratio(2 * np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(1) + confusion.sum(2))


def from_confusion(confusion: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """All scores of hard predictions: ``(B,)`` each, and ``(B, C)`` for the per-class ones.

    ``present`` ``(C,)`` marks the classes that occur in the truth, over which macro averages run.
    """
    support = confusion.sum(2)
    return {
        "accuracy": accuracy(confusion),
        "balanced_accuracy": recall(confusion)[:, present].mean(1),
        "macro_f1": f1(confusion)[:, present].mean(1),
        "weighted_f1": ratio((f1(confusion) * support).sum(1), support.sum(1)),
        "precision": precision(confusion),
        "recall": recall(confusion),
        "f1": f1(confusion),
    }


def squared_errors(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Brier score of each row, ``(N,)``: squared error summed over classes, halved for two (Brier 1950)."""
    errors = ((probabilities - np.eye(probabilities.shape[1])[truth]) ** 2).sum(1)
    return errors / 2 if probabilities.shape[1] == 2 else errors


def calibration_tables(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Each row's entry of the reliability table, ``(N, BINS)``: right minus confidence, in the row's bin."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    table = np.zeros((len(truth), BINS))
    table[np.arange(len(truth)), bins] = right - confidence
    return table


def calibration_error(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017): ``table`` ``(B, BINS)`` summed over ``rows`` ``(B,)``."""
    return np.abs(table).sum(1) / rows
