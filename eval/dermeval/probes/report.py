"""What all reports share: the source of the features, terms, notes, licences; and tables that compare encoders.

A long table has one row for each encoder and column. From it come the tables, the plots and the files of a report.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.features.embeddings import doubts, saw_test
from dermeval.features.pool import PooledEmbeddings
from dermeval.pages import plots
from dermeval.pages.tables import NARROW, ReportTable, in_words, show, tables_as_sections, tables_as_text
from dermeval.probes.task import unit_of
from dermeval.statistics.bootstrap import MIN_PATIENTS, RARE
from dermssl import licences, page
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.files import write_csv, write_json, write_text

INTERVALS = ("value", "difference", "rank")
"""Cells of a long table that are intervals, as `Interval.entry` gives them; ``difference`` may be None."""
MOST_PANELS = 6
FEW, SHARE, RUNS = 5, 0.1, 3
"""For scores from few labels: patients of each class, share of the training patients, and draws of each kind."""
TERMS = {
    "probe": "A simple classifier on the encoder's frozen features. It judges the features, not itself.",
    "knn": "Weighted vote of the 20 most similar training images (cosine, weights exp(s / 0.07)).",
    "linear": "Logistic regression. Folds within the training {unit}s choose its penalty.",
    "folds": "The {unit}s are cut into parts. A probe that was trained on the other parts scores each part.",
    "image level, case level": "Image level: each image is scored alone. Case level: each case is scored by the mean "
    "probability of its images.",
    "majority vote": "A case gets the class that is predicted for most of its images.",
    "[low, high]": "95% interval, from resampling whole {unit}s. About 1 of 20 such intervals does not hold the true "
    "score of similar {unit}s.",
    NARROW: f"The true interval is wider than the one shown. Fewer than {RARE} {{unit}}s of a class, or {MIN_PATIENTS} "
    "in all, hardly vary between resamples. A class of which none or all are recognised does not vary at all. Plots "
    "show a ring.",
    "balanced accuracy": "The mean of the recall of each class, so that rare classes count as much as frequent ones.",
    "recall, precision": "Recall: the share of the images of a class that are predicted to be of it. Precision: the "
    "share of the images predicted to be of a class that are of it.",
    "macro F1": "The harmonic mean of precision and recall of each class, averaged over classes.",
    "AUROC": "How often an image of a class gets a higher probability of that class than an image of another class. "
    "0.5 is chance.",
    "positive F1": "The harmonic mean of precision and recall of the positive class of a target with two classes.",
    "sensitivity at 90 specificity": "The recall of the positive class where at most 10% of the others are called "
    "positive.",
    "p": "The probability of a difference at least this large if there were none (two-sided, paired by {unit}). It is "
    "not corrected for the number of differences.",
    "per class, 10%": f"Trained on {FEW} {{unit}}s of each class, or on a tenth of the {{unit}}s of each class. The "
    f"score is the mean of {RUNS} draws. Its interval leaves out the spread between these draws.",
    "recall@1": "The share of images whose most similar other image shows the same lesion (patient), among the images "
    "whose lesion (patient) has another image.",
    "rank": "1 is the best encoder of a column. The mean rank is over all columns. Its interval is from draws of "
    "{unit}s. Columns of other images (skin types, recall@1) have draws of their own, so it errs on the narrow side.",
    "sd": "Standard deviation over the seeds.",
    "clean, contaminated": "Contaminated: in pretraining the encoder saw the image, a copy of it, or another image of "
    "its {unit} or lesion. Clean: it saw none of these.",
    "resampled together, independently": "Whether a draw takes a {unit}'s clean and contaminated images together.",
    "unseen, size-matched": "Unseen: trained without a group and scored on it. Size-matched: trained on as many "
    "{unit}s of all groups, so that their number does not explain the difference.",
    "insufficient": f"Fewer than {MIN_PATIENTS} {{unit}}s: not scored.",
    "one class": "All images of the group have one label, so there are no classes to tell apart.",
    "missing": "Images for which the value is not known.",
    "gap": "The best group's score minus the worst's. Only groups with every class are ranked. The gap is the largest "
    "of several differences, so it errs on the large side.",
}
LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
"""What LaTeX needs instead of the signs that have a meaning there."""
ENCODERS = ("knn", "linear", "balanced accuracy", "[low, high]", NARROW, "per class, 10%", "recall@1", "rank", "p")
RESULTS = (
    "image level, case level",
    "[low, high]",
    NARROW,
    "balanced accuracy",
    "macro F1",
    "AUROC",
    "positive F1",
    "p",
    "sd",
)
PROTOCOL = tuple(term for term in TERMS if term not in ("per class, 10%", "recall@1", "rank", "sd"))
"""The terms that a table of encoders, a comparison of results and a protocol explain."""


@dataclass(frozen=True)
class FeatureSource:
    """Where the features of a report come from, and under which licences."""

    encoder: dict[str, Any]
    datasets: list[dict[str, Any]]
    licences: list[dict[str, Any]]
    synthetic: bool

    @property
    def unit(self) -> str:
        """See `unit_of`."""
        return unit_of(self.datasets)

    @property
    def names(self) -> str:
        """The names of the data sets."""
        return ", ".join(entry["name"] for entry in self.datasets)

    @property
    def encoder_line(self) -> str:
        """A line that names the encoder."""
        return f"encoder: {self.encoder['path']} (fingerprint {self.encoder['fingerprint'][:12]})"

    @staticmethod
    def of(pool: PooledEmbeddings) -> "FeatureSource":
        """The source of pooled embeddings."""
        keys = ("name", "fingerprint", "synthetic", "group", "case", "patient_key")
        datasets = [{key: entry[key] for key in keys} for entry in pool.present_datasets]
        return FeatureSource(pool.encoder, datasets, pool.notices, any(entry["synthetic"] for entry in datasets))

    @staticmethod
    def of_all(sources: "Sequence[FeatureSource]") -> "FeatureSource":
        """The joint source of several encoders on the same images, with the warnings and licences of all."""
        splits = {"splits": "all"} if any(saw_test(source.encoder) for source in sources) else {}
        encoder, synthetic = {"training": splits}, any(one.synthetic for one in sources)
        notices = licences.merge(entry for source in sources for entry in source.licences)
        return FeatureSource(encoder, sources[0].datasets, notices, synthetic)


def report_text(lines: Iterable[str], source: FeatureSource, notes: Sequence[str]) -> str:
    """The lines of a report, then what `NARROW` means where they have it, notes, warnings and licences."""
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
    """The tables as an HTML page that ends with the meaning of ``words`` (keys of `TERMS`)."""
    terms = {word: TERMS[word].replace("{unit}", source.unit) for word in words}
    sections = [*tables_as_sections(tables), page.Section("What the words mean", terms=terms)]
    title = title[:1].upper() + title[1:]
    return page.render(title=title, lead=lead, sections=sections, notes=notes, foot=_closing_lines(source))


def _closing_lines(source: FeatureSource) -> list[str]:
    """Warnings about the data, then the licences."""
    return [*doubts(source.datasets, source.synthetic, source.encoder), *licences.notice_lines(source.licences)]


def distinct_names(*choices: Sequence[str]) -> list[str]:
    r"""The first of ``choices`` in which all names differ, else the last. Bytes that are no UTF-8 become ``\udcff``."""
    found = next((names for names in choices if len(set(names)) == len(names)), choices[-1])
    return [name.encode("utf-8", "backslashreplace").decode() for name in found]


def flat_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a long table as the files have it, with the ends of each interval in columns of their own."""
    flat: dict[str, Any] = {}
    for name, cell in row.items():
        if name not in INTERVALS:
            flat[name] = cell
            continue
        entry, prefix = cell or {}, "" if name == "value" else f"{name}_"
        flat |= {"narrow": entry.get("narrow", False)} if name == "value" else {}
        flat |= {name: entry.get("value"), f"{prefix}low": entry.get("low"), f"{prefix}high": entry.get("high")}
        flat |= {"p": entry.get("p")} if name == "difference" else {}
    return flat


