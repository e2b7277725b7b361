"""What all reports share: the source of the features, terms, notes, licences; and tables that compare encoders.

A long table has one row for each encoder and column. From it come the tables, the plots and the files of a report.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.features.pool import PooledEmbeddings
from dermeval.pages import plots
from dermeval.pages.tables import NARROW, ReportTable, show, tables_as_sections, tables_as_text
from dermeval.probes.task import unit_of
from dermeval.statistics.bootstrap import MIN_PATIENTS, RARE
from dermssl import licences, page
from dermssl.atomic import atomic_folder
from dermssl.commandline import Report
from dermssl.files import write_csv, write_json, write_text

INTERVALS = {"value": ".3f", "difference": "+.3f", "rank": ".1f"}
"""Formats of the cells of a long table that are intervals (`Interval.entry`); ``difference`` may be None."""
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
    "sensitivity at 90 specificity": "The recall of the positive class where 10% of the others are called positive.",
    "p": "The probability of a difference at least this large if there were none (two-sided, paired by {unit}). It is "
    "not corrected for the number of differences.",
    "per class, 10%": f"Trained on {FEW} {{unit}}s of each class, or on a tenth of the {{unit}}s of each class. The "
    f"score is the mean of {RUNS} draws. Its interval leaves out the spread between these draws.",
    "recall@1": "The share of images whose most similar other image shows the same lesion (patient).",
    "rank": "1 is the best encoder of a column. The mean rank is over all columns. Its interval is from draws of "
    "{unit}s.",
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
ENCODERS = ("knn", "linear", "balanced accuracy", "[low, high]", NARROW, "per class, 10%", "recall@1", "rank", "p")
RESULTS = ("image level, case level", "[low, high]", NARROW, "balanced accuracy", "macro F1", "AUROC", "p", "sd")
PROTOCOL = tuple(term for term in TERMS if term not in ("per class, 10%", "recall@1", "rank", "sd"))
"""The terms that a table of encoders, a comparison of results and a protocol explain."""


def source_of(pool: PooledEmbeddings) -> dict[str, Any]:
    """Where the features of a report come from, and under which licences: the first entries of a ``result.json``."""
    keys = ("name", "fingerprint", "synthetic", "group", "case", "patient_key")
    datasets = [{key: entry[key] for key in keys} for entry in pool.datasets]
    synthetic = any(entry["synthetic"] for entry in pool.licences)
    return {"encoder": pool.encoder, "datasets": datasets, "licences": pool.licences, "synthetic": synthetic}


def saw_test(encoder: Mapping[str, Any]) -> bool:
    """Whether an encoder was pretrained on all splits, test images included."""
    return encoder.get("training", {}).get("splits") == "all"


def joint_source(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The source of several encoders on the same images, with the warnings and licences of all."""
    splits = {"splits": "all"} if any(saw_test(source["encoder"]) for source in sources) else {}
    return {
        "encoder": {"training": splits},
        "datasets": sources[0]["datasets"],
        "licences": licences.merge(entry for source in sources for entry in source["licences"]),
        "synthetic": any(source["synthetic"] for source in sources),
    }


def names_of(source: Mapping[str, Any]) -> str:
    """The names of the data sets of a source or result."""
    return ", ".join(entry["name"] for entry in source["datasets"])


def encoder_line(source: Mapping[str, Any]) -> str:
    """A line that names the encoder of a source or result."""
    return f"encoder: {source['encoder']['path']} (fingerprint {source['encoder']['fingerprint'][:12]})"


def report_text(lines: Iterable[str], source: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The lines of a report, then what `NARROW` means where they have it, notes, warnings and licences."""
    text = "\n".join(lines)
    marks = [f"{NARROW}: {TERMS[NARROW]}".replace("{unit}", unit_of(source["datasets"]))] if NARROW in text else []
    return "\n".join([text, "", *marks, *[f"note: {note}" for note in notes], *_closing_lines(source)])


def report_page(
    title: str,
    lead: Sequence[str],
    tables: Sequence[ReportTable],
    source: Mapping[str, Any],
    notes: Sequence[str],
    words: Sequence[str],
) -> str:
    """The tables as an HTML page that ends with the meaning of ``words`` (keys of `TERMS`)."""
    terms = {word: TERMS[word].replace("{unit}", unit_of(source["datasets"])) for word in words}
    sections = [*tables_as_sections(tables), page.Section("What the words mean", terms=terms)]
    title = title[:1].upper() + title[1:]
    return page.render(title=title, lead=lead, sections=sections, notes=notes, foot=_closing_lines(source))


def _closing_lines(source: Mapping[str, Any]) -> list[str]:
    """Warnings about the data, then the licences."""
    text = ["SYNTHETIC data: these scores say nothing about patients"] if source["synthetic"] else []
    doubt = "has no patient key: patient leakage cannot be ruled out, and intervals may be too narrow"
    text += [f"{entry['name']} {doubt}" for entry in source["datasets"] if not entry["patient_key"]]
    if saw_test(source["encoder"]):
        text.append("the encoder was pretrained on all splits, test images included")
    return [*text, *licences.notice_lines(source["licences"])]


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
    heading: str, rows: pd.DataFrame, keys: tuple[str, str], interval: str = "value", figures: tuple[str, ...] = ()
) -> ReportTable:
    """One of `INTERVALS` of a long table as a table: the first key down, without a heading, the second key across.

    Both are in the order of ``rows``. The text of a column ``sd`` follows a value.
    """
    down, across = keys
    cells = [show(cell, INTERVALS[interval]) for cell in rows[interval]]
    cells = list(map("".join, zip(cells, rows["sd"], strict=True))) if interval == "value" and "sd" in rows else cells
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
        panels.append((str(column).replace("_", " "), bars))
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
    source: Mapping[str, Any],
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
            parts = [*(_latex(table, caption) for table, caption in captions), *map(_escaped, notes)]
            write_text(tex, "\n".join(parts))
            write_text(page, report_page(head, lead, tables, source, notes, words))
    return Report(report_text([head, *lead, *tables_as_text(tables)], source, notes), data)


def _latex(table: ReportTable, caption: str) -> str:
    """A booktabs table."""
    style = table.frame.set_index("").rename_axis(None).rename(columns=lambda name: name.replace("_", " ")).style
    style = style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    return style.to_latex(hrules=True, caption=_escaped(caption))


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
