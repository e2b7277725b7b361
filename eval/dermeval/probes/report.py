"""What every report has: where the features are from, its words, its notes and licences, as text and as a page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dermeval.features.pool import PooledEmbeddings
from dermeval.pages.tables import NARROW, ReportTable, tables_as_sections
from dermeval.probes.task import unit_of
from dermeval.statistics.bootstrap import MIN_PATIENTS, RARE
from dermssl import licences, page

FEW, SHARE, RUNS = 5, 0.1, 3
"""Patients of each class, share of the training patients, and draws of either, for scores from few labels."""
TERMS = {
    "probe": "A simple classifier on the encoder's frozen features. It judges the features, not itself.",
    "knn": "Weighted vote of the 20 most similar training images (cosine, weights exp(s / 0.07)).",
    "linear": "Logistic regression; folds within the training {unit}s choose its penalty.",
    "folds": "The {unit}s are cut into parts. Each part is scored by a probe that was trained on the others.",
    "image level, case level": "Each image scored alone; or the mean probability of all images of one case.",
    "majority vote": "The case gets the class that most of its images were given.",
    "[low, high]": "95% interval, from resampling whole {unit}s. The true score of similar {unit}s lies outside in "
    "about 1 of 20 such intervals.",
    NARROW: f"The true interval is wider: fewer than {RARE} {{unit}}s of a class, or {MIN_PATIENTS} in all, hardly "
    "vary between resamples, and a class of which none or all are recognised does not vary at all. Plots show a ring.",
    "balanced accuracy": "The mean of the recall of each class, so that rare classes count as much as frequent ones.",
    "recall, precision": "Of the images of a class, the share that is recognised; of those predicted to be of "
    "the class, the share that is.",
    "macro F1": "The harmonic mean of precision and recall of each class, averaged over classes.",
    "AUROC": "The probability that an image of the class scores higher for it than an image of another; 0.5 is chance.",
    "sensitivity at 90 specificity": "The recall of the positive class when 10% of the others are taken for it.",
    "p": "Probability of so large a difference, or a larger one, if there were none (two-sided, paired by {unit}). It "
    "is not corrected for the number of differences.",
    "per class, 10%": f"Trained on {FEW} {{unit}}s of each class, or on a tenth of those of each class; the mean of "
    f"{RUNS} draws.",
    "recall@1": "The share of images whose nearest other image shows the same lesion (patient).",
    "rank": "1 is the best encoder of a column. The mean rank is over all columns; its interval over draws of {unit}s.",
    "sd": "Standard deviation over the seeds.",
    "clean, contaminated": "Not seen in pretraining; or seen itself, as a copy, or by its {unit} or lesion.",
    "resampled together, independently": "Whether {unit}s with images on both sides come and go together in a draw.",
    "unseen, size-matched": "Trained without that group and scored on it; the control is trained on as many {unit}s of "
    "all groups, so that the difference is not one of size.",
    "insufficient": f"Fewer than {MIN_PATIENTS} {{unit}}s: not scored.",
    "one class": "All images of the group have one label, so there is nothing to tell apart.",
    "missing": "Images for which the value is not known.",
    "gap": "The best group's score minus the worst's. Only groups that hold every class are ranked. As the largest of "
    "several differences it errs on the large side.",
}
ENCODERS = ("knn", "linear", "balanced accuracy", "[low, high]", NARROW, "per class, 10%", "recall@1", "rank", "p")
RESULTS = ("image level, case level", "[low, high]", NARROW, "balanced accuracy", "macro F1", "AUROC", "p", "sd")
PROTOCOL = tuple(term for term in TERMS if term not in ("per class, 10%", "recall@1", "rank", "sd"))
"""The words that a table of encoders, a comparison of results and a protocol explain."""


@dataclass(frozen=True)
class FeatureSource:
    """What every report says of where its features come from, and under which licences."""

    encoder: dict[str, Any]
    datasets: list[dict[str, Any]]
    licences: list[dict[str, Any]]
    synthetic: bool

    @property
    def unit(self) -> str:
        """What a group is, in the singular."""
        return unit_of(self.datasets)

    @property
    def names(self) -> str:
        """The data sets."""
        return ", ".join(entry["name"] for entry in self.datasets)

    @property
    def encoder_line(self) -> str:
        """Which encoder made the features."""
        return f"encoder: {self.encoder['path']} (fingerprint {self.encoder['fingerprint'][:12]})"

    @staticmethod
    def of(pool: PooledEmbeddings) -> "FeatureSource":
        """That of the pooled embeddings folders."""
        keys = ("name", "fingerprint", "synthetic", "group", "case", "patient_key")
        datasets = [{key: entry[key] for key in keys} for entry in pool.datasets]
        return FeatureSource(pool.encoder, datasets, pool.licences, any(entry["synthetic"] for entry in pool.licences))

    @staticmethod
    def of_all(sources: "Sequence[FeatureSource]") -> "FeatureSource":
        """That of several on the same images: the strictest of each."""
        saw_test = any(source.encoder.get("training", {}).get("splits") == "all" for source in sources)
        return FeatureSource(
            {"training": {"splits": "all"} if saw_test else {}},
            sources[0].datasets,
            licences.merge(entry for source in sources for entry in source.licences),
            any(source.synthetic for source in sources),
        )


def report_text(lines: Iterable[str], source: FeatureSource, notes: Sequence[str]) -> str:
    """The lines of a report, and what closes it: what marks in them mean, notes, warnings and licences."""
    text = "\n".join(lines)
    marks = [f"{NARROW}: {TERMS[NARROW]}".replace("{unit}", source.unit)] if NARROW in text else []
    return "\n".join([text, "", *marks, *[f"note: {note}" for note in notes], *_closing_lines(source)])


def report_page(
    title: str,
    lead: Sequence[str],
    tables: Sequence[ReportTable],
    source: FeatureSource,
    notes: Sequence[str],
    words: Sequence[str],
) -> str:
    """The tables as an HTML page that explains its ``words`` (of `TERMS`) at the end."""
    terms = {word: TERMS[word].replace("{unit}", source.unit) for word in words}
    shown = [*tables, ReportTable("What the words mean", pd.DataFrame(), terms=terms)]
    return page.render(
        title=title, lead=lead, sections=tables_as_sections(shown), notes=notes, foot=_closing_lines(source)
    )


def _closing_lines(source: FeatureSource) -> list[str]:
    """Warnings about the data, and licences."""
    text = ["SYNTHETIC data: these scores say nothing about patients"] if source.synthetic else []
    text += [
        f"{entry['name']} has no patient key: patient leakage cannot be ruled out, and intervals may be too narrow"
        for entry in source.datasets
        if not entry["patient_key"]
    ]
    if source.encoder.get("training", {}).get("splits") == "all":
        text.append("the encoder was pretrained on all splits, test images included")
    return [*text, *licences.notice_lines(source.licences)]
