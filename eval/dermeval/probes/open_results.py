"""Results folders, opened and put into one row order, so that they can be compared image by image."""

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
CHOSEN = {"c", "rate", "features", "inner_balanced_accuracy", "early_stopping"}
"""Settings that a probe has chosen by itself, so that its seeds may differ in them."""


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
            raise ValueError("'positive' is not one of the classes")
        return self


class _Split(BaseModel):
    split: str
    folds: int | None
    seed: int


class ResultInfo(_Source, _Judged):
    """What must be in the ``result.json`` of `dermeval knn`, `linear` and `finetune`."""

    protocol: _Split
    settings: dict[str, Any]
    counts: _Counts


class _Experiment(_Judged, _Counts):
    experiment: str
    fitted: list[int]


class ProtocolInfo(_Source):
    """What must be in the ``result.json`` of `dermeval evaluate`."""

    seed: int
    experiments: list[_Experiment]


@dataclass(frozen=True)
class Result:
    """What is compared under one name: ``result.json`` and the predictions of each of its seeds (mostly one seed)."""

    name: str
    infos: list[dict[str, Any]]
    predictions: list[Predictions]


def open_results(folders: Sequence[str]) -> tuple[dict[str, list[Result]], list[str]]:
    """For each experiment that all ``folders`` have, their results, in the row order of the first; and notes.

    The notes are on experiments that are left out, since a folder lacks them.

    A folder that holds results folders is one result with several seeds. The name of an experiment is its target, probe
    and experiment in a protocol, and empty for a single probe. InputError for fewer than two folders, for folders
    without a common experiment or with different images, and for seeds that differ in more than the seed.
    """
    if len(folders) < 2:
        raise InputError("compare needs at least two results folders: the first is the reference")
    paths = [Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a results folder is given twice: give each once")
    names = distinct_names([path.name for path in paths], list(map(str, paths)))
    opened = [_open(path, name) for path, name in zip(paths, names, strict=True)]
    shared = [experiment for experiment in opened[0] if all(experiment in other for other in opened)]
    if not shared:
        raise InputError(f"{paths[0]} and the others have no experiment in common: make all with the same command")
    for found, experiment in itertools.product(opened, shared):
        _check_seeds(found[experiment].infos)
    others = dict.fromkeys(experiment for one in opened for experiment in one if experiment not in shared)
    notes = [f"left out, as not all results have it: {experiment}" for experiment in others]
    first = opened[0]
    aligned = {experiment: [_aligned(one[experiment], first[experiment]) for one in opened] for experiment in shared}
    return aligned, notes


def _open(path: Path, name: str) -> dict[str, Result]:
    """By experiment, the result of all seeds in ``path`` that have it."""
    inner = [] if (path / "result.json").exists() else sorted(found.parent for found in path.glob("[!.]*/result.json"))
    seeds = [_read(folder) for folder in inner or [path]]
    return {
        experiment: Result(name, *map(list, zip(*(seed[experiment] for seed in seeds), strict=True)))
        for experiment in seeds[0]
        if all(experiment in seed for seed in seeds)
    }


def _read(path: Path) -> dict[str, tuple[dict[str, Any], Predictions]]:
    """By experiment, the ``result.json`` of a probe and the predictions; for a protocol, as a probe would have it."""
    if (path / "encoders.json").is_file():
        raise InputError(f"{path} holds a table of encoders, which already compares them: see its report.html")
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
    """The predictions of a results folder from all training patients, or those of one ``experiment`` of a protocol.

    InputError: the experiment, a column or an id is missing, a label is unknown, or a probability is not from 0 to 1.
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
        raise damaged(f"'{table['y_true'][truth.isna()].iloc[0]}' is not one of the classes")
    try:
        probabilities = table[columns].to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise damaged("a probability is not a number") from None
    bad = np.flatnonzero(~((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all(axis=1))
    if len(bad):
        raise damaged(f"a probability of {table['image_id'].iloc[bad[0]]} is not from 0 to 1")
    frame = table[list(IDS)].reset_index(drop=True)
    index = None if positive is None else list(classes).index(positive)
    return Predictions(frame, truth.to_numpy(np.int64), probabilities, tuple(classes), index)


def _check_seeds(infos: Sequence[dict[str, Any]]) -> None:
    """Raise InputError unless all results differ in the seed of the probe or of the encoder, and in nothing else."""
    first, met = infos[0], dict[tuple[str, int], str]()
    for info in infos:
        one, other = _shared_by_seeds(first), _shared_by_seeds(info)
        for what in (what for what in one | other if one.get(what) != other.get(what)):
            raise InputError(
                f"{first['folder']} and {info['folder']} differ in {what} ({one.get(what)}, {other.get(what)}), so "
                "they are not seeds of one result: put them in separate folders"
            )
        seed = (info["encoder"]["fingerprint"], info["protocol"]["seed"])
        if seed in met:
            raise InputError(f"{met[seed]} and {info['folder']} have the same encoder and --seed: remove one of them")
        met[seed] = info["folder"]


def _shared_by_seeds(info: dict[str, Any]) -> dict[str, Any]:
    """What is the same for all seeds of one result."""
    encoder, settings = info["encoder"], info["settings"]
    chosen = CHOSEN | {"k"} if settings.get("choose_k") else CHOSEN
    return {
        "probe": info["probe"],
        **{key: info["protocol"][key] for key in ("split", "folds")},
        **{key: value for key, value in settings.items() if key not in chosen},
        "architecture": encoder.get("name"),
        **{key: encoder.get(key) for key in ("features", "preprocessing")},
        "method": encoder.get("training", {}).get("method"),
    }


def _aligned(result: Result, first: Result) -> Result:
    """``result`` with its predictions in the row order of ``first``, matched by image_id."""
    for key in ("target", "classes", "positive"):
        for info in result.infos:
            if info[key] != (wanted := first.infos[0][key]):
                raise InputError(
                    f"{result.name} has {key} {info[key]}, but {first.name} has {wanted}: make both for the same target"
                )
    reference, aligned = first.predictions[0], []
    for seed in result.predictions:
        ids, wanted = pd.Index(seed.frame["image_id"]), reference.frame["image_id"]
        if len(ids) != len(wanted) or not wanted.isin(ids).all():
            raise InputError(
                f"{first.name} scores {len(wanted)} images and {result.name} scores {len(ids)}, of which "
                f"{int(wanted.isin(ids).sum())} are shared: make both with the same data and --split"
            )
        if ids.has_duplicates:
            raise InputError(f"{result.name} scores {ids[ids.duplicated()][0]} twice: make it again")
        aligned.append(seed.rows(ids.get_indexer(wanted)))
        ours, theirs = aligned[-1].to_frame(), reference.to_frame()
        for what, column in (("labels", "y_true"), ("cases", "case_id"), ("groups", "group_id")):
            if (changed := (ours[column] != theirs[column]).to_numpy()).any():
                raise InputError(
                    f"{result.name} and {first.name} have different {what} for {int(changed.sum())} images "
                    f"(first {wanted[changed].iloc[0]}): make both again on the present data"
                )
    return replace(result, predictions=aligned)
