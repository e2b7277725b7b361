"""From a source's rows to the manifest's: ids, what is kept together, what is scored as one, tones, splits, labels."""

import functools
from pathlib import Path

import pandas as pd

from dermssl.dataset import manifest, splits
from dermssl.dataset.targets import Target
from dermssl.errors import InputError, did_you_mean
from dermssl.prepare.options import PrepareOptions
from dermssl.prepare.sources.source import Problem, Source


def check_labels(frame: pd.DataFrame, targets: dict[str, Target], root: Path) -> None:
    """Raise InputError for a label that its target does not declare: a new spelling would silently be a new class."""
    for name, target in targets.items():
        unknown = frame[frame[target.column].notna() & ~frame[target.column].isin(target.classes)]
        if len(unknown):
            file, label = unknown[["file", target.column]].iloc[0]
            raise InputError(f"{root}: {file} has {name} '{label}'; {did_you_mean(str(label), target.classes)}")


def identify(frame: pd.DataFrame, name: str, source: Source) -> pd.DataFrame:
    """Put the data set's name before every id and fill ``group_id`` and ``case_id``."""
    frame = frame.copy()
    frame["image_id"] = name + "/" + frame["file"].map(lambda file: Path(file).with_suffix("").as_posix())
    doubled = frame["image_id"].duplicated(keep=False)
    frame.loc[doubled, "image_id"] = name + "/" + frame.loc[doubled, "file"]
    frame["dataset"] = name
    for column in ("patient_id", "lesion_id", "case_id", "group_id"):
        raw = frame[column] if column in frame else pd.Series([None] * len(frame), index=frame.index, dtype=object)
        frame[column] = [f"{name}/{value}" if isinstance(value, str) else None for value in raw]
    units = {"patient": "patient_id", "lesion": "lesion_id", "case": "case_id", "image": "image_id"}
    frame["group_id"] = _first_known(frame, "group_id", units[source.group], "patient_id", "lesion_id", "image_id")
    frame["case_id"] = _first_known(frame, "case_id", units[source.case], "lesion_id", "image_id")
    return frame


def _first_known(frame: pd.DataFrame, *columns: str) -> pd.Series:
    return functools.reduce(lambda left, name: left.where(left.notna(), frame[name]), columns[1:], frame[columns[0]])


def complete(frame: pd.DataFrame, source: Source, targets: dict, options: PrepareOptions) -> tuple[pd.DataFrame, str]:
    """Add tone groups, and a grouped split where the set has labels but no split; also says where the split is from."""
    if "fitzpatrick" in frame and "tone_group" not in frame:
        frame["tone_group"] = frame["fitzpatrick"].map(manifest.TONE_GROUPS)
    if "fitzpatrick" in frame and "skin_tone" not in frame:
        known = frame["fitzpatrick"].notna()
        frame["skin_tone"] = frame["fitzpatrick"].where(known).map(lambda t: str(int(t)), na_action="ignore")
        frame["skin_tone_scale"] = known.map({True: "fitzpatrick", False: None})
    if "split" in frame and frame["split"].notna().any():
        return frame, "official"
    if not targets or not options.test_fraction:
        return frame, "none"
    fractions = {"train": 1 - options.test_fraction, "test": options.test_fraction}
    stratum = frame[next(iter(targets.values())).column]
    frame["split"] = splits.draw_split(frame["group_id"], stratum, fractions, options.seed)
    return frame, f"drawn by {source.group} (seed {options.seed})"


def label_conflicts(frame: pd.DataFrame, targets: dict) -> list[Problem]:
    """Cases with two labels: kept for image-level work, out of case-level scores."""
    problems = []
    for name, target in targets.items():
        if target.kind == "multilabel":
            continue
        labels = frame.groupby("case_id")[target.column].nunique()
        problems += [
            Problem(f"case {case}", f"images of one case have different labels of '{name}'", "out of case-level scores")
            for case in labels[labels > 1].index
        ]
    return problems
