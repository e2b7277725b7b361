"""``dermeval audit``: near-duplicates, off-topic images and label errors of a data set, on one page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.leaks.decisions import OF_IMAGES, about_same_labels, about_same_pixels, decided, read_decisions
from dermeval.leaks.earlier import VERSION
from dermeval.leaks.label_errors import labels_nearby, self_confidence
from dermeval.leaks.leaks import PICTURE, REVIEW_PICTURE, leaks
from dermeval.leaks.leaks import WRITTEN as LEAKS
from dermeval.leaks.off_topic import off_topic_scores, picture_features
from dermeval.leaks.options import AuditOptions, LeaksOptions
from dermeval.leaks.records import AuditedImages, open_audited
from dermeval.leaks.report import IMAGES, shown_image, write_page
from dermssl.atomic import locked, remove_folder
from dermssl.commandline import Report
from dermssl.dataset.splits import join_copies
from dermssl.errors import InputError, counted, did_you_mean
from dermssl.files import read_json, write_csv, write_json
from dermssl.neighbours import normalise
from dermssl.paths import require_new_folder

MARK = "audit.json"
WRITTEN = (
    *("audit.json", "report.html", "off_topic.csv", "label_errors.csv", PICTURE, "leaks.unfinished/*"),
    *("off_topic_decisions.csv", "label_errors_decisions.csv", REVIEW_PICTURE),
    *(f"leaks/{name}" for name in LEAKS),
)
IMAGE_TABLES = ("off_topic", "label_errors")
LEAST_OF_CLASS = 2
"""Groups that a class must have, so that its label can be learnt from other groups."""


def audit(options: AuditOptions) -> Report:
    """Run all three audits; see `AuditOptions`."""
    out = Path(options.out)
    unfinished = (out / MARK).is_file() and not read_json(out / MARK, "dermeval audit").get("finished")
    require_new_folder(out, options.overwrite or unfinished, WRITTEN, options.folders, key="finished")
    images = open_audited(options.folders)
    if options.target and images.labels and options.target not in images.labels:
        raise InputError(f"--target {options.target}: no such label; {did_you_mean(options.target, images.labels)}")
    target = options.target or next(iter(images.labels), None)
    judged: dict[str, str] = {}
    with locked(out):
        for file in (out / f"{name}_decisions.csv" for name in IMAGE_TABLES):
            decisions = read_decisions(file, OF_IMAGES)
            kept = about_same_pixels(decisions, out / "leaks", images)
            if file.name.startswith("label_errors") and images.labels:
                labels = images.frame.set_index("image_id")[target]
                kept = about_same_labels(kept, out, labels)
                judged = labels.reindex(kept["image_id"]).dropna().map(str).to_dict()
            if len(kept) < len(decisions):
                write_csv(file, kept)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / MARK, {"finished": False, "target": target, "judged": judged})
        remove_folder(out / IMAGES)  # an earlier audit may show images that have changed or been removed since
        found = _leaks(out, images, options)
        off_topic = rank_off_topic(images, options.workers)
        errors, why_not = rank_label_errors(images, target)
        data: dict[str, Any] = {
            "leaks": found,
            "images": len(images.frame),
            "target": target,
            "judged": judged,
            "why_no_label_errors": why_not,
        }
        for name, table in zip(IMAGE_TABLES, (off_topic, errors), strict=True):
            data[name] = None if table is None else table.head(options.shown).to_dict("records")
            if table is None:
                (out / f"{name}.csv").unlink(missing_ok=True)  # of an earlier audit
            else:
                verdict = decided(table, read_decisions(out / f"{name}_decisions.csv", OF_IMAGES))
                write_csv(out / f"{name}.csv", table.drop(columns="row").assign(decision=verdict))
        draw_audit(out, images, data)
        write_json(out / MARK, data | {"finished": True})
    text = [
        f"{out}: report.html",
        f"  near-duplicates   {counted(found['pairs'], 'pair')}, {counted(found['records_in_leak_groups'], 'record')}",
        f"  off-topic         ranked first: {', '.join(off_topic['image_id'].head(5))}",
        f"  label errors      {why_not or f'of {target}, ranked first: ' + ', '.join(errors['image_id'][:5])}",  # type: ignore[index]
        "  check off_topic.csv and label_errors.csv from the top until only correct images follow",
        f"  review all three with `dermeval review {out}`",
    ]
    return Report("\n".join(text), data | {"out": str(out)})


def _leaks(out: Path, images: AuditedImages, options: AuditOptions) -> dict[str, Any]:
    """The summary of the leak audit in ``out``/leaks. A finished audit of the same images and features is kept."""
    done = out / "leaks" / "summary.json"
    with locked(done.parent):  # clears away what a kill left
        if done.is_file() and not options.overwrite:
            summary = read_json(done, "dermeval leaks")
            features = [[entry.get("fingerprint"), entry.get("features")] for entry in summary.get("pretraining", ())]
            made = (summary.get("version"), summary.get("datasets"), summary.get("licences"), features)
            now = [[one.encoder["fingerprint"], one.digest()] for one in images.embedded]
            if made == (VERSION, images.datasets, images.licences, now):
                return summary
    chosen = LeaksOptions(out=str(out / "leaks"), folders=options.folders, workers=options.workers, overwrite=True)
    report = leaks(chosen, images)
    assert report is not None  # there is one process
    return report.data


def rank_off_topic(images: AuditedImages, workers: int = 0) -> pd.DataFrame:
    """All images, highest off-topic score first: ``rank``, ids, ``score`` (`off_topic_scores`), ``row``."""
    features = picture_features(images.pictures, workers)
    for one in images.embedded:
        if len(one.rows) == len(images.frame):
            vectors = np.empty_like(one.features, dtype=np.float32)
            vectors[one.rows] = one.features
            features.append(normalise(vectors))
    return _ranked(images, off_topic_scores(features), np.arange(len(images.frame)))


def _ranked(images: AuditedImages, scores: np.ndarray, rows: np.ndarray, **columns: Any) -> pd.DataFrame:
    ids = {name: images.frame[name].to_numpy()[rows] for name in ("image_id", "group_id", "dataset")}
    table = pd.DataFrame({**ids, "score": scores, **columns, "row": rows})
    table = table.sort_values("score", ascending=False, kind="stable", ignore_index=True).round({"score": 4})
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def rank_label_errors(images: AuditedImages, target: str | None) -> tuple[pd.DataFrame | None, str]:
    """The labelled images, least probable labels first; or None and the reason why they cannot be ranked.

    Groups that share an image, by its pixels, count as one. Left out are images without features of the first encoder,
    and classes of fewer than `LEAST_OF_CLASS` groups.

    Columns: ``rank``, ids, ``score`` (1 - probability of the given label), ``label``, ``likelier`` (the most probable
    label), ``nearby`` (labels of the nearest images of other groups), ``row``.
    """
    if not images.labels:
        return None, "not ranked: the data set has no labels"
    if not images.embedded:
        return None, "not ranked: label errors are found on features, so give an embeddings folder (`dermeval embed`)"
    column, one = target or images.labels[0], images.embedded[0]
    given = images.frame[column].to_numpy(dtype=object)[one.rows]
    # A copy of an image has its pixels, so it would confirm its label, wrong or not.
    units = join_copies(images.frame["group_id"], images.frame["pixel_sha256"])
    groups = pd.factorize(units)[0][one.rows]
    used = pd.notna(given)
    counts = pd.Series(groups[used]).groupby(given[used]).nunique()
    used &= pd.Series(given).map(counts).fillna(0).to_numpy() >= LEAST_OF_CLASS
    if len(set(given[used])) < 2:
        return None, f"not ranked: '{column}' has fewer than two classes with {LEAST_OF_CLASS} groups"
    codes, names = pd.factorize(given[used], sort=True)
    features, groups, rows = one.features[used].astype(np.float32), groups[used], one.rows[used]
    if not np.ptp(features, axis=0).any():
        return None, "not ranked: all images have the same features"
    believed = self_confidence(features, codes, groups)
    words = [
        ", ".join(f"{count} {name}" for name, count in pd.Series(names[part]).value_counts().items())
        for part in labels_nearby(features, codes, groups)
    ]
    columns = {"label": names[codes], "likelier": names[believed.argmax(axis=1)], "nearby": words}
    return _ranked(images, 1 - believed[np.arange(len(codes)), codes], rows, **columns), ""


def draw_audit(out: Path, images: AuditedImages, data: dict[str, Any]) -> None:
    """Write ``report.html`` from the content of ``audit.json``, with the decisions of the reviews so far."""
    cards = {}
    for name in IMAGE_TABLES:
        decisions = read_decisions(out / f"{name}_decisions.csv", OF_IMAGES)
        verdicts = dict(zip(decisions["image_id"], decisions["decision"], strict=True))
        shown = data[name] or []
        rows = images.rows_of([card["image_id"] for card in shown])
        cards[name] = [
            card | shown_image(out, images, row) | {"decision": verdicts.get(card["image_id"])}
            for card, row in zip(shown, rows, strict=True)
        ]
    title = f"Audit of {', '.join(entry['name'] for entry in images.datasets)}"
    found = data["leaks"] | data["leaks"].get("reviewed", {})
    why_not, target = data["why_no_label_errors"], data.get("target")  # earlier versions did not write the target
    write_page(out, "audit", images, found["notes"], title=title, leaks=found, why_not=why_not, target=target, **cards)
