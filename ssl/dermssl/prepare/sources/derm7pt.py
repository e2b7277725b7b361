"""Derm7pt: lesions seen close up and by dermoscope, with the seven-point checklist and official splits."""

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import found_classes, read_columns
from dermssl.prepare.values import read_number

COLUMNS = ("case_num", "diagnosis", "clinic", "derm", "location", "sex")
GROUPS = ("BCC", "MEL", "MISC", "NEV", "SK")
INDEXES = {"train_indexes": "train", "valid_indexes": "val", "test_indexes": "test"}


def read(raw: RawFolder) -> Rows:
    """``meta/meta.csv`` as two rows per case (clinical and dermoscopic); splits are row numbers of that table."""
    table = raw.table("meta", required=COLUMNS)
    table = table.assign(split=_splits(raw, len(table)), clinical=table["clinic"], dermoscopic=table["derm"])
    views = [table.assign(file=table[view], view=view) for view in ("clinical", "dermoscopic")]
    rows = read_columns(
        pd.concat(views, ignore_index=True),
        file="file",
        case_id="case_num",
        split="split",
        sex="sex",
        body_site="location",
        modality="view",
        diagnosis="diagnosis",
        diagnosis_group=("diagnosis", _group),
    )
    rows.targets = {"diagnosis": found_classes(table, "diagnosis", level="case")}
    return match_files(raw, rows)


def _splits(raw: RawFolder, rows: int) -> list[str | None]:
    sides: list[str | None] = [None] * rows
    for name, side in INDEXES.items():
        for value in raw.table(name, required=("indexes",))["indexes"]:
            row = read_number(value)
            if row is None or not 0 <= row < rows:
                raise InputError(f"{raw.find(name)}: '{value}' is no row of meta.csv, which has {rows}")
            sides[int(row)] = side
    return sides


def _group(diagnosis: str) -> str:
    """The five groups of Kawahara et al. (2019), table 1."""
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
    targets={"diagnosis_group": Target("diagnosis_group", GROUPS, level="case")},
    reader=read,
)
