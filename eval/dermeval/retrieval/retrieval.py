"""``dermeval retrieval``: measures of retrieval, by group of patients, and the difference between two encoders."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.features.embeddings import doubts
from dermeval.pages.tables import NARROW, show
from dermeval.retrieval.index import Source, open_source
from dermeval.retrieval.measures import majority_at, measures_at
from dermeval.retrieval.options import RetrievalOptions
from dermeval.statistics.bootstrap import MEAN, MIN_PATIENTS, paired_means, require_draws
from dermssl import licences
from dermssl.commandline import Report
from dermssl.dataset.splits import join_copies
from dermssl.errors import InputError, counted, did_you_mean
from dermssl.neighbours import nearest_of_other_groups

IDS = {"lesion": "lesion_id", "patient": "patient_id"}
GROUPS = ("fitzpatrick", "tone_group", "sex", "body_site", "modality", "dataset")
SHOWN_DEPTHS, SHOWN_GROUPS = 3, 6
"""Numbers of depths and of groups of one column that are printed at most; --json holds all."""


def retrieval(options: RetrievalOptions) -> Report:
    """Measure the retrieval of one encoder, or compare two; see `RetrievalOptions`."""
    require_draws(options.draws)
    if len(options.sources) > 2:
        raise InputError("give one embeddings or index folder, or two to compare")
    sources = [open_source(folder) for folder in options.sources]
    relevance = _relevance(sources[0], options.relevance)
    judged = [judge_retrieval(source, _relevance(source, relevance), options) for source in sources]
    parts = [
        {
            "folder": str(source.folder),
            "encoder": source.encoder["path"],
            "queries": len(queries),
            "patients": values.index.nunique(),
            "scores": _intervals(values, options.draws),
            "groups": _by_group(queries, values, options.draws),
        }
        for source, (queries, values) in zip(sources, judged, strict=True)
    ]
    data: dict[str, Any] = {"relevance": relevance, "encoders": parts}
    text = [line for source, part in zip(sources, parts, strict=True) for line in _as_text(source, relevance, part)]
    if len(judged) == 2:
        (_, first), (_, second) = judged
        _refuse_unequal(sources, relevance)
        data["difference"] = _intervals(first.rsub(second.to_numpy()), options.draws)
        text += ["", "second minus first, on the same queries (paired bootstrap by patient):"]
        text += _table(data["difference"])
    said = (doubts(source.present_datasets, source.synthetic, source.encoder) for source in sources)
    text += dict.fromkeys(itertools.chain(*said, *(_class_doubts(source, relevance) for source in sources)))
    text += licences.notice_lines(licences.merge(entry for source in sources for entry in source.notices))
    return Report("\n".join(text), data)


def _relevance(source: Source, asked: str | None) -> str:
    """The relevance: the ``asked`` target, lesion or patient, or the first target."""
    if asked is None:
        if not source.targets:
            raise InputError(f"{source.folder} has no target: give --relevance lesion or patient")
        return next(iter(source.targets))
    if asked not in IDS and asked not in source.targets:
        raise InputError(f"{source.folder} has no target '{asked}': {did_you_mean(asked, [*IDS, *source.targets])}")
    return asked


def _column(source: Source, relevance: str) -> str:
    """The column of the manifest whose equal values are relevant to each other."""
    return IDS[relevance] if relevance in IDS else source.targets[relevance].column


def _class_doubts(source: Source, relevance: str) -> list[str]:
    """A warning if the data sets of ``source`` name the classes of a target differently, so that few labels match."""
    declared = [targets[relevance].classes for targets in source.targets_by_dataset.values() if relevance in targets]
    alike = f"the data sets declare '{relevance}' with different classes: only equal labels count as relevant"
    return [alike] if len(set(declared)) > 1 else []


def _refuse_unequal(sources: Sequence[Source], relevance: str) -> None:
    """Raise InputError unless two sources hold the same images in one order, with the same labels and groups.

    One of them may read an older copy of the data set.
    """
    one, other = (source.frame for source in sources)
    pairs = [("image_id", "image_id"), (_column(sources[0], relevance), _column(sources[1], relevance))]
    pairs += [("group_id", "group_id")]
    for (ours, theirs), what in zip(pairs, ("images or the order of them", "labels", "groups"), strict=True):
        values = (column.astype(object).where(column.notna(), None).tolist() for column in (one[ours], other[theirs]))
        if next(values) != next(values):
            raise InputError(
                f"{sources[0].folder} and {sources[1].folder} differ in their {what}: "
                "embed the same data with both encoders"
            )


def judge_retrieval(source: Source, relevance: str, options: RetrievalOptions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank all other images for each query. Returns the queries' manifest rows, and all measures by their group.

    Groups that share an image count as one, since their measures are not independent.

    For a target, images of the query's own patient are junk: they are left out of the ranking. For lesion and patient
    only the query itself is left out. So are images with its pixels, since finding a copy shows nothing. Raises
    InputError if no query has a relevant image.
    """
    frame = source.frame
    column = _column(source, relevance)
    labels, _ = pd.factorize(frame[column])
    junk = np.arange(len(frame)) if relevance in IDS else pd.factorize(frame["group_id"])[0]
    pixels = pd.factorize(frame["pixel_sha256"])[0]
    # Images of the same label, without junk and copies.
    total = _sizes(labels) - _sizes(labels, junk) - _sizes(labels, pixels) + _sizes(labels, junk, pixels)
    asked = np.ones(len(frame), bool) if options.split == "all" else (frame["split"] == options.split).to_numpy()
    queries = np.flatnonzero((labels >= 0) & (total > 0) & asked)
    if not len(queries):
        raise InputError(
            f"{source.folder}: no query ({options.split} images) has another image of the same {relevance} to find"
        )
    ranked = nearest_of_other_groups(source.features, queries, np.stack([junk, pixels]), max(options.k))
    found = np.where(ranked < 0, -1, labels[ranked])
    truth, total = labels[queries], total[queries]
    relevant = (found == truth[:, None]) & (ranked >= 0)
    values: dict[str, np.ndarray] = {}
    for k in sorted(set(options.k)):
        values |= {f"{name}@{k}": scores for name, scores in measures_at(relevant, total, k).items()}
        if relevance not in IDS:
            values[f"mMV@{k}"] = majority_at(found, truth, k)
    groups = join_copies(frame["group_id"], frame["pixel_sha256"]).iloc[queries]
    return frame.iloc[queries].reset_index(drop=True), pd.DataFrame(values, index=pd.Index(groups))


