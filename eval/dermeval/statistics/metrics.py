"""Classification scores of a confusion table; the leading axis holds resamples, so one call scores thousands.

Classes that never occur in the truth are left out of macro averages, as they have no recall.
"""

import numpy as np

BINS = 15
"""Equal-width confidence bins of the calibration error."""


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient, 0 where the denominator is 0 (scikit-learn's ``zero_division=0``)."""
    shape = np.broadcast(numerator, denominator).shape
    return np.divide(numerator, denominator, out=np.zeros(shape), where=denominator != 0)


def from_confusion(confusion: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """All scores of hard predictions: ``(B,)`` each, and ``(B, C)`` for precision, recall and F1 of each class.

    ``confusion`` is ``(B, C, C)``, truth by prediction. ``present`` ``(C,)`` marks the classes that occur in the truth,
    over which macro averages run.
    """
    right = np.diagonal(confusion, axis1=1, axis2=2)
    support, guessed = confusion.sum(2), confusion.sum(1)
    recall, f1 = ratio(right, support), ratio(2 * right, support + guessed)
    return {
        "accuracy": ratio(right.sum(1), support.sum(1)),
        "balanced_accuracy": recall[:, present].mean(1),
        "macro_f1": f1[:, present].mean(1),
        "weighted_f1": ratio((f1 * support).sum(1), support.sum(1)),
        "precision": ratio(right, guessed),
        "recall": recall,
        "f1": f1,
    }


def balanced_accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    """Mean recall of the classes that occur in ``truth`` ``(N,)``."""
    return float(np.mean([(guess[truth == label] == label).mean() for label in np.unique(truth)]))


def squared_errors(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Brier score of each row, ``(N,)``: squared error summed over classes, halved for two (Brier 1950)."""
    errors = ((probabilities - np.eye(probabilities.shape[1])[truth]) ** 2).sum(1)
    return errors / 2 if probabilities.shape[1] == 2 else errors


def calibration_table(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Each row's entry of the reliability table, ``(N, BINS)``: right minus confidence, in the bin of its confidence.

    The expected calibration error (Guo et al. 2017) is the sum over bins of the absolute column sums, by the rows.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    table = np.zeros((len(truth), BINS))
    table[np.arange(len(truth)), confidence_bins(confidence)] = right - confidence
    return table


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """The bin 0..BINS-1 of each confidence; a bin holds its upper end."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
