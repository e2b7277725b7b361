"""Planted label errors and off-topic images: how well ``dermeval audit`` ranks them, beside cleanlab and SelfClean.

    python -m pip install cleanlab selfclean     # optional; what is missing is left out
    python scripts/bench/audit_planted.py EMBEDDINGS [--target diagnostic] [--images 2000] [--share 0.05] [--seeds 2]

All rank labels by the same frozen features. Labels of whole cases are changed to another class at random. Off-topic
images are drawn pages, rulers, blank cards, noise and photographs that come with scikit-learn, among 500 real images;
SelfClean ranks them by the features of the same encoder. Results are in results/audit_planted.md.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dermeval.cli import main as dermeval
from dermeval.features.embeddings import open_embeddings
from dermeval.leaks.audit import rank_off_topic
from dermeval.leaks.label_errors import self_confidence
from dermeval.leaks.pictures import Picture, pixels
from dermeval.leaks.records import open_audited
from dermssl.cli import main as dermssl

REAL = 500


def changed(labels: np.ndarray, cases: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which those of a share of the cases are another class, and which images that are."""
    random, classes = np.random.default_rng(seed), labels.max() + 1
    shift = np.where(random.random(cases.max() + 1) < share, random.integers(1, classes, cases.max() + 1), 0)
    return (labels + shift[cases]) % classes, shift[cases] > 0


def label_scores(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Suspicion of each label by each program that is installed."""
    rows = np.arange(len(labels))
    found = {"dermeval audit": -self_confidence(features, labels, groups)[rows, labels]}
    try:
        from cleanlab.rank import get_label_quality_scores

        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        believed = cross_val_predict(model, features, labels, cv=5, method="predict_proba")
        found["cleanlab, 5 folds of images"] = -get_label_quality_scores(labels, believed)
    except ImportError as error:
        print(f"cleanlab is left out: {error}")
    try:
        from selfclean.cleaner.label_errors.intra_extra_distance_mixin import IntraExtraDistanceLabelErrorMixin

        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        cleaner = type("Cleaner", (), {"labels": labels, "distance_matrix": 1 - unit @ unit.T})()
        scores = IntraExtraDistanceLabelErrorMixin.labels_calc_scores(cleaner)
        found["SelfClean"] = -np.nan_to_num(scores, nan=0.5)  # identical images of both labels give 0 / 0
    except ImportError as error:
        print(f"SelfClean is left out: {error}")
    return found


def off_topic_images(random: np.random.Generator) -> list[Image.Image]:
    """25 pictures that show no skin, of five kinds."""
    made = []
    photos = load_sample_images().images
    for number in range(5):
        page = Image.new("RGB", (224, 224), (250, 250, 245))
        for line in range(14):
            ImageDraw.Draw(page).text(
                (8, 8 + 15 * line), f"Consent form {number}, line {line}: name, date", fill="black"
            )
        ruler = Image.new("RGB", (224, 224), (40 + 20 * number, 50, 60))
        ImageDraw.Draw(ruler).rectangle((0, 90, 224, 140), fill=(240, 235, 200))
        for mark in range(0, 224, 8):
            ImageDraw.Draw(ruler).line((mark, 90, mark, 115 if mark % 40 else 130), fill="black", width=1)
        blank = Image.new("RGB", (224, 224), tuple(random.integers(0, 255, 3).tolist()))
        noise = Image.fromarray(random.integers(0, 255, (224, 224, 3), dtype=np.uint8))
        photo = photos[number % 2]
        top, left = random.integers(0, photo.shape[0] - 224), random.integers(0, photo.shape[1] - 224)
        made += [page, ruler, blank, noise, Image.fromarray(photo[top : top + 224, left : left + 224])]
    return made


def off_topic_precision(pictures: list[Picture], encoder: str, seed: int) -> dict[str, float]:
    """Average precision of the planted images by ``dermeval audit`` without and with an encoder, and by SelfClean."""
    random = np.random.default_rng(seed)
    chosen = [pixels(pictures[row]) for row in random.choice(len(pictures), REAL, replace=False)]
    with tempfile.TemporaryDirectory() as work:
        raw = Path(work) / "raw" / "all"
        raw.mkdir(parents=True)
        for number, image in enumerate([Image.fromarray(one) for one in chosen] + off_topic_images(random)):
            image.save(raw / f"{'real' if number < REAL else 'planted'}_{number:04d}.png")
        out = str(Path(work) / "data")
        assert (
            dermssl(["prepare", "--source", "folder", "--root", str(raw.parent), "--out", out, "--workers", "1"]) == 0
        )
        embedded = str(Path(work) / "embeddings")
        assert dermeval(["embed", "--encoder", encoder, "--data", out, "--out", embedded]) == 0
        found = {}
        for name, folder in (("no encoder", out), ("and the encoder", embedded)):
            table = rank_off_topic(open_audited([folder]), workers=1)
            planted = table["image_id"].str.contains("planted_").to_numpy()
            found[f"dermeval audit, {name}"] = average_precision_score(planted, table["score"])
        one = open_embeddings(embedded)
        planted = np.array(["planted_" in name for name in one.table["image_id"].to_pylist()])
        try:
            from selfclean.cleaner.selfclean_cleaner import SelfCleanCleaner

            cleaner = SelfCleanCleaner(memmap=False, log_level="ERROR")
            cleaner.fit(np.asarray(one.features, np.float32))
            order = cleaner.get_off_topic_ranking()[1]
            found["SelfClean"] = average_precision_score(planted[order], -np.arange(len(order)))
        except ImportError as error:
            print(f"SelfClean is left out: {error}")
    return found


def main() -> None:
    """Plant and rank; prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", help="embeddings folder of a labelled data set")
    parser.add_argument("--target", help="label (default: the first one)")
    parser.add_argument("--images", type=int, default=2000, help="at most so many images")
    parser.add_argument("--share", type=float, default=0.05, help="share of the cases that get another label")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    embeddings = open_embeddings(options.embeddings)
    images = open_audited([options.embeddings])
    one = images.embedded[0]
    frame = images.frame.iloc[one.rows].reset_index(drop=True)
    target = options.target or images.labels[0]
    rows = np.flatnonzero(frame[target].notna())
    rows = np.sort(np.random.default_rng(0).permutation(rows)[: options.images])
    part, features = frame.iloc[rows], np.asarray(one.features[rows], np.float32)
    truth = pd.factorize(part[target], sort=True)[0]
    cases, groups = (pd.factorize(part[name])[0] for name in ("case_id", "group_id"))
    results = []
    for seed in range(options.seeds):
        labels, wrong = changed(truth, cases, options.share, seed)
        scores = label_scores(features, labels, groups)
        results.append({name: average_precision_score(wrong, score) for name, score in scores.items()})
    print(f"{embeddings.encoder['path']}: {len(rows)} images, {options.share:.0%} of cases with another {target}, AP")
    print(pd.DataFrame(results).agg(["mean", "min", "max"]).T.round(3).to_string())
    found = [off_topic_precision(images.pictures, embeddings.encoder["path"], seed) for seed in range(options.seeds)]
    print(f"{REAL} real images and 25 off-topic ones, AP")
    print(pd.DataFrame(found).agg(["mean", "min", "max"]).T.round(3).to_string())


if __name__ == "__main__":
    main()
