"""Label errors: labels that contradict the images of other patients.

A logistic regression on frozen features predicts the label of every image from images of other groups. The lower the
probability of the given label, the more likely the label is wrong (self-confidence, Northcutt et al. 2021).
"""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from dermssl.dataset.splits import group_folds
from dermssl.neighbours import nearest_of_other_groups

FOLDS = 5
MOST_DIMENSIONS = 256
SHOWN_NEIGHBOURS = 10


def self_confidence(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Class probabilities ``(N, C)`` of images with ``features`` (N, D), from models fitted without their groups.

    A label that the fitted images do not have cannot be judged: it gets probability 1.
    """
    found = np.eye(labels.max() + 1)[labels]
    # scikit-learn refuses more folds than the most frequent class has images.
    number = min(FOLDS, len(np.unique(groups)), int(np.bincount(labels).max()))
    parts = group_folds(labels, groups, number, seed=0)
    for known, asked in tqdm(parts, desc="label errors", unit="fold", disable=None, leave=False):
        asked = asked[np.isin(labels[asked], labels[known])]
        if not len(asked) or len(np.unique(labels[known])) < 2:  # a few large groups can hold most images
            continue
        scaler = StandardScaler().fit(features[known])
        seen, new = scaler.transform(features[known]), scaler.transform(features[asked])
        if seen.shape[1] > MOST_DIMENSIONS and len(seen) > MOST_DIMENSIONS:
            pca = PCA(MOST_DIMENSIONS, random_state=0).fit(seen)
            seen, new = pca.transform(seen), pca.transform(new)
        scale = np.sqrt(features.shape[1])
        model = LogisticRegression(max_iter=300).fit(seen / scale, labels[known])
        found[asked] = 0
        found[np.ix_(asked, model.classes_)] = model.predict_proba(new / scale)
    return found


def labels_nearby(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """For each image the labels of the `SHOWN_NEIGHBOURS` nearest images of other groups."""
    every = np.arange(len(labels))
    found = nearest_of_other_groups(features - features.mean(axis=0), every, groups, SHOWN_NEIGHBOURS)
    return [labels[near[near >= 0]] for near in found]
