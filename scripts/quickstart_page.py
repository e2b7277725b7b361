"""The closing page of scripts/quickstart.sh: scores with baselines, similar cases, planted duplicates, what next."""

import json
import sys
from pathlib import Path
from typing import Any

ORDER = ("pixels", "untrained", "trained")
NEXT = """next, with real data:
  PASSION: ask for access with the form on https://passionderm.github.io/, unpack it to raw/passion, then
    dermssl prepare --source passion --root raw/passion --out data/passion
    dermssl pretrain --config configs/simclr_resnet18_small.yaml --data data/passion --out checkpoints/passion
    dermeval embed --encoder checkpoints/passion --data data/passion --out embeddings/passion
    dermeval evaluate --protocol passion embeddings/passion
  other sets: dermssl sources"""


def read(path: Path) -> dict[str, Any]:
    """A report that a command wrote with --json."""
    return json.loads(path.read_text(encoding="utf-8"))


def score_lines(probe: str, comparison: dict[str, Any]) -> list[str]:
    """Balanced accuracy of every encoder with its interval, and trained against untrained."""
    rows = {
        row["result"]: row
        for row in comparison["rows"]
        if row["level"] == "image" and row["score"] == "balanced_accuracy"
    }
    lines = []
    for name in ORDER:
        row = rows[f"{probe}_{name}"]
        lines.append(f"  {probe:<7} {name:<10} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    gain = rows[f"{probe}_trained"]
    lines[-1] += (
        f"   against untrained {gain['difference']:+.3f} "
        f"[{gain['difference_low']:+.3f}, {gain['difference_high']:+.3f}], p {gain['p']:.3f}"
    )
    return lines


def main(folder: Path) -> None:
    """Print the page from the reports in ``folder``."""
    knn, linear = (read(folder / f"compare_{probe}.json") for probe in ("knn", "linear"))
    leaks = read(folder / "leaks.json")
    truth, run = leaks["truth"], read(folder / "pretrain.json")
    page = [
        "",
        "=" * 100,
        f"dermssl quickstart: {knn['counts']['scored']} SYNTHETIC pictures of "
        f"{knn['counts']['scored_groups']} made-up patients, four conditions (chance 0.250)",
        "",
        f"trained: DINO, ResNet-18 at 64 px, {run['steps']} steps in {run['seconds'] / 60:.1f} min on {run['device']}, "
        f"{run['precision']}, without labels",
        "",
        "balanced accuracy per image, 5 folds by patient, 95% intervals over patients",
        *score_lines("knn", knn),
        *score_lines("linear", linear),
        "",
        f"similar cases    {folder}/similar_cases.png (query at the left; its own patient is never shown)",
        f"leak audit       {truth['found']} of {truth['planted']} planted duplicates found, "
        f"{truth['not_planted']} records reported that were not planted: {folder}/leaks/report.html",
        f"training curves  tensorboard --logdir {folder}/run/tensorboard",
        f"encoder          {folder}/run/encoder, a timm folder; views it saw: {folder}/run/views.png",
        "",
        NEXT,
    ]
    print("\n".join(page))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
