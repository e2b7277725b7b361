"""What every report has: where the features are from, its words, notes and licences; and tables that compare.

A long table has one row for each encoder and column. It becomes tables of intervals, plots and the files of a report.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.features.pool import PooledEmbeddings
from dermeval.pages import plots
from dermeval.pages.tables import NARROW, ReportTable, show, tables_as_sections, tables_as_text
from dermeval.probes.task import unit_of
from dermeval.statistics.bootstrap import MIN_PATIENTS, RARE, Interval
from dermssl import licences, page
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.files import write_csv, write_json, write_text

ENDS = ("value", "low", "high")
FEW, SHARE, RUNS = 5, 0.1, 3
"""Patients of each class, share of the training patients, and draws of either, for scores from few labels."""
TERMS = {
    "probe": "A simple classifier on the encoder's frozen features. It judges the features, not itself.",
    "knn": "Weighted vote of the 20 most similar training images (cosine, weights exp(s / 0.07)).",
    "linear": "Logistic regression; folds within the training {unit}s choose its penalty.",
    "folds": "The {unit}s are cut into parts. Each part is scored by a probe that was trained on the others.",
    "image level, case level": "Each image scored alone; or the mean probability of all images of one case.",
    "majority vote": "The case gets the class that most of its images are predicted to be.",
    "[low, high]": "95% interval, from resampling whole {unit}s. The true score of similar {unit}s lies outside in "
    "about 1 of 20 such intervals.",
    NARROW: f"The true interval is wider: fewer than {RARE} {{unit}}s of a class, or {MIN_PATIENTS} in all, hardly "
    "vary between resamples, and a class of which none or all are recognised does not vary at all. Plots show a ring.",
    "balanced accuracy": "The mean of the recall of each class, so that rare classes count as much as frequent ones.",
    "recall, precision": "Of the images of a class, the share that is recognised; of those predicted to be of "
    "the class, the share that is.",
    "macro F1": "The harmonic mean of precision and recall of each class, averaged over classes.",
    "AUROC": "The probability that an image of the class scores higher for it than an image of another; 0.5 is chance.",
    "sensitivity at 90 specificity": "The recall of the positive class when 10% of the others are called positive.",
    "p": "Probability of a difference at least this large if there were none (two-sided, paired by {unit}). It is not "
    "corrected for the number of differences.",
    "per class, 10%": f"Trained on {FEW} {{unit}}s of each class, or on a tenth of those of each class; the mean of "
    f"{RUNS} draws.",
    "recall@1": "The share of images whose nearest other image shows the same lesion (patient).",
    "rank": "1 is the best encoder of a column. The mean rank is over all columns; its interval over draws of {unit}s.",
    "sd": "Standard deviation over the seeds.",
    "clean, contaminated": "The encoder did not see the image in pretraining; or it saw the image, a copy of it, or "
    "another image of its {unit} or lesion.",
    "resampled together, independently": "Whether a draw takes a {unit}'s clean and contaminated images together.",
    "unseen, size-matched": "Trained without that group and scored on it; the control is trained on as many {unit}s of "
    "all groups, so that the difference is not due to their number.",
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
        encoder, synthetic = {"training": {"splits": "all"} if saw_test else {}}, any(one.synthetic for one in sources)
        notices = licences.merge(entry for source in sources for entry in source.licences)
        return FeatureSource(encoder, sources[0].datasets, notices, synthetic)


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
    sections = tables_as_sections([*tables, ReportTable("What the words mean", pd.DataFrame(), terms=terms)])
    return page.render(title=title, lead=lead, sections=sections, notes=notes, foot=_closing_lines(source))


def _closing_lines(source: FeatureSource) -> list[str]:
    """Warnings about the data, and licences."""
    text = ["SYNTHETIC data: these scores say nothing about patients"] if source.synthetic else []
    doubt = "has no patient key: patient leakage cannot be ruled out, and intervals may be too narrow"
    text += [f"{entry['name']} {doubt}" for entry in source.datasets if not entry["patient_key"]]
    if source.encoder.get("training", {}).get("splits") == "all":
        text.append("the encoder was pretrained on all splits, test images included")
    return [*text, *licences.notice_lines(source.licences)]


def distinct_names(*choices: Sequence[str]) -> list[str]:
    r"""The first choice of names in which all differ, else the last; bytes that are no UTF-8 become ``\udcff``."""
    found = next((names for names in choices if len(set(names)) == len(names)), choices[-1])
    return [name.encode("utf-8", "backslashreplace").decode() for name in found]


def long_row(score: Interval) -> dict[str, Any]:
    """The columns ``value``, ``low``, ``high`` and ``narrow``."""
    return {"narrow": False} | score.entry()


def interval_columns(prefix: str, interval: Interval | None) -> dict[str, Any]:
    """The columns ``prefix``, ``prefix_low``, ``prefix_high`` of a further interval, and ``p`` of a difference."""
    entry, p = interval.entry() if interval else {}, {"p": "p"} if prefix == "difference" else {}
    return {name: entry.get(end) for end, name in (_columns_of(prefix) | p).items()}


def _columns_of(prefix: str) -> dict[str, str]:
    return dict(zip(ENDS, (prefix, f"{prefix}_low", f"{prefix}_high") if prefix else ENDS, strict=True))


def _interval_at(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The interval in the columns of ``prefix`` (empty: that of the score), as `show` takes it."""
    names = _columns_of(prefix) | {"narrow": "narrow"} | ({"p": "p"} if prefix == "difference" else {})
    return {end: row[name] for end, name in names.items()}


