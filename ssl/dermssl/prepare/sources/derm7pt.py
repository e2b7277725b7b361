"""Derm7pt: lesions seen close up and by dermoscope, with the seven-point checklist and official splits."""

import dataclasses
from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.labels import found_classes
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, number, read_table, sex

COLUMNS = ("case_num", "diagnosis", "clinic", "derm", "location", "sex")
GROUPS = ("BCC", "MEL", "MISC", "NEV", "SK")
INDEXES = {"train_indexes.csv": "train", "valid_indexes.csv": "val", "test_indexes.csv": "test"}


def read(root: Path) -> Records:
    """``meta/meta.csv`` as two rows per case (clinical and dermoscopic); splits are row numbers of that table."""
    table = read_table(find_file(root, "meta.csv"), COLUMNS)
    table = table.assign(split=_splits(root, len(table)))
    views = [
        table.assign(file=table[column], modality=modality)
        for column, modality in (("clinic", "clinical"), ("derm", "dermoscopic"))
    ]
    both = pd.concat(views, ignore_index=True)
    frame = pd.DataFrame(
        {
            "file": both["file"],
            "case_id": both["case_num"],
            "split": both["split"],
            "sex": both["sex"].map(sex),
            "body_site": both["location"].map(lambda site: [site] if site else None),
            "modality": both["modality"],
            "diagnosis": both["diagnosis"],
            "diagnosis_group": both["diagnosis"].map(_group),
        }
    )
    records = match_images(root, frame)
    found = SOURCE.targets | {"diagnosis": found_classes(table, "diagnosis", level="case")}
    records.source = dataclasses.replace(SOURCE, targets=found)
    return records


def _splits(root: Path, rows: int) -> list[str | None]:
    sides: list[str | None] = [None] * rows
    for name, side in INDEXES.items():
        path = find_file(root, name)
        for value in read_table(path, ("indexes",))["indexes"]:
            row = number(value)
            if row is None or not 0 <= row < rows:
                raise InputError(f"{path}: '{value}' is no row of meta.csv, which has {rows}")
            sides[int(row)] = side
    return sides


def _group(diagnosis: object) -> str | None:
    """The five groups of Kawahara et al. (2019), table 1."""
    if not isinstance(diagnosis, str):
        return None
    known = {"basal cell carcinoma": "BCC", "seborrheic keratosis": "SK"}
    if diagnosis in known:
        return known[diagnosis]
    return "MEL" if diagnosis.startswith("melanoma") else "NEV" if "nevus" in diagnosis else "MISC"


SOURCE = Source(
    name="derm7pt",
    title="Derm7pt, seven-point checklist",
    licence="research-agreement",
    citation="Kawahara et al.: Seven-point checklist and skin lesion classification using multitask multimodal neural "
    "nets, IEEE J. Biomed. Health Inform. 23(2):538-546, 2019.",
    where="https://derm.cs.sfu.ca/",
    layout="release_v0/meta/meta.csv and {train,valid,test}_indexes.csv, release_v0/images/",
    group="case",
    case="case",
    targets={"diagnosis_group": Target("diagnosis_group", GROUPS, level="case")},
    read=read,
    patient_key=False,
)
