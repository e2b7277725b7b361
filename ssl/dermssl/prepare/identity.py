"""Turns a source's rows into the manifest's: ids, groups, cases, skin tone groups, splits, checked labels."""

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from dermssl.dataset import manifest, splits
from dermssl.dataset.targets import Target
from dermssl.errors import InputError, did_you_mean
from dermssl.prepare.options import PrepareOptions
from dermssl.prepare.source import Problem, Source

UNITS = {"patient": "patient_id", "case": "case_id", "lesion": "lesion_id", "image": "image_id"}
"""The ids that may name a group, the coarsest unit first."""


def check_labels(frame: pd.DataFrame, targets: dict[str, Target], root: Path) -> None:
    """Raise InputError for a label that its target does not declare: it may be a new spelling of a known class."""
    for name, target in targets.items():
        unknown = frame[frame[target.column].notna() & ~frame[target.column].isin(target.classes)]
        if len(unknown):
            file, label = unknown[["file", target.column]].iloc[0]
            raise InputError(f"{root}: {file} has {name} '{label}'; {did_you_mean(str(label), target.classes)}")


def identify(frame: pd.DataFrame, name: str, source: Source) -> tuple[pd.DataFrame, list[Problem]]:
    """Put the data set's name before every id and fill ``group_id`` and ``case_id``. The problems are id conflicts.

    A group is a component of rows that share a patient, a case, a lesion or a ``picture`` (see `settle_copies`).
    """
    frame, problems = _with_own_lesions(frame.copy())
    frame["image_id"] = name + "/" + frame["file"].map(lambda file: Path(file).with_suffix("").as_posix())
    while (doubled := frame["image_id"].duplicated(keep=False)).any():  # a.jpg and a.png, beside a.jpg.png
        frame.loc[doubled, "image_id"] = name + "/" + frame.loc[doubled, "file"]
    frame["dataset"] = name
    for column in ("patient_id", "lesion_id", "case_id"):
        raw = frame[column] if column in frame else pd.Series([None] * len(frame), index=frame.index, dtype=object)
        frame[column] = [f"{name}/{value}" if isinstance(value, str) else None for value in raw]
    frame["group_id"] = _groups(frame)
    frame = frame.drop(columns="picture", errors="ignore")
    problems += _id_conflicts(frame)
    frame["case_id"] = _cases(frame, source.case)
    return frame, problems


def _cases(frame: pd.DataFrame, unit: str) -> pd.Series:
    """The case of each row ``(N,)``: its case id, else the id of its ``unit``, else its lesion, else its image."""
    cases = frame["case_id"]
    for kind in (unit, "lesion", "image"):
        ids = frame[UNITS[kind]].where(cases.isna())
        # An image may have the same id as an unrelated lesion, which is in another group.
        group_of = frame.groupby(cases)["group_id"].first()
        others = ids.map(group_of)
        ids = ids.where(others.isna() | (others == frame["group_id"]), ids + f" ({kind})")
        cases = cases.where(cases.notna(), ids)
    return cases


