"""Results folders read back, and put into one row order so that they can be compared image by image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.probes.predictions import Predictions, read_predictions
from dermssl.errors import InputError
from dermssl.files import read_json, require_folder

MAKER = "dermeval knn --out` or `dermeval linear --out"


@dataclass(frozen=True)
class Result:
    """One results folder: its ``result.json`` and its predictions."""

    name: str
    info: dict[str, Any]
    predictions: Predictions

    @property
    def positive(self) -> int | None:
        """Index of the positive class of a binary target."""
        return None if self.info["positive"] is None else self.info["classes"].index(self.info["positive"])


def open_results(folders: Sequence[str]) -> list[Result]:
    """Open results folders that answer the same question, each put into the row order of the first.

    Raises:
        InputError: fewer than two, one given twice, or results on other targets, images or labels.
    """
    if len(folders) < 2:
        raise InputError("compare needs at least two results folders: the first is the reference")
    names = _names([Path(folder) for folder in folders])
    results = [_open(Path(folder), name) for folder, name in zip(folders, names, strict=True)]
    return [results[0], *[_aligned(result, results[0]) for result in results[1:]]]


def _names(paths: list[Path]) -> list[str]:
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("one results folder is given twice: give each once")
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _open(path: Path, name: str) -> Result:
    info = read_json(require_folder(path, "result.json", MAKER) / "result.json", MAKER)
    if "levels" not in info:
        raise InputError(f"{path} holds a whole protocol: compare takes the results of `{MAKER}`")
    return Result(name, info, read_predictions(path, tuple(info["classes"])))


def _aligned(result: Result, first: Result) -> Result:
    """``result`` with its predictions in ``first``'s row order, matched by image_id and never by position."""
    for key in ("target", "classes", "positive"):
        if result.info[key] != first.info[key]:
            raise InputError(
                f"{result.name} has {key} {result.info[key]}, {first.name} {first.info[key]}: not comparable"
            )
    ids, wanted = pd.Index(result.predictions.frame["image_id"]), first.predictions.frame["image_id"]
    if len(ids) != len(wanted) or not wanted.isin(ids).all():
        shared = int(wanted.isin(ids).sum())
        raise InputError(
            f"{first.name} scores {len(wanted)} images and {result.name} {len(ids)}, of which {shared} are shared: "
            f"make both with the same data, --split, --folds and --seed"
        )
    rows = ids.get_indexer(wanted)
    old = result.predictions
    predictions = Predictions(
        old.frame.iloc[rows].reset_index(drop=True), old.truth[rows], old.probabilities[rows], old.classes
    )
    changed = predictions.truth != first.predictions.truth
    if changed.any():
        raise InputError(
            f"{result.name} and {first.name} have different labels for {int(changed.sum())} images "
            f"(first {wanted[changed].iloc[0]}): make both again on the present data"
        )
    return replace(result, predictions=predictions)
