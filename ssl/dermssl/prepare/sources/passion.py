"""PASSION: smartphone photos of paediatric skin disease in Sub-Saharan Africa, Fitzpatrick III-VI."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Problem, Rows, Source
from dermssl.prepare.tables import read_columns

LABEL_COLUMNS = (
    *("subject_id", "country", "age", "sex"),
    *("fitzpatrick", "body_loc", "impetig", "conditions_PASSION"),
)
CONDITIONS = ("Eczema", "Fungal", "Others", "Scabies")
CENTRES = {"Madagascar": "Madagascar", "Guinea": "Guinea", "Malawi": "EAS", "Tanzania": "EAS"}
IMPETIGO = {"1.0": "impetigo", "1": "impetigo", "0.0": "no impetigo", "0": "no impetigo"}
SPLITS = ("TRAIN", "TEST")


def read(raw: RawFolder) -> Rows:
    """Patients from ``label.csv``, splits from ``PASSION_split.csv``, photos ``images/{subject_id}_{int}.jpg``."""
    table = raw.table("label", "labels", required=LABEL_COLUMNS)
    _check_values(raw.find("label", "labels"), "impetig", table["impetig"], IMPETIGO)
    blank = table["subject_id"].isna()
    problems = [Problem(f"label row {row + 2}", "no subject_id", "left out") for row in blank[blank].index]
    table = table[~blank]
    for subject, same in table[table["subject_id"].duplicated(keep=False)].groupby("subject_id"):
        twice = "label row stands twice" if len(same.drop_duplicates()) == 1 else "two label rows that differ"
        problems.append(Problem(f"subject {subject}", twice, "first row kept"))
    table = table.drop_duplicates("subject_id")
    split, split_problems = _read_split(raw, set(table["subject_id"]))
    rows = read_columns(
        table.assign(split=table["subject_id"].map(split)),
        patient_id="subject_id",
        split="split",
        age="age",
        sex="sex",
        country="country",
        centre=("country", CENTRES),
        body_site="body_loc",
        fitzpatrick="fitzpatrick",
        condition="conditions_PASSION",
        impetigo=("impetig", IMPETIGO),
    )
    photos = match_files(raw, Rows(pd.DataFrame({"file": sorted({Path(file).name for file in raw.images})})))
    stems = [Path(file).stem for file in photos.frame["file"]]
    images = photos.frame.assign(patient_id=[stem.rpartition("_")[0] or stem for stem in stems])
    rows.problems += problems + split_problems + photos.problems
    known = images["patient_id"].isin(table["subject_id"])
    for name in images["file"][~known]:
        rows.problems.append(Problem(name, "photo of a subject without a label row", "left out"))
    for subject in sorted(set(table["subject_id"]) - set(images["patient_id"])):
        rows.problems.append(Problem(f"subject {subject}", "label row without a photo", "left out"))
    rows.frame = images[known].merge(rows.frame, on="patient_id", how="left")
    return rows


def _check_values(where: Path, column: str, values: pd.Series, known: Iterable[str]) -> None:
    unknown = set(values.dropna()) - set(known)
    if unknown:
        raise InputError(f"{where}: {column} holds {sorted(unknown)}, known are {', '.join(known)}")


def _read_split(raw: RawFolder, labelled: set[str]) -> tuple[dict[str, str], list[Problem]]:
    try:
        path = raw.find("PASSION_split")
    except InputError:
        return {}, [Problem("PASSION_split.csv", "no official split file", "a patient-grouped split is drawn")]
    table = raw.table("PASSION_split", required=("subject_id", "Split"))
    table = table.assign(Split=table["Split"].str.upper())
    _check_values(path, "Split", table["Split"], SPLITS)
    sides = table.groupby("subject_id")["Split"].nunique()
    if (sides > 1).any():
        raise InputError(f"{path}: subjects in two splits: {', '.join(sides[sides > 1].index[:5])}")
    problems = [
        Problem(f"subject {row.subject_id}", f"without a label row but in the split file ({row.Split})", "left out")
        for row in table.itertuples()
        if row.subject_id not in labelled
    ]
    problems += [
        Problem(f"subject {subject}", "not in the split file", "kept without a split")
        for subject in sorted(labelled - set(table["subject_id"]))
    ]
    return dict(zip(table["subject_id"], table["Split"], strict=True)), problems


SOURCE = Source(
    name="passion",
    title="PASSION for Dermatology",
    licence="PASSION",
    citation="Gottfrois et al., PASSION for Dermatology: Bridging the Diversity Gap with Pigmented Skin Images "
    "from Sub-Saharan Africa, MICCAI 2024. https://passionderm.github.io/",
    where="ask for access with the form on https://passionderm.github.io/",
    layout="label.csv, PASSION_split.csv, images/{subject_id}_{int}.jpg",
    group="patient",
    targets={
        "condition": Target("condition", CONDITIONS, level="case"),
        "impetigo": Target("impetigo", ("no impetigo", "impetigo"), kind="binary", positive="impetigo", level="case"),
    },
    reader=read,
    modality="clinical",
)
