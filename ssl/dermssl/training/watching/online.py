"""Evaluation during training: kNN and recall@1 on groups that pretraining never sees, or RankMe without labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import recall_score
from torch import nn

from dermssl import neighbours
from dermssl.backbone.embedding import Pictures, embed_batches, in_batches, normalise_pixels, preprocessing_at
from dermssl.dataset.dataset import Dataset
from dermssl.errors import HealthStop
from dermssl.training.options import OnlineOptions
from dermssl.training.pool import OnlineSet, TrainingData

MIX, KNN, RECALL, RANKME = "online_mix", "online_knn_balanced_accuracy", "online_recall_at_1", "online_rankme"
"""Names of the scores."""
BY_TONE = "online_by_tone"
LEAST_PATIENTS = 15
"""Patients (lesions or images where those are unknown) of a group of skin types that is scored, as in `dermeval`."""
SHOWN, SHOWN_NEAREST = 8, 6
"""Queries of the neighbour grid, and neighbours of each."""


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of the encoder gave.

    ``scores``: `best` is kept by the first. ``queries`` (Q,) and ``nearest`` (Q, k) are rows of ``dataset``, each query
    with the most similar images of other groups; ``agree`` (Q, k) says where labels are equal, None without labels.
    ``scored``: the number of labelled images that were scored, of the smallest set.
    """

    scores: dict[str, float]
    dataset: Dataset
    queries: np.ndarray
    nearest: np.ndarray
    agree: np.ndarray | None
    scored: int = 0


def score_encoder(
    encoder: nn.Module, data: TrainingData, preprocessing: dict[str, Any], options: OnlineOptions, device
) -> Evaluation:
    """Scores of the encoder as it is now, by `dermeval`'s protocols on kept-out groups of every labelled set.

    ``online_knn_balanced_accuracy`` (chance: 1 / classes) and, where lesions or patients have several images,
    ``online_recall_at_1`` are means over the sets; ``NAME/SET`` are those of each set, where there are several.
    ``online_mix`` is the mean of both over all sets. ``online_rankme`` is the effective rank of the first set's
    features. ``online_by_tone/SET/GROUP`` is the kNN score within a group of skin types (`scored_tones`). The encoder
    is returned to the mode that it was in.
    Raises HealthStop: features are not finite.
    """
    if data.online:
        parts = [_score_set(encoder, online, preprocessing, options, device) for online in data.online]
        scores = _joined([online.dataset.name for online in data.online], parts)
        return replace(parts[0], scores=scores, scored=min(part.scored for part in parts))
    dataset, rows = data.datasets[0], data.rows[0]
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), options.max_images)).astype(int)]
    features = online_features(encoder, dataset, rows, preprocessing, device)
    unit = neighbours.normalise(features)
    groups = dataset.column("group_id")[rows]
    chosen, found = np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int), []
    for query in chosen:
        others = np.flatnonzero(groups != groups[query])
        found.append(others[neighbours.search(unit[query : query + 1], unit[others], SHOWN_NEAREST)[1][0]])
    shown = min(map(len, found))
    nearest = rows[np.array([row[:shown] for row in found], dtype=int)]
    return Evaluation({RANKME: rankme(features)}, dataset, rows[chosen], nearest, None)


def _score_set(
    encoder: nn.Module, online: OnlineSet, preprocessing: dict[str, Any], options: OnlineOptions, device
) -> Evaluation:
    fit = online_features(encoder, online.dataset, online.fit, preprocessing, device)
    asked = online_features(encoder, online.dataset, online.score, preprocessing, device)
    votes, rows = neighbours.knn_votes(asked, fit, online.labels[online.fit], len(online.classes), [options.k])
    truth = online.labels[online.score]
    (probabilities,) = votes.values()
    voted = probabilities.argmax(axis=1)
    scores = {KNN: _mean_recall(truth, voted)}
    recall = _recall(online, np.concatenate([asked, fit]), np.concatenate([online.score, online.fit]))
    scores |= {} if recall is None else {RECALL: recall}
    # The first image of each class, then the second of each: rare classes are seen too.
    chosen = pd.Series(truth).groupby(truth).cumcount().argsort(kind="stable").to_numpy()[:SHOWN]
    nearest = online.fit[rows[chosen, :SHOWN_NEAREST]]
    agree = online.labels[nearest] == truth[chosen, None]
    scores |= {RANKME: rankme(fit)}
    for tone, inside in scored_tones(online).items():
        if len(set(truth[inside])) > 1:
            scores[f"{BY_TONE}/{online.dataset.name}/{tone}"] = _mean_recall(truth[inside], voted[inside])
    return Evaluation(scores, online.dataset, online.score[chosen], nearest, agree, len(online.score))


def _mean_recall(truth: np.ndarray, voted: np.ndarray) -> float:
    """Balanced accuracy; scikit-learn's own warns where a class is voted for that no image has."""
    return float(recall_score(truth, voted, labels=np.unique(truth), average="macro"))


