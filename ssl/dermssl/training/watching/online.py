"""Evaluation during training: kNN and recall@1 on patients that pretraining never sees; RankMe without labels."""

from collections.abc import Callable, Sequence
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
"""Least number of patients (of lesions or images if unknown) for a score of a group of skin types, as in `dermeval`."""
SHOWN, SHOWN_NEAREST = 8, 6
"""Number of queries in the neighbour grid, and of neighbours of each."""
Features = Callable[[Dataset, np.ndarray], np.ndarray]
"""Features ``(len(rows), D)`` float32 of rows of a data set, by some encoder."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the encoder.

    The first of the ``scores`` decides which encoder is the best. ``queries`` (Q,) and ``nearest`` (Q, k) are rows of
    ``dataset``: each query and the most similar images of other groups. ``agree`` (Q, k) says whether their labels are
    equal, None without labels. ``scored`` is the number of scored images, in the smallest labelled set.
    """

    scores: dict[str, float]
    dataset: Dataset
    queries: np.ndarray
    nearest: np.ndarray
    agree: np.ndarray | None
    scored: int = 0


def score_encoder(features: Features, data: TrainingData, options: OnlineOptions) -> Evaluation:
    """Score the present encoder by `dermeval`'s protocols, on kept-out patients of every labelled set.

    ``online_knn_balanced_accuracy`` (chance: 1 / classes) and ``online_recall_at_1`` (if lesions or patients have
    several images) are means over the sets. Several sets also have their own scores, ``NAME/SET``. ``online_mix`` is
    the mean of both scores over all sets. ``online_rankme`` is the effective rank of the first set's features.
    ``online_by_tone/SET/GROUP`` is the kNN score within a group of skin types (`scored_tones`).
    """
    if data.online:
        parts = [_score_set(features, online, options, ranked=not number) for number, online in enumerate(data.online)]
        scores = _joined([online.dataset.name for online in data.online], parts)
        return replace(parts[0], scores=scores, scored=min(part.scored for part in parts))
    dataset, rows = data.datasets[0], data.rows[0]
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), options.max_images)).astype(int)]
    found = features(dataset, rows)
    groups = pd.factorize(dataset.column("group_id")[rows])[0]
    chosen = np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)
    near = neighbours.nearest_of_other_groups(found, chosen, groups, SHOWN_NEAREST)
    return Evaluation({RANKME: rankme(found)}, dataset, rows[chosen], rows[near[:, (near >= 0).all(axis=0)]], None)


def _score_set(features: Features, online: OnlineSet, options: OnlineOptions, ranked: bool) -> Evaluation:
    """The scores of one set, with RankMe, which takes long, only if ``ranked``."""
    fit, asked = features(online.dataset, online.fit), features(online.dataset, online.score)
    votes, rows = neighbours.knn_votes(asked, fit, online.labels[online.fit], len(online.classes), [options.k])
    truth = online.labels[online.score]
    (probabilities,) = votes.values()
    voted = probabilities.argmax(axis=1)
    scores = {KNN: _mean_recall(truth, voted)}
    recall = _recall(online, np.concatenate([asked, fit]), np.concatenate([online.score, online.fit]))
    scores |= {} if recall is None else {RECALL: recall}
    # The first image of each class, then the second of each, so that rare classes are shown too.
    chosen = pd.Series(truth).groupby(truth).cumcount().argsort(kind="stable").to_numpy()[:SHOWN]
    nearest = online.fit[rows[chosen, :SHOWN_NEAREST]]
    agree = online.labels[nearest] == truth[chosen, None]
    scores |= {RANKME: rankme(fit)} if ranked else {}
    for tone, inside in scored_tones(online).items():
        if len(set(truth[inside])) > 1:
            scores[f"{BY_TONE}/{online.dataset.name}/{tone}"] = _mean_recall(truth[inside], voted[inside])
    return Evaluation(scores, online.dataset, online.score[chosen], nearest, agree, len(online.score))


def _mean_recall(truth: np.ndarray, voted: np.ndarray) -> float:
    """Balanced accuracy. scikit-learn's own function warns if a class gets votes but no image has it."""
    return float(recall_score(truth, voted, labels=np.unique(truth), average="macro"))


def scored_tones(online: OnlineSet, least: int = LEAST_PATIENTS) -> dict[str, np.ndarray]:
    """For each group of skin types with ``least`` patients or more: the positions of its images in ``online.score``."""
    tones, groups = (online.dataset.column(name)[online.score] for name in ("tone_group", "group_id"))
    found = {tone: np.flatnonzero(tones == tone) for tone in sorted(set(tones[pd.notna(tones)]))}
    return {tone: inside for tone, inside in found.items() if len(set(groups[inside])) >= least}


def headline(scores: dict[str, float]) -> dict[str, float]:
    """``scores`` without those of groups of skin types."""
    return {name: value for name, value in scores.items() if not name.startswith(BY_TONE)}


def _recall(online: OnlineSet, features: np.ndarray, rows: np.ndarray) -> float | None:
    """Recall@1 of the kept-out images, which come first in ``rows``; the gallery is every other image of ``rows``.

    Same-lesion recall if a lesion has several images, else same-patient recall, else None.
    """
    for kind in ("lesion_id", "patient_id"):
        queries, hits = neighbours.recall_at_1(features, online.dataset.column(kind)[rows])
        kept_out = queries < len(online.score)
        if kept_out.any():
            return float(hits[kept_out].mean())
    return None


def _joined(names: Sequence[str], parts: Sequence[Evaluation]) -> dict[str, float]:
    """The means of the scores of all sets, and the scores of each set. The first decides which encoder is the best."""
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

    The encoder keeps its mode (training or evaluation). Raises HealthStop: features are not finite.
    """
    was_training = encoder.training
    encoder.eval()
    pictures = Pictures([dataset.images], preprocessing)
    # `training.compile` has compiled programs for the sizes of training only.
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
    """The first three principal components of the patch tokens of ``images`` (B, S, S, 3) uint8, as colours.

    Returns ``(B, h, w, 3)`` from 0 (1st percentile of a component) to 1 (99th); None for backbones other than vision
    transformers, whose last maps are a few pixels wide. Of the timm data config, ``mean`` and ``std`` are used.
    """
    was_training = encoder.training
    encoder.eval()
    pixels = normalise_pixels(torch.from_numpy(images).permute(0, 3, 1, 2), preprocessing, torch.device(device))
    tokens = encoder.forward_features(pixels)  # type: ignore[operator]
    encoder.train(was_training)
    if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3 or not hasattr(encoder, "num_prefix_tokens"):
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
    """Effective rank, 1 to min(N, D): exp of the entropy of the normalised singular values (Garrido et al. 2023)."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    if not values.any():
        return 1.0
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))