def interval_table(
    heading: str,
    rows: pd.DataFrame,
    keys: tuple[str, str],
    prefix: str = "",
    digits: str = ".3f",
    more: str = "",
    figures: tuple[str, ...] = (),
) -> ReportTable:
    """The intervals in the columns of ``prefix`` as a table: the first key down, unnamed, the second across.

    Both stand in the order of ``rows``. ``more`` is a column of text that follows the interval.
    """
    down, across = keys
    cells = [show(_interval_at(row, prefix), digits) + (row[more] if more else "") for row in rows.to_dict("records")]
    found = rows.assign(cell=cells).pivot(index=down, columns=across, values="cell")
    found = found.loc[list(dict.fromkeys(rows[down])), list(dict.fromkeys(rows[across]))]
    return ReportTable(heading, found.rename_axis(index=None, columns=None).reset_index(names=""), figures)


def dots(rows: pd.DataFrame, keys: tuple[str, str], prefix: str = "", most: int = 6) -> str:
    """Dots with intervals as SVG: a panel for each of the first ``most`` columns."""
    panels = []
    for column, part in list(rows.groupby(keys[1], sort=False))[:most]:
        entries = [(row[keys[0]], _interval_at(row, prefix)) for row in part.to_dict("records")]
        bars = [plots.Bar(name, *(own[key] for key in (*ENDS, "narrow"))) for name, own in entries]
        panels.append((str(column).replace("_", " "), bars))
    return plots.interval_plot(panels, zero=prefix == "difference")


def side_by_side_report(
    folder: str | None,
    files: Sequence[str],
    head: str,
    lead: Sequence[str],
    tables: Sequence[ReportTable],
    captions: Iterable[tuple[ReportTable, str]],
    words: Sequence[str],
    source: FeatureSource,
    data: dict[str, Any],
) -> Report:
    """What is printed; and, in ``folder``, ``files``: ``data``, its rows, the tables with captions (LaTeX), a page."""
    notes = data["notes"]
    if folder:
        with atomic_folder(Path(folder)) as temporary:
            made, rows, tex, page = (temporary / file for file in files)
            write_json(made, data)
            write_csv(rows, pd.DataFrame(data["rows"]))
            parts = [*(_latex(table, caption) for table, caption in captions), *map(_escaped, notes)]
            write_text(tex, "\n".join(parts))
            write_text(page, report_page(head[:1].upper() + head[1:], lead, tables, source, notes, words))
    return Report(report_text([head, *lead, *tables_as_text(tables)], source, notes), data)


def _latex(table: ReportTable, caption: str) -> str:
    """A booktabs table."""
    style = table.frame.set_index("").rename_axis(None).rename(columns=lambda name: name.replace("_", " ")).style
    style = style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    return style.to_latex(hrules=True, caption=_escaped(caption))


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
