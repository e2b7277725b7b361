"""How hard is the synthetic set? Pixels and an untrained network must do poorly, a trained network well.

    dermssl synth --patients 1600 --out raw && dermssl prepare --source passion --root raw --out data/synthetic
    python scripts/bench/synthetic_difficulty.py data/synthetic

Balanced accuracy of the 4-way condition over images. The kNN rows are means of 5 stratified patient folds of all
patients; the supervised row is trained on the TRAIN patients and scored once on the TEST patients.
"""

import argparse
import time

import numpy as np
import timm
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from torch.nn import functional

from dermssl import neighbours
from dermssl.dataset.dataset import Dataset, open_dataset

SIDE = 64
MEAN, STD = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1), torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def load_images(dataset: Dataset, side: int) -> torch.Tensor:
    """All images squeezed to ``(N, 3, side, side)`` float32, normalised."""
    pixels = [np.asarray(dataset.images.image(row).resize((side, side), 1)) for row in range(len(dataset))]
    return (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def knn_score(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, k: int = 20) -> tuple[float, float]:
    """Mean and standard deviation over patient folds of the balanced accuracy of weighted kNN."""
    scores = []
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for train, test in folds.split(features, labels, groups):
        centre = features[train].mean(axis=0)
        queries, gallery = (neighbours.normalise(features[rows] - centre) for rows in (test, train))
        similar, rows = neighbours.search_exact(queries, gallery, k)
        votes = neighbours.weighted_vote(similar, labels[train][rows], labels.max() + 1)
        scores.append(balanced_accuracy_score(labels[test], votes.argmax(axis=1)))
    return float(np.mean(scores)), float(np.std(scores))


def untrained_features(images: torch.Tensor, seed: int) -> np.ndarray:
    """Pooled features ``(N, 512)`` of a ResNet-18 with random weights."""
    torch.manual_seed(seed)
    model = timm.create_model("resnet18", num_classes=0).eval()
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(256)]).numpy()


def augment(batch: torch.Tensor, side: int, random: torch.Generator) -> torch.Tensor:
    """A random square crop, flips, and brightness and colour jitter per image."""
    spread = batch.shape[-1] - side
    top, left = torch.randint(spread + 1, (2,), generator=random).tolist()
    batch = batch[:, :, top : top + side, left : left + side]
    for axis in (2, 3):
        flip = torch.rand(len(batch), 1, 1, 1, generator=random) < 0.5
        batch = torch.where(flip, batch.flip(axis), batch)
    gain = 1 + 0.2 * torch.randn(len(batch), 3, 1, 1, generator=random)
    return batch * gain + 0.2 * torch.randn(len(batch), 3, 1, 1, generator=random)


def supervised_score(images: torch.Tensor, labels: np.ndarray, test: np.ndarray, epochs: int) -> float:
    """Balanced accuracy on ``test`` of a ResNet-18 trained from scratch on the rest."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    model = timm.create_model("resnet18", num_classes=4).to(memory_format=torch.channels_last)
    train = torch.from_numpy(np.flatnonzero(~test))
    target, steps = torch.from_numpy(labels), epochs * (len(train) // 64)
    weights = 1 / torch.bincount(target[train]).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    side = images.shape[-1] * 7 // 8
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train), generator=random)].split(64)[: steps // epochs]:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(augment(images[rows], side, random).to(memory_format=torch.channels_last))
            optimizer.zero_grad()
            functional.cross_entropy(logits.float(), target[rows], weight=weights / weights.mean()).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        guessed = torch.cat([model(part).argmax(1) for part in images[torch.from_numpy(test)].split(256)])
    return balanced_accuracy_score(labels[test], guessed.numpy())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="dataset folder of a synthetic set")
    parser.add_argument("--epochs", type=int, default=20, help="of supervised training; 0 leaves it out")
    parser.add_argument("--side", type=int, default=96, help="pixels of the supervised network's pictures")
    options = parser.parse_args()
    dataset = open_dataset(options.dataset)
    classes = dataset.targets["condition"].classes
    labels = np.array([classes.index(name) for name in dataset.column("condition")])
    groups, test = dataset.column("group_id"), dataset.column("split") == "test"
    images = load_images(dataset, SIDE)
    small = functional.interpolate(images, size=32, mode="area").flatten(1).numpy()
    print(f"{len(labels)} images, {len(set(groups))} patients, majority or chance 0.250")
    print("pixels PCA-128, kNN: {:.3f} +- {:.3f}".format(*knn_score(PCA(128).fit_transform(small), labels, groups)))
    for seed in range(3):
        score = knn_score(untrained_features(images, seed), labels, groups)
        print("untrained ResNet-18 (seed {}), kNN: {:.3f} +- {:.3f}".format(seed, *score))
    if options.epochs:
        started = time.perf_counter()
        accuracy = supervised_score(load_images(dataset, options.side), labels, test, options.epochs)
        print(f"supervised ResNet-18, {options.epochs} epochs: {accuracy:.3f} ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