def _sizes(*columns: np.ndarray) -> np.ndarray:
    """For each row the number of rows with the same values in all ``columns`` ``(N,)``."""
    codes, _ = pd.factorize(pd.MultiIndex.from_arrays(columns))
    return np.bincount(codes)[codes]


def _intervals(values: pd.DataFrame, draws: int) -> dict[str, dict[str, float]]:
    """The mean of each column of ``values`` (one row per query, by group) with its 95% interval by patient."""
    means = [found.scores[MEAN] for found in paired_means(list(values.to_numpy().T), values.index, draws)]
    return {
        name: {end: float(getattr(mean, end)) for end in ("value", "low", "high")}
        for name, mean in zip(values, means, strict=True)
    }


def _by_group(queries: pd.DataFrame, values: pd.DataFrame, draws: int) -> list[dict[str, Any]]:
    """The mAP of every skin type, sex, body site and so on; None for groups with fewer than `MIN_PATIENTS` patients."""
    name = [name for name in values if name.startswith("mAP")][-1]
    rows = []
    for column in GROUPS:
        # An image with several body sites counts for each of them.
        long = queries[column].explode().dropna()
        if long.nunique() < 2:
            continue
        for value, members in long.groupby(long, sort=True):
            own = values[[name]].iloc[members.index]
            patients = own.index.nunique()
            score = _intervals(own, draws)[name] if patients >= MIN_PATIENTS else None
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            rows.append({"column": column, "value": shown, "queries": len(members), "patients": patients, name: score})
    return rows


def _as_text(source: Source, relevance: str, part: dict[str, Any]) -> list[str]:
    """The measures as a table of at most 100 characters, and the mAP by group."""
    unit = "/".join(sorted({entry["group"] for entry in source.present_datasets}))
    units = unit.replace("/", "s/") + "s"

    def sizes(row: dict[str, Any]) -> str:
        """The numbers of queries and of their patients."""
        return f"{counted(row['queries'], 'query', 'queries')} of {counted(row['patients'], unit, units)}"

    junk = "only the query and its copies left out" if relevance in IDS else "own patient left out"
    text = [
        f"{Path(part['folder']).name} ({part['encoder']})",
        f"  relevant is the same {relevance}, {junk}; {sizes(part)}",
        *_table(part["scores"]),
    ]
    if part["patients"] < MIN_PATIENTS:
        text.append(f"  the intervals are {NARROW}: fewer than {MIN_PATIENTS} {units} hardly vary between draws")
    name = [name for name in part["scores"] if name.startswith("mAP")][-1]
    for column, found in itertools.groupby(part["groups"], key=lambda row: row["column"]):
        rows = list(found)
        if len(rows) > SHOWN_GROUPS:
            text.append(f"  {name} by {column}: the {len(rows)} values are in the report of --json")
            continue
        text.append(f"  {name} by {column}")
        for row in rows:
            score = show(row[name]) if row[name] else "insufficient"
            text.append(f"    {row['value']:<22} {score:<22} {sizes(row)}")
    return text


def _table(scores: dict[str, dict[str, float]]) -> list[str]:
    """One row per measure, one column per depth."""
    depths = list(dict.fromkeys(name.partition("@")[2] for name in scores))
    measured = dict.fromkeys(name.partition("@")[0] for name in scores)
    cells = {f"k = {k}": {name: show(scores[f"{name}@{k}"]) for name in measured} for k in depths[:SHOWN_DEPTHS]}
    lines = ["  " + line for line in pd.DataFrame(cells).to_string(justify="left").splitlines()]
    if len(depths) > SHOWN_DEPTHS:
        lines.append(f"  the scores at {', '.join(depths[SHOWN_DEPTHS:])} are in the report of --json")
    return lines
