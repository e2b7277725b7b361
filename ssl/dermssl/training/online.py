"""Evaluation during training: kNN on patients that pretraining never sees, or RankMe where there are no labels."""

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from dermssl import neighbours
from dermssl.backbone import MEAN, STD
from dermssl.data.dataset import Dataset
from dermssl.training.options import OnlineOptions
from dermssl.training.pool import OnlineSet

BATCH = 128


def evaluate(encoder: nn.Module, online: OnlineSet, size: int, options: OnlineOptions, device) -> dict[str, float]:
    """Scores of the encoder as it stands: kNN balanced accuracy of the kept-out patients, and RankMe.

    Chance level is 1 / number of classes. The encoder is returned to the mode it was in.
    """
    fit = embed(encoder, online.dataset, online.fit, size, device)
    score = embed(encoder, online.dataset, online.score, size, device)
    similar, rows = neighbours.search(neighbours.normalise(score), neighbours.normalise(fit), options.k)
    votes = neighbours.weighted_vote(similar, online.labels[online.fit][rows], len(online.classes))
    accuracy = balanced_accuracy_score(online.labels[online.score], votes.argmax(axis=1))
    return {"online_knn_balanced_accuracy": float(accuracy), "online_rankme": rankme(fit)}


@torch.no_grad()
def embed(encoder: nn.Module, dataset: Dataset, rows: np.ndarray, size: int, device) -> np.ndarray:
    """Features ``(len(rows), D)`` float32 of stored images, resized and centre-cropped to ``size`` pixels."""
    was_training = encoder.training
    encoder.eval()
    parts = []
    for start in range(0, len(rows), BATCH):
        images = [_centre(dataset.images.image(int(row)), size) for row in rows[start : start + BATCH]]
        pixels = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
        parts.append(encoder((pixels - mean) / std).float().cpu().numpy())
    encoder.train(was_training)
    return np.concatenate(parts)


def _centre(image, size: int) -> np.ndarray:
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return np.asarray(image.resize((size, size), 3, box=(left, top, left + short, top + short)))


def rankme(features: np.ndarray) -> float:
    """Effective rank of the features: exp of the entropy of their normalised singular values (Garrido et al. 2023)."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))
