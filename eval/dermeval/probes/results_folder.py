"""Results folders read back, and put into one row order so that they can be compared image by image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
from pydantic import BaseModel, Field, model_validator

from dermeval.features.embeddings import EncoderEntry
from dermeval.probes.predictions import KEYS, PREFIX, Predictions, predictions_of, read_predictions
from dermssl.errors import InputError
from dermssl.files import read_json, read_parquet
from dermssl.licences import Notice
from dermssl.paths import inside, require_folder

MAKER = "dermeval knn --out`, `linear --out` or `evaluate --out"
SHARED = ("encoder", "datasets", "licences", "synthetic")


class JudgedInfo(BaseModel):
    """What is judged, in a ``result.json`` or in an experiment of one."""

    probe: str
    target: str
    classes: Annotated[list[str], Field(min_length=2)]
    positive: str | None
    notes: list[str]

    @model_validator(mode="after")
    def _positive_is_a_class(self) -> Self:
        if self.positive not in (None, *self.classes):
            raise ValueError("'positive' is no class")
        return self


class ExperimentInfo(JudgedInfo):
    """An experiment of a protocol."""

    experiment: str
    scored: int
    scored_groups: int
    fitted: list[int]


class JudgedDataset(BaseModel):
    """One of the data sets."""

    name: str
    group: str
    patient_key: bool


class SourceInfo(BaseModel):
    """Where the features are from."""

    encoder: EncoderEntry
    datasets: Annotated[list[JudgedDataset], Field(min_length=1)]
    licences: list[Notice]
    synthetic: bool


class ProtocolInfo(SourceInfo):
    """What is read of the ``result.json`` of `dermeval evaluate`."""

    seed: int
    experiments: list[ExperimentInfo]


class ScoredCounts(BaseModel):
    """How much was scored."""

    scored: int
    scored_groups: int


class HowSplit(BaseModel):
    """Which images were scored."""

    split: str
    folds: int | None
    seed: int


class ResultInfo(SourceInfo, JudgedInfo):
    """What is read of the ``result.json`` of `dermeval knn`, `linear` and `finetune`."""

    protocol: HowSplit
    settings: dict[str, Any]
    counts: ScoredCounts


Answer = tuple[dict[str, Any], Predictions]


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


def open_results(folders: Sequence[str]) -> dict[str, list[Result]]:
    """Open results folders that answer the same questions, each put into the row order of the first.

    A folder that holds results folders is one result with several seeds. The results of a probe answer one question,
    whose name is empty; those of a protocol one for each target, probe and experiment.

    Raises:
        InputError: fewer than two, one given twice, results on other targets, images or labels, or seeds of one folder
            that differ in more than their seed.
    """
    if len(folders) < 2:
        raise InputError("compare needs at least two results folders: the first is the reference")
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("one results folder is given twice: give each once")
    short = [path.name for path in paths]
    names = [printable(name) for name in (short if len(set(short)) == len(short) else map(str, paths))]
    opened = [_open(path) for path in paths]
    questions = [question for question in opened[0] if all(question in other for other in opened)]
    if not questions:
        raise InputError(f"{paths[0]} and the others have no experiment in common: make all with one command")
    compared: dict[str, list[Result]] = {}
    for question in questions:
        results = []
        for path, name, found in zip(paths, names, opened, strict=True):
            seeds = found[question]
            _check_seeds([info for info, _ in seeds], path)
            results.append(Result(name, [info for info, _ in seeds], [predictions for _, predictions in seeds]))
        compared[question] = [_aligned(result, results[0]) for result in results]
    return compared


def printable(name: str) -> str:
    r"""A file's name as UTF-8 can hold it: a byte that is none of its characters becomes ``\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode()


def _open(path: Path) -> dict[str, list[Answer]]:
    """For each question that all seeds in ``path`` answer, their answers."""
    inner = [] if (path / "result.json").exists() else sorted(found.parent for found in path.glob("[!.]*/result.json"))
    opened = [_read(folder) for folder in inner or [path]]
    return {name: [one[name] for one in opened] for name in opened[0] if all(name in one for one in opened)}


def _read(path: Path) -> dict[str, Answer]:
    file = inside(require_folder(path, "result.json", MAKER), "result.json")
    is_protocol = "experiments" in read_json(file, MAKER)
    info = read_json(file, MAKER, ProtocolInfo if is_protocol else ResultInfo)
    if is_protocol:
        return _read_protocol(path, info)
    return {"": (info | {"folder": str(path)}, read_predictions(path, info["classes"]))}


def _read_protocol(path: Path, info: dict[str, Any]) -> dict[str, Answer]:
    file, found = inside(path, "predictions.parquet"), {}
    table = read_parquet(file, MAKER, [*KEYS, "y_true", "target", "probe", "experiment", "training"]).to_pandas()
    for entry in info["experiments"]:
        rows = table[table["training"].isin(["all", "without"])]
        for key in ("target", "probe", "experiment"):
            rows = rows[rows[key] == entry[key]]
        missing = [name for name in entry["classes"] if PREFIX + name not in rows]
        if missing or not len(rows):
            raise InputError(f"{file} lacks {missing[0] if missing else entry['experiment']}: make it with `{MAKER}`")
        name = f"{entry['target']}, {entry['probe']}, {entry['experiment']}"
        own = {key: entry[key] for key in ("target", "probe", "classes", "positive", "notes")}
        counts = {key: entry[key] for key in ("scored", "scored_groups")}
        protocol = {"split": entry["experiment"], "folds": len(entry["fitted"]), "seed": info["seed"]}
        shared = {key: info[key] for key in SHARED} | {"settings": {}, "folder": str(path)}
        answer = shared | own | {"counts": counts, "protocol": protocol}
        found[name] = (answer, predictions_of(rows.reset_index(drop=True), tuple(entry["classes"]), file, MAKER))
    return found


def _check_seeds(infos: list[dict[str, Any]], path: Path) -> None:
    """Raise InputError unless results differ in their seed, or in that of their encoder, and in nothing else."""
    first, met = infos[0], dict[tuple[str, int], str]()
    for info in infos:
        for what, value in _question(first).items():
            if _question(info)[what] != value:
                raise InputError(
                    f"{first['folder']} and {info['folder']} differ in {what} ({value}, {_question(info)[what]}), so "
                    f"they are not seeds of one result: put them in separate folders"
                )
        seed = (info["encoder"]["fingerprint"], info["protocol"]["seed"])
        if seed in met:
            raise InputError(f"{met[seed]} and {info['folder']} have the same encoder and --seed: remove one of them")
        met[seed] = info["folder"]


def _question(info: dict[str, Any]) -> dict[str, Any]:
    """What all seeds of one result share."""
    encoder, settings = info["encoder"], info["settings"]
    return {
        "probe": info["probe"],
        "split": info["protocol"]["split"],
        "folds": info["protocol"]["folds"],
        "k": settings.get("k"),
        "temperature": settings.get("temperature"),
        "solver": "lbfgs" if settings.get("solver") == "newton" else settings.get("solver"),
        "class weight": settings.get("class_weight"),
        "architecture": encoder.get("name"),
        "features": encoder.get("features"),
        "preprocessing": encoder.get("preprocessing"),
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
    if ids.has_duplicates:
        raise InputError(f"{name} scores {ids[ids.duplicated()][0]} twice: make it again")
    predictions = old.rows(ids.get_indexer(wanted))
    changed = predictions.truth != first.truth
    if changed.any():
        raise InputError(
            f"{name} and {first_name} have different labels for {int(changed.sum())} images "
            f"(first {wanted[changed].iloc[0]}): make both again on the present data"
        )
    return predictions
