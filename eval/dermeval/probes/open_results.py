"""Results folders read back, and put into one row order so that they can be compared image by image."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, model_validator

from dermeval.features.embeddings import EncoderEntry
from dermeval.probes.predictions import PREFIX, Predictions
from dermeval.probes.report import distinct_names
from dermssl.errors import InputError
from dermssl.files import read_json, read_parquet
from dermssl.licences import Notice
from dermssl.paths import inside, require_folder

MAKER = "dermeval knn --out`, `linear --out` or `evaluate --out"
IDS = ("image_id", "case_id", "group_id", "fold", "seed")
EXPERIMENT = ("target", "probe", "experiment")


class _Dataset(BaseModel):
    name: str
    group: str
    patient_key: bool


class _Source(BaseModel):
    encoder: EncoderEntry
    datasets: Annotated[list[_Dataset], Field(min_length=1)]
    licences: list[Notice]
    synthetic: bool


class _Counts(BaseModel):
    scored: int
    scored_groups: int


class _Judged(BaseModel):
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


class _Split(BaseModel):
    split: str
    folds: int | None
    seed: int


class ResultInfo(_Source, _Judged):
    """What is read of the ``result.json`` of `dermeval knn`, `linear` and `finetune`."""

    protocol: _Split
    settings: dict[str, Any]
    counts: _Counts


class _Experiment(_Judged, _Counts):
    experiment: str
    fitted: list[int]


class ProtocolInfo(_Source):
    """What is read of the ``result.json`` of `dermeval evaluate`."""

    seed: int
    experiments: list[_Experiment]


@dataclass(frozen=True)
class Result:
    """What is compared under one name: the ``result.json`` and the predictions of each of its seeds, mostly one."""

    name: str
    infos: list[dict[str, Any]]
    predictions: list[Predictions]


def open_results(folders: Sequence[str]) -> dict[str, list[Result]]:
    """Results by question, each in the row order of the first; a folder of results folders is one with several seeds.

    A probe answers one question, whose name is empty; a protocol one for each target, probe and experiment. InputError
    where there are fewer than two folders, where they do not answer the same, or where seeds differ in more than that.
    """
    if len(folders) < 2:
        raise InputError("compare needs at least two results folders: the first is the reference")
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("one results folder is given twice: give each once")
    names = distinct_names([path.name for path in paths], list(map(str, paths)))
    opened = [_open(path, name) for path, name in zip(paths, names, strict=True)]
    questions = [question for question in opened[0] if all(question in other for other in opened)]
    if not questions:
        raise InputError(f"{paths[0]} and the others have no experiment in common: make all with one command")
    for found, question in itertools.product(opened, questions):
        _check_seeds(found[question].infos)
    return {question: [_aligned(one[question], opened[0][question]) for one in opened] for question in questions}


def _open(path: Path, name: str) -> dict[str, Result]:
    """For each question that all seeds in ``path`` answer, their answers."""
    inner = [] if (path / "result.json").exists() else sorted(found.parent for found in path.glob("[!.]*/result.json"))
    seeds = [_read(folder) for folder in inner or [path]]
    return {
        question: Result(name, *map(list, zip(*(seed[question] for seed in seeds), strict=True)))
        for question in seeds[0]
        if all(question in seed for seed in seeds)
    }


def _read(path: Path) -> dict[str, tuple[dict[str, Any], Predictions]]:
    """By question, what ``result.json`` says of it and the predictions; what a protocol lacks is filled in."""
    if (path / "encoders.json").is_file():
        raise InputError(f"{path} holds a table of several encoders, which compares them already: see its report.html")
    file = inside(require_folder(path, "result.json", MAKER), "result.json")
    if "experiments" not in read_json(file, MAKER):
        info = read_json(file, MAKER, ResultInfo) | {"folder": str(path)}
        return {"": (info, read_predictions(path, info["classes"], info["positive"]))}
    info, found = read_json(file, MAKER, ProtocolInfo), {}
    for entry in info["experiments"]:
        protocol = {"split": entry["experiment"], "folds": len(entry["fitted"]), "seed": info["seed"]}
        counts = {key: entry[key] for key in ("scored", "scored_groups")}
        answer = info | entry | {"protocol": protocol, "counts": counts, "settings": {}, "folder": str(path)}
        which = {key: entry[key] for key in EXPERIMENT}
        found[", ".join(which.values())] = answer, read_predictions(path, entry["classes"], entry["positive"], which)
    return found


def read_predictions(
    folder: Path, classes: Sequence[str], positive: str | None = None, experiment: dict[str, str] | None = None
) -> Predictions:
    """The predictions of a results folder, without its few-shot ones, or those of one ``experiment`` of a protocol.

    InputError where the experiment, a column or an id is missing, a label is no class, or a probability is none.
    """
    path, columns = inside(folder, "predictions.parquet"), [PREFIX + name for name in classes]

    def damaged(what: str) -> InputError:
        return InputError(f"{path}: {what}: make it again with `{MAKER}`")

    keys = [*experiment, "training"] if experiment else []
    table = read_parquet(path, MAKER, [*IDS, "y_true", *columns, *keys]).to_pandas()
    if experiment:
        wanted = table["training"].isin(["all", "without"])
        table = table[wanted & (table[list(experiment)] == pd.Series(experiment)).all(axis=1)]
    elif "shots" in table:
        table = table[table["shots"].isna()]
    if not len(table):
        raise damaged("it has no rows" + (f" of {', '.join(experiment.values())}" if experiment else ""))
    if blank := [name for name in IDS if table[name].isna().any()]:
        raise damaged(f"a row has no {blank[0]}")
    truth = table["y_true"].map({name: index for index, name in enumerate(classes)})
    if truth.isna().any():
        raise damaged(f"'{table['y_true'][truth.isna()].iloc[0]}' is no class")
    try:
        probabilities = table[columns].to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise damaged("the probabilities are no numbers") from None
    bad = np.flatnonzero(~((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all(axis=1))
    if len(bad):
        raise damaged(f"a probability of {table['image_id'].iloc[bad[0]]} is not from 0 to 1")
    frame = table[list(IDS)].reset_index(drop=True)
    index = None if positive is None else list(classes).index(positive)
    return Predictions(frame, truth.to_numpy(np.int64), probabilities, tuple(classes), index)


def _check_seeds(infos: Sequence[dict[str, Any]]) -> None:
    """Raise InputError unless results differ in their seed, or in that of their encoder, and in nothing else."""
    first, met = infos[0], dict[tuple[str, int], str]()
    for info in infos:
        for (what, value), other in zip(_question(first).items(), _question(info).values(), strict=True):
            if other != value:
                raise InputError(
                    f"{first['folder']} and {info['folder']} differ in {what} ({value}, {other}), so "
                    f"they are not seeds of one result: put them in separate folders"
                )
        seed = (info["encoder"]["fingerprint"], info["protocol"]["seed"])
        if seed in met:
            raise InputError(f"{met[seed]} and {info['folder']} have the same encoder and --seed: remove one of them")
        met[seed] = info["folder"]


def _question(info: dict[str, Any]) -> dict[str, Any]:
    """What all seeds of one result share."""
    encoder, settings = info["encoder"], info["settings"]
    solver = {"newton": "lbfgs"}.get(settings.get("solver"), settings.get("solver"))  # its former name
    return {
        "probe": info["probe"],
        **{key: info["protocol"][key] for key in ("split", "folds")},
        **{key: settings.get(key) for key in ("k", "temperature")},
        "solver": solver,
        "class weight": settings.get("class_weight"),
        "architecture": encoder.get("name"),
        **{key: encoder.get(key) for key in ("features", "preprocessing")},
        "method": encoder.get("training", {}).get("method"),
    }


def _aligned(result: Result, first: Result) -> Result:
    """``result`` with its predictions in ``first``'s row order, matched by image_id and never by position."""
    for key in ("target", "classes", "positive"):
        for info in result.infos:
            if info[key] != (wanted := first.infos[0][key]):
                raise InputError(f"{result.name} has {key} {info[key]}, {first.name} {wanted}: not comparable")
    reference, aligned = first.predictions[0], []
    for seed in result.predictions:
        ids, wanted = pd.Index(seed.frame["image_id"]), reference.frame["image_id"]
        if len(ids) != len(wanted) or not wanted.isin(ids).all():
            raise InputError(
                f"{first.name} scores {len(wanted)} images and {result.name} {len(ids)}, of which "
                f"{int(wanted.isin(ids).sum())} are shared: make both with the same data and --split"
            )
        if ids.has_duplicates:
            raise InputError(f"{result.name} scores {ids[ids.duplicated()][0]} twice: make it again")
        aligned.append(seed.rows(ids.get_indexer(wanted)))
        changed = aligned[-1].truth != reference.truth
        if changed.any():
            raise InputError(
                f"{result.name} and {first.name} have different labels for {int(changed.sum())} images "
                f"(first {wanted[changed].iloc[0]}): make both again on the present data"
            )
    return replace(result, predictions=aligned)
