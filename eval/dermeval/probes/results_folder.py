"""Results folders read back, and put into one row order so that they can be compared image by image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.probes.predictions import Predictions, read_predictions
from dermssl.errors import InputError
from dermssl.files import read_json
from dermssl.paths import require_folder

MAKER = "dermeval knn --out` or `dermeval linear --out"


@dataclass(frozen=True)
class Result:
    """What is compared under one name: the ``result.json`` and the predictions of each of its seeds, mostly one."""

    name: str
    infos: list[dict[str, Any]]
    predictions: list[Predictions]

    @property
    def info(self) -> dict[str, Any]:
        """``result.json`` of the first seed."""
        return self.infos[0]

    @property
    def positive(self) -> int | None:
        """Index of the positive class of a binary target."""
        return None if self.info["positive"] is None else self.info["classes"].index(self.info["positive"])


def open_results(folders: Sequence[str]) -> list[Result]:
    """Open results folders that answer the same question, each put into the row order of the first.

    A folder that holds results folders is one result with several seeds.

    Raises:
        InputError: fewer than two, one given twice, results on other targets, images or labels, or seeds of one folder
            that differ in more than their seed.
    """
    if len(folders) < 2:
        raise InputError("compare needs at least two results folders: the first is the reference")
    names = _names([Path(folder) for folder in folders])
    results = [_open(Path(folder), name) for folder, name in zip(folders, names, strict=True)]
    return [_aligned(result, results[0]) for result in results]


def _names(paths: list[Path]) -> list[str]:
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("one results folder is given twice: give each once")
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _open(path: Path, name: str) -> Result:
    inner = [] if (path / "result.json").exists() else sorted(found.parent for found in path.glob("[!.]*/result.json"))
    folders = inner or [path]
    opened = [_read(folder) for folder in folders]
    _check_seeds([info for info, _ in opened], folders)
    return Result(name, [info for info, _ in opened], [predictions for _, predictions in opened])


def _read(path: Path) -> tuple[dict[str, Any], Predictions]:
    info = read_json(require_folder(path, "result.json", MAKER) / "result.json", MAKER)
    if "levels" not in info:
        raise InputError(f"{path} holds a whole protocol: compare takes the results of `{MAKER}`")
    return info, read_predictions(path, tuple(info["classes"]))


def _check_seeds(infos: list[dict[str, Any]], folders: list[Path]) -> None:
    """Raise InputError unless results differ in their seed, or in that of their encoder, and in nothing else."""
    first, met = infos[0], dict[tuple[str, int], Path]()
    for info, folder in zip(infos, folders, strict=True):
        for what, value in _question(first).items():
            if _question(info)[what] != value:
                raise InputError(
                    f"{folders[0]} and {folder} differ in {what} ({value}, {_question(info)[what]}), so they are not "
                    f"seeds of one result: put them in separate folders"
                )
        seed = (info["encoder"]["fingerprint"], info["protocol"]["seed"])
        if seed in met:
            raise InputError(f"{met[seed]} and {folder} have the same encoder and --seed: remove one of them")
        met[seed] = folder


def _question(info: dict[str, Any]) -> dict[str, Any]:
    """What all seeds of one result share."""
    encoder = info["encoder"]
    return {
        "probe": info["probe"],
        "split": info["protocol"]["split"],
        "folds": info["protocol"]["folds"],
        "k": info["settings"].get("k"),
        "temperature": info["settings"].get("temperature"),
        "solver": "lbfgs" if info["settings"].get("solver") == "newton" else info["settings"].get("solver"),
        "class weight": info["settings"].get("class_weight"),
        "architecture": encoder["name"],
        "features": encoder.get("features"),
        "preprocessing": encoder["preprocessing"],
        "method": encoder.get("training", {}).get("method"),
    }


def _aligned(result: Result, first: Result) -> Result:
    """``result`` with its predictions in ``first``'s row order, matched by image_id and never by position."""
    for key in ("target", "classes", "positive"):
        for info in result.infos:
            if info[key] != first.info[key]:
                raise InputError(f"{result.name} has {key} {info[key]}, {first.name} {first.info[key]}: not comparable")
    wanted = first.predictions[0]
    return replace(result, predictions=[_in_order(p, wanted, result.name, first.name) for p in result.predictions])


def _in_order(old: Predictions, first: Predictions, name: str, first_name: str) -> Predictions:
    ids, wanted = pd.Index(old.frame["image_id"]), first.frame["image_id"]
    if len(ids) != len(wanted) or not wanted.isin(ids).all():
        shared = int(wanted.isin(ids).sum())
        raise InputError(
            f"{first_name} scores {len(wanted)} images and {name} {len(ids)}, of which {shared} are shared: "
            f"make both with the same data and --split"
        )
    rows = ids.get_indexer(wanted)
    predictions = Predictions(
        old.frame.iloc[rows].reset_index(drop=True), old.truth[rows], old.probabilities[rows], old.classes
    )
    changed = predictions.truth != first.truth
    if changed.any():
        raise InputError(
            f"{name} and {first_name} have different labels for {int(changed.sum())} images "
            f"(first {wanted[changed].iloc[0]}): make both again on the present data"
        )
    return predictions