def interval_table(
    heading: str,
    rows: pd.DataFrame,
    keys: tuple[str, str],
    interval: str = "value",
    digits: str = ".3f",
    more: str = "",
    figures: tuple[str, ...] = (),
) -> ReportTable:
    """One of `INTERVALS` of a long table as a table: the first key down, without a heading, the second key across.

    Both are in the order of ``rows``. ``more`` names a column of text that follows the interval.
    """
    down, across = keys
    cells = [show(row[interval], digits) + (row[more] if more else "") for row in rows.to_dict("records")]
    found = rows.assign(cell=cells).pivot(index=down, columns=across, values="cell")
    found = found.loc[list(dict.fromkeys(rows[down])), list(dict.fromkeys(rows[across]))]
    return ReportTable(heading, found.rename_axis(index=None, columns=None).reset_index(names=""), figures)


def dots(rows: pd.DataFrame, keys: tuple[str, str], interval: str = "value") -> str:
    """One of `INTERVALS` of a long table as dots (SVG): a panel for each of the second key's first values."""
    columns, panels = list(rows.groupby(keys[1], sort=False)), []
    for column, part in columns[:MOST_PANELS]:
        bars = []
        for row in part.to_dict("records"):
            value, low, high = np.array([row[interval][end] for end in ("value", "low", "high")], dtype=float)
            bars.append(plots.Bar(row[keys[0]], value, low, high, row[interval].get("narrow", False)))
        panels.append((in_words(str(column)), bars))
    left_out = f"the first {MOST_PANELS} of {len(columns)} columns" if len(columns) > MOST_PANELS else ""
    return plots.interval_plot(panels, zero=interval == "difference", foot=left_out)


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
    """A report on several encoders. It is written to ``folder``, if there is one, as four ``files``.

    They are ``data`` (JSON), the rows of it (CSV), the tables with ``captions`` (LaTeX), and a page.
    """
    notes = data["notes"]
    if folder:
        with atomic_folder(Path(folder)) as temporary:
            made, rows, tex, page = (temporary / file for file in files)
            write_json(made, data)
            write_csv(rows, pd.DataFrame(data["rows"]))
            parts = [_latex(table, caption) for table, caption in captions] + [note.translate(LATEX) for note in notes]
            write_text(tex, "\n".join(parts))
            write_text(page, report_page(head, lead, tables, source, notes, words))
    return Report(report_text([head, *lead, *tables_as_text(tables)], source, notes), data)


def _latex(table: ReportTable, caption: str) -> str:
    """A booktabs table."""
    style = table.frame.set_index("").rename_axis(None).rename(columns=in_words).style
    style = style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    return style.to_latex(hrules=True, caption=caption.translate(LATEX))