def scored_tones(online: OnlineSet, least: int = LEAST_PATIENTS) -> dict[str, np.ndarray]:
    """Which of the kept-out images ``online.score`` show each group of skin types that has ``least`` patients."""
    tones, groups = (online.dataset.column(name)[online.score] for name in ("tone_group", "group_id"))
    found = {tone: np.flatnonzero(tones == tone) for tone in sorted(set(tones[pd.notna(tones)]))}
    return {tone: inside for tone, inside in found.items() if len(set(groups[inside])) >= least}


def headline(scores: dict[str, float]) -> dict[str, float]:
    """The scores without those of groups of skin types."""
    return {name: value for name, value in scores.items() if not name.startswith(BY_TONE)}


def _recall(online: OnlineSet, features: np.ndarray, rows: np.ndarray) -> float | None:
    """Same-lesion, else same-patient, recall@1 of the kept-out images, which come first in ``rows``; None without any.

    The gallery is every other image of ``rows``.
    """
    for kind in ("lesion_id", "patient_id"):
        queries, hits = neighbours.recall_at_1(features, online.dataset.column(kind)[rows])
        kept_out = queries < len(online.score)
        if kept_out.any():
            return float(hits[kept_out].mean())
    return None


def _joined(names: Sequence[str], parts: Sequence[Evaluation]) -> dict[str, float]:
    """The scores of all sets under one name each; the first decides which encoder is the best."""
    main = pd.DataFrame([part.scores for part in parts], index=list(names)).reindex(columns=[KNN, RECALL])
    scores = main.mean().dropna().to_dict()
    if RECALL in scores or len(parts) > 1:
        scores = {MIX: float(main.mean(axis=1).mean())} | scores
    scores[RANKME] = parts[0].scores[RANKME]
    for name, row in main.iterrows() if len(parts) > 1 else ():
        scores |= {f"{score}/{name}": value for score, value in row.dropna().items()}
    for part in parts:
        scores |= {name: value for name, value in part.scores.items() if name.startswith(BY_TONE)}
    return scores


def online_features(
    encoder: nn.Module, dataset: Dataset, rows: np.ndarray, preprocessing: dict[str, Any], device
) -> np.ndarray:
    """Features ``(len(rows), D)`` float32 of stored images, prepared by the timm data config ``preprocessing``.

    Raises HealthStop: features are not finite.
    """
    was_training = encoder.training
    encoder.eval()
    pictures = Pictures([dataset.images], preprocessing)
    # What `training.compile` made is for the sizes of training only.
    with torch.compiler.set_stance("force_eager"):
        parts = [part[:, 0] for _, part in embed_batches(encoder, pictures, in_batches(rows), torch.device(device))]
    encoder.train(was_training)
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise HealthStop(
            "the encoder's features are not finite: lower optim.lr, or use training.precision fp32; "
            "the last healthy state is kept"
        )
    return features


@torch.no_grad()
def patch_components(
    encoder: nn.Module, images: np.ndarray, preprocessing: dict[str, Any], device
) -> np.ndarray | None:
    """The first three principal components of the patch tokens of all ``images`` (B, S, S, 3) uint8, as colours.

    Returns ``(B, h, w, 3)`` from 0 to 1, per component its 1st to 99th percentile; None for backbones other than vision
    transformers, whose last maps are a few pixels wide. Of the timm data config ``mean`` and ``std`` are used.
    """
    was_training = encoder.training
    encoder.eval()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    pixels = normalise_pixels(pixels, preprocessing, torch.device(device))
    tokens = encoder.forward_features(pixels)  # type: ignore[operator]
    encoder.train(was_training)
    if tokens.ndim != 3:
        return None
    patches = tokens[:, int(encoder.num_prefix_tokens) :].float().cpu()  # type: ignore[arg-type]
    flat = patches.flatten(0, 1) - patches.mean(dim=(0, 1))
    components = (flat @ torch.linalg.svd(flat, full_matrices=False)[2][:3].T).numpy()
    low, high = np.percentile(components, [1, 99], axis=0)
    side = round(patches.shape[1] ** 0.5)
    return ((components - low) / np.maximum(high - low, 1e-12)).clip(0, 1).reshape(len(images), side, side, -1)


def pictures_of(dataset: Dataset, rows: np.ndarray, size: int) -> np.ndarray:
    """Stored images, resized and centre-cropped to ``size`` pixels: ``(len(rows), size, size, 3)`` uint8."""
    pictures = Pictures([dataset.images], preprocessing_at(size))
    return np.stack([pictures[int(row)][1][0].permute(1, 2, 0).numpy() for row in rows])


def rankme(features: np.ndarray) -> float:
    """Effective rank of the features: exp of the entropy of their normalised singular values (Garrido et al. 2023).

    From 1, which features that are all 0 have too, to the smaller side of ``features`` (N, D).
    """
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    if not values.any():
        return 1.0
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))
