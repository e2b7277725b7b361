"""``dermeval retrieval``: how good the most similar cases are, for whom, and which of two encoders finds more."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.features.embeddings import EmbeddedRows
from dermeval.retrieval import measures
from dermeval.retrieval.build import Source, open_source
from dermeval.retrieval.options import RetrievalOptions
from dermeval.statistics.bootstrap import MIN_PATIENTS, Interval, bootstrap_mean
from dermssl import licences, neighbours
from dermssl.commandline import Report
from dermssl.errors import InputError, did_you_mean

IDS = {"lesion": "lesion_id", "patient": "patient_id"}
GROUPS = ("fitzpatrick", "tone_group", "sex", "body_site", "modality", "dataset")


@dataclass(frozen=True)
class Judged:
    """Every measure of every query: ``values`` has one row per query, ``frame`` the manifest rows of the queries."""

    source: Source
    frame: pd.DataFrame
    values: pd.DataFrame


def retrieval(options: RetrievalOptions) -> Report:
    """Judge the retrieval of one encoder, or compare two; see `RetrievalOptions`."""
    if len(options.sources) > 2:
        raise InputError("give one embeddings or index folder, or two to compare")
    judged = [judge_retrieval(open_source(folder), options) for folder in options.sources]
    data: dict[str, Any] = {"relevance": _relevance(judged[0].source, options), "encoders": []}
    text = []
    for entry in judged:
        part = _summary(entry, options)
        data["encoders"].append(part)
        text += _as_text(entry, part, data["relevance"])
    if len(judged) == 2:
        data["difference"] = _difference(judged[0], judged[1], options)
        text += ["", "second minus first, the same queries, patients drawn together:"]
        text += [f"  {name:<12} {_shown(value)}" for name, value in data["difference"].items()]
    text += licences.notice_lines(licences.merge(entry for part in judged for entry in part.source.licences))
    return Report("\n".join(text), data)


def _relevance(source: EmbeddedRows, options: RetrievalOptions) -> str:
    """What makes a hit relevant: a target, lesion, or patient."""
    if options.relevance is None:
        if not source.targets:
            raise InputError(f"{source.folder} has no target: give --relevance lesion or patient")
        return next(iter(source.targets))
    if options.relevance not in IDS and options.relevance not in source.targets:
        raise InputError(f"--relevance {options.relevance}: {did_you_mean(options.relevance, [*IDS, *source.targets])}")
    return options.relevance


def judge_retrieval(source: Source, options: RetrievalOptions) -> Judged:
    """Search every other image from each query and measure the ranking.

    For a target, images of the query's own patient are junk: they are taken out of the ranking and count as neither
    relevant nor wrong. For lesion and patient only the query itself is taken out.

    Raises:
        InputError: no query has anything relevant to find.
    """
    relevance = _relevance(source, options)
    frame = source.frame
    column = IDS[relevance] if relevance in IDS else source.targets[relevance].column
    labels, _ = pd.factorize(frame[column].astype(object).where(frame[column].notna(), None))
    junk = np.arange(len(frame)) if relevance in IDS else pd.factorize(frame["group_id"])[0]
    total = _relevant_images(labels, junk)
    queries = np.flatnonzero((labels >= 0) & (total > 0) & _in_split(frame, options.split))
    if not len(queries):
        raise InputError(
            f"{source.folder}: no query ({options.split} images) has another image of the same {relevance} to find"
        )
    ranked = _ranked_rows(np.asarray(source.features), queries, junk, max(options.k))
    found = np.where(ranked < 0, -1, labels[ranked])
    relevant = (found == labels[queries][:, None]) & (ranked >= 0)
    values = _values(relevant, found, labels[queries], total[queries], options.k, vote=relevance not in IDS)
    return Judged(source, frame.iloc[queries].reset_index(drop=True), values)


def _in_split(frame: pd.DataFrame, split: str) -> np.ndarray:
    return np.ones(len(frame), dtype=bool) if split == "all" else (frame["split"] == split).to_numpy()


def _relevant_images(labels: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """Images of the same label that are not junk, for each row."""
    both, _ = pd.factorize(pd.MultiIndex.from_arrays([labels, junk]))
    same = np.bincount(labels + 1)[labels + 1]
    return same - np.bincount(both)[both]


def _ranked_rows(features: np.ndarray, queries: np.ndarray, junk: np.ndarray, k: int) -> np.ndarray:
    """The first ``k`` rows of each query's ranking without its junk, ``(Q, k)``; -1 where there are fewer."""
    unit = neighbours.normalise(features)
    fetched = k + int(np.bincount(junk).max())
    ranked = np.full((len(queries), k), -1)
    for start in range(0, len(queries), 1024):
        block = queries[start : start + 1024]
        _, rows = neighbours.search(unit[block], unit, fetched)
        kept = junk[rows] != junk[block][:, None]
        order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
        rows = np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(rows, order, 1), -1)
        ranked[start : start + len(block), : rows.shape[1]] = rows
    return ranked


