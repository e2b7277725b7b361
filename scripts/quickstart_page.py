"""The end of scripts/quickstart.sh: what was learned, in words on the screen and with pictures in report.html."""

import base64
import sys
import webbrowser
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from dermeval.pages.plots import Bar, interval_plot
from dermssl.files import read_json, write_text
from dermssl.page import Section, render
from dermssl.plotting import BLUE, PLOT_STYLE, as_svg

ENCODERS = {
    "pixels": "raw pixels (PCA-128)",
    "start": "its start: ImageNet weights",
    "trained": "trained on the synthetic skin",
}
PROBES = {"knn": "kNN", "linear": "linear probe"}
CURVES = {
    "loss": "loss",
    "online_knn_balanced_accuracy": "kNN balanced accuracy on kept-out patients",
}
SHOWN_PAIRS = 4
NEXT = """next, with real data:
  PASSION: ask for access with the form on https://passionderm.github.io/, unpack it to raw/passion, then
    dermssl prepare --source passion --root raw/passion --out data/passion
    dermssl pretrain --config configs/simclr_lite0.yaml --data data/passion --out checkpoints/passion
    dermeval embed --encoder checkpoints/passion --data data/passion --out embeddings/passion
    dermeval evaluate --protocol passion embeddings/passion
  other sets: dermssl sources"""


def read(path: Path) -> dict[str, Any]:
    """A report that a command wrote with --json."""
    return read_json(path, "scripts/quickstart.sh")


def scores_of(folder: Path, probe: str) -> dict[str, dict[str, Any]]:
    """Balanced accuracy per image of every encoder, with interval and difference to the start."""
    return {
        row["result"].removeprefix(f"{probe}_"): row
        for row in read(folder / f"compare_{probe}.json")["rows"]
        if row["level"] == "image" and row["score"] == "balanced_accuracy"
    }


def lesson(probe: str, scores: dict[str, dict[str, Any]]) -> str:
    """One probe's result as a sentence."""
    start, trained = scores["start"], scores["trained"]
    low, high = trained["difference_low"], trained["difference_high"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "not shown to be better or worse"
    return (
        f"{PROBES[probe]}: {start['value']:.3f} before training, {trained['value']:.3f} after; difference "
        f"{trained['difference']:+.3f} [{low:+.3f}, {high:+.3f}], so the trained encoder is {verdict}. "
        f"Raw pixels: {scores['pixels']['value']:.3f}."
    )


def curves(metrics: Path) -> str:
    """Loss and online kNN over the steps, as SVG."""
    table = pd.read_json(metrics, lines=True)
    with rc_context(PLOT_STYLE):
        figure = Figure(figsize=(8.5, 2.8), layout="constrained")
        for axes, (name, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
            points = table.dropna(subset=name)
            axes.plot(points["step"], points[name], "o-", color=BLUE, markersize=4)
            axes.set(title=title, xlabel="step")
            axes.grid(axis="y")
        return as_svg(figure)


def picture(path: Path, height: str = "auto") -> str:
    """An image file as an HTML element that holds its bytes, so that the page is one file."""
    kind = "png" if path.suffix == ".png" else "jpeg"
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="" style="max-width: 100%; height: {height}" src="data:image/{kind};base64,{data}">'


def pair_pictures(folder: Path) -> list[str]:
    """The first pairs that the audit confirmed, side by side."""
    pairs = pd.read_parquet(folder / "leaks" / "pairs.parquet").head(SHOWN_PAIRS)
    images = folder / "raw" / "images"
    return [
        " ".join(picture(images / f"{Path(name).name}.jpg", "9rem") for name in pair)
        for pair in zip(pairs["image_id_a"], pairs["image_id_b"], strict=True)
    ]


def score_plot(scores: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Both probes of all encoders with their intervals, as SVG."""
    panels = []
    for probe, rows in scores.items():
        bars = [Bar(title, *(rows[name][key] for key in ("value", "low", "high"))) for name, title in ENCODERS.items()]
        panels.append((PROBES[probe], bars))
    return interval_plot(panels, same_axis=True)


def write_page(folder: Path, words: dict[str, str], scores: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Write ``report.html``, one file that needs no other."""
    lessons = [words["judged"], *(lesson(probe, rows) for probe, rows in scores.items())]
    sections = [
        Section("What was learned", lessons, figures=[score_plot(scores)]),
        Section("Training", [words["trained"]], figures=[curves(folder / "run" / "metrics.jsonl")]),
        Section(
            "Views: what the network was shown",
            ["Each column shows two views of one image: random crops in other colours."],
            figures=[picture(folder / "run" / "views.png")],
        ),
        Section(
            "Similar cases",
            ["The query stands at the left. Its own patient is never shown."],
            figures=[picture(folder / "similar_cases.png")],
        ),
        Section(
            "Records that share near-duplicate images",
            [words["audited"], "All pairs: leaks/report.html"],
            figures=pair_pictures(folder),
        ),
        Section("Next, with real data", NEXT.splitlines()[1:]),
    ]
    notes = ["These pictures are synthetic: the scores say nothing about patients."]
    write_text(folder / "report.html", render(title=words["title"], notes=notes, sections=sections))


def audited(folder: Path) -> str:
    """How many of the planted near-duplicate records the audit found, and how many others."""
    truth = pd.read_csv(folder / "raw" / "truth.csv", dtype=str)
    planted = set(map(frozenset, truth[["subject_id", "duplicate_subject_id"]].to_numpy()))
    pairs = pd.read_parquet(folder / "leaks" / "pairs.parquet")[["group_id_a", "group_id_b"]].to_numpy()
    found = {frozenset(record.split("/", 1)[1] for record in pair) for pair in pairs}
    return (
        f"{len(found & planted)} of {len(planted)} planted near-duplicate records found; "
        f"{len(found - planted)} records reported that were not planted."
    )


def main(folder: Path) -> None:
    """Write the page of ``folder`` and print its sentences."""
    scores = {probe: scores_of(folder, probe) for probe in PROBES}
    counts, run = read(folder / "compare_knn.json")["counts"], read(folder / "pretrain.json")
    words = {
        "title": f"dermssl quickstart: {counts['scored']} SYNTHETIC pictures of {counts['scored_groups']} made-up "
        "patients, four conditions",
        "trained": f"Trained without labels: SimCLR from ImageNet's EfficientNet-lite0, {run['steps']} steps in "
        f"{run['seconds'] / 60:.1f} min on {run['device']}, {run['precision']}.",
        "judged": "Balanced accuracy per image, 5 folds by patient, 95% intervals over patients; chance is 0.250.",
        "audited": audited(folder),
    }
    write_page(folder, words, scores)
    report = folder / "report.html"
    lines = [
        "",
        "=" * 100,
        words["title"],
        "",
        words["trained"],
        words["judged"],
        *(f"  {lesson(probe, rows)}" for probe, rows in scores.items()),
        "",
        f"similar cases    {folder}/similar_cases.png (the query at the left; its own patient is never shown)",
        f"leak audit       {words['audited']} {folder}/leaks/report.html",
        f"training curves  tensorboard --logdir {folder}/run/tensorboard",
        f"encoder          {folder}/run/encoder, a timm folder",
        f"all on one page  {report}",
        "",
        NEXT,
    ]
    print("\n".join(lines))
    if sys.stdout.isatty():
        webbrowser.open(report.resolve().as_uri())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