def _with_own_lesions(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """If lesion numbers repeat from patient to patient, put the patient's id before them; without a patient none."""
    if not {"patient_id", "lesion_id"} <= set(frame):
        return frame, []
    patients, lesions = frame["patient_id"], frame["lesion_id"]
    repeated = int((patients.groupby(lesions).nunique() > 1).sum())
    if not repeated or not lesions.dropna().astype(str).str.fullmatch(r"\d+").all():
        return frame, []
    joined = patients.astype(str) + "/" + lesions.astype(str)
    problem = f"lesion numbers repeat from patient to patient ({repeated})"
    told = [Problem("lesion_id", problem, "each counts together with its patient")]
    return frame.assign(lesion_id=joined.where(patients.notna() & lesions.notna(), None)), told


def _groups(frame: pd.DataFrame) -> pd.Series:
    """The group of each row ``(N,)``, with the name of its first patient, else case, else lesion, else image."""
    ids = [frame[name].map(_spelled, na_action="ignore") for name in ("patient_id", "case_id", "lesion_id")]
    paths = [frame["picture"]] if "picture" in frame else []  # of files, so not spelled alike
    component = splits.connected([*ids, *paths])
    names = pd.Series(None, index=np.unique(component), dtype=object)
    for unit, column in UNITS.items():
        first = frame[column].dropna().groupby(component[frame[column].notna()]).min()
        # A lesion may have the same id as an unrelated patient.
        first = first.where(~first.isin(names.dropna()), first + f" ({unit})")
        names = names.where(names.notna(), first)
    return pd.Series(names.loc[component].to_numpy(), index=frame.index)


def _spelled(name: str) -> str:
    """An id in one case and one Unicode form: one patient may be written P1 and p1, and a Mac decomposes accents."""
    return unicodedata.normalize("NFC", name.casefold())


def _without_spaces(label: str) -> str:
    """A label without spaces in one Unicode form: a Mac decomposes accents, and web pages have other spaces."""
    return "".join(unicodedata.normalize("NFKC", label).split())


def _id_conflicts(frame: pd.DataFrame) -> list[Problem]:
    """A problem for each id in several spellings, and for each lesion and each case with several patients."""
    problems = []
    for unit in ("patient", "case", "lesion"):
        names = frame[f"{unit}_id"].dropna().drop_duplicates().sort_values()
        spelled = names.map(_spelled)
        for _, same in names[spelled.duplicated(keep=False)].groupby(spelled):
            told = f"one {unit} id in several spellings: {', '.join(same[:5])}"
            problems.append(Problem(f"{unit} {same.iloc[0]}", told, "kept together"))
    for unit in ("case", "lesion"):
        pairs = frame[[f"{unit}_id", "patient_id"]].dropna().drop_duplicates()
        shared = pairs[pairs[f"{unit}_id"].duplicated(keep=False)]
        for name, patients in shared.groupby(f"{unit}_id")["patient_id"]:
            several = ", ".join(sorted(patients)[:5])
            problems.append(Problem(f"{unit} {name}", f"one {unit} has several patients: {several}", "kept together"))
    return problems


def complete(
    frame: pd.DataFrame, pixels: pd.Series, source: Source, targets: dict, options: PrepareOptions
) -> tuple[pd.DataFrame, str]:
    """Add tone groups, and a grouped split if the set has labels but no split. Also gives the origin of the split.

    ``pixels`` has the hash of each image by its file. Images with the same pixels are drawn together.
    """
    if "fitzpatrick" in frame and "tone_group" not in frame:
        frame["tone_group"] = frame["fitzpatrick"].map(manifest.TONE_GROUPS)
    if "fitzpatrick" in frame and "skin_tone" not in frame:
        frame["skin_tone"] = frame["fitzpatrick"].map(lambda kind: str(int(kind)), na_action="ignore")
        frame["skin_tone_scale"] = frame["fitzpatrick"].notna().map({True: "fitzpatrick", False: None})
    if "split" in frame and frame["split"].notna().any():
        return frame, "official"
    if not targets or not options.test_fraction:
        return frame, "none"
    fractions = {"train": 1 - options.test_fraction, "test": options.test_fraction}
    stratum = frame[next(iter(targets.values())).column]
    units = splits.join_copies(frame["group_id"], frame["file"].map(pixels))
    frame["split"] = splits.draw_split(units, stratum, fractions, options.seed)
    return frame, f"drawn by {source.group} (seed {options.seed})"


def copy_conflicts(frame: pd.DataFrame, pixels: pd.Series) -> list[Problem]:
    """Problems: images in two splits with the same pixels. ``pixels`` has the hash of each image by its file.

    Copies with the same bytes are settled before images are decoded; these are files of other bytes.
    """
    if "split" not in frame:
        return []
    copies = splits.copies_across(frame.assign(pixel_sha256=frame["file"].map(pixels)))
    action = "kept: find and mend leaks with `dermeval leaks`"
    return [
        Problem(file, f"same pixels as an image in {side}: {other}", action)
        for file, other, side in copies.itertuples(index=False)
    ]


def label_conflicts(frame: pd.DataFrame, targets: dict) -> list[Problem]:
    """Problems: cases with two labels, which case-level scores leave out, and classes that differ only in spelling."""
    problems = []
    for name, target in targets.items():
        for key, what in ((str.casefold, "capitals"), (_without_spaces, "spaces or Unicode form")):
            times = Counter(map(key, target.classes))
            if alike := ", ".join(f"'{label}'" for label in target.classes if times[key(label)] > 1):
                told = f"classes differ only in {what}: {alike}"
                problems.append(Problem(f"column {target.column}", told, "kept apart"))
        labels = frame.groupby("case_id")[target.column].nunique()
        problem = f"images of one case have different labels of '{name}'"
        problems += [Problem(f"case {case}", problem, "out of case-level scores") for case in labels[labels > 1].index]
    return problems