def _values(
    relevant: np.ndarray, found: np.ndarray, truth: np.ndarray, total: np.ndarray, depths: Sequence[int], vote: bool
) -> pd.DataFrame:
    values = {}
    for k in depths:
        values[f"hit@{k}"] = measures.hit_at(relevant, k)
        values[f"recall@{k}"] = measures.recall_at(relevant, total, k)
        values[f"P@{k}"] = measures.precision_at(relevant, k)
        values[f"mAP@{k}"] = measures.average_precision_at(relevant, total, k)
        values[f"nDCG@{k}"] = measures.ndcg_at(relevant, total, k)
        if vote:
            values[f"mMV@{k}"] = measures.majority_at(found, truth, k)
    return pd.DataFrame(values)


def _interval(values: pd.Series | np.ndarray, frame: pd.DataFrame, options: RetrievalOptions) -> dict[str, float]:
    found: Interval = bootstrap_mean(np.asarray(values), frame["group_id"].to_numpy(dtype=object), options.draws)
    return {"value": float(found.value), "low": float(found.low), "high": float(found.high)}


def _summary(judged: Judged, options: RetrievalOptions) -> dict[str, Any]:
    scores = {name: _interval(judged.values[name], judged.frame, options) for name in judged.values}
    return {
        "folder": str(judged.source.folder),
        "encoder": judged.source.encoder["path"],
        "queries": len(judged.frame),
        "patients": int(judged.frame["group_id"].nunique()),
        "scores": scores,
        "groups": _by_group(judged, options),
    }


def _by_group(judged: Judged, options: RetrievalOptions) -> list[dict[str, Any]]:
    """The last mAP of every skin type, sex, site and so on that has enough patients; others are called insufficient."""
    name = f"mAP@{max(options.k)}"
    rows = []
    for column in GROUPS:
        cells = judged.frame[column] if column in judged.frame else pd.Series(dtype=object)
        # An image with several sites counts for each of them.
        long = cells.map(lambda cell: list(cell) if isinstance(cell, (list, np.ndarray)) else [cell]).explode().dropna()
        if long.nunique() < 2:
            continue
        for value, members in long.groupby(long, sort=True):
            frame = judged.frame.loc[members.index]
            patients = int(frame["group_id"].nunique())
            enough = patients >= MIN_PATIENTS
            score = _interval(judged.values.loc[members.index, name], frame, options) if enough else None
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            rows.append({"column": column, "value": shown, "queries": len(frame), "patients": patients, name: score})
    return rows


def _difference(first: Judged, second: Judged, options: RetrievalOptions) -> dict[str, dict[str, float]]:
    if list(first.frame["image_id"]) != list(second.frame["image_id"]):
        raise InputError(
            f"{first.source.folder} and {second.source.folder} hold different images, or in another order: "
            "embed the same data with both encoders"
        )
    return {
        name: _interval(second.values[name] - first.values[name], first.frame, options)
        for name in first.values
        if name in second.values
    }


def _shown(score: dict[str, float] | None) -> str:
    return "insufficient" if score is None else f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def _as_text(judged: Judged, part: dict[str, Any], relevance: str) -> list[str]:
    junk = "own patient left out" if relevance not in IDS else "only the query left out"
    text = [
        f"{Path(part['folder']).name} ({part['encoder']}): relevant is the same {relevance}, {junk}; "
        f"{part['queries']} queries of {part['patients']} patients or lesions",
        *[f"  {name:<12} {_shown(score)}" for name, score in part["scores"].items()],
    ]
    for row in part["groups"]:
        name = next(key for key in row if key.startswith("mAP"))
        head = f"{row['column']} {row['value']}"
        text.append(f"  {name} {head:<28} {_shown(row[name])}, {row['queries']} queries of {row['patients']}")
    return text
