"""Derm7pt: a clinical and a dermoscopic image of each lesion, with the seven-point checklist and official splits."""

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.columns import found_classes, read_columns
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.values import read_number

COLUMNS = ("case_num", "diagnosis", "clinic", "derm", "location", "sex")
GROUPS = ("BCC", "MEL", "MISC", "NEV", "SK")
INDEXES = {"train_indexes": "train", "valid_indexes": "val", "test_indexes": "test"}


def read(raw: RawFolder) -> Rows:
    """Read ``meta/meta.csv`` as two rows per case, clinical and dermoscopic. The splits are its row numbers."""
    table = raw.table("meta", required=COLUMNS)
    table = table.assign(split=_splits(raw, len(table)), clinical=table["clinic"], dermoscopic=table["derm"])
    views = [table.assign(file=table[view], view=view) for view in ("clinical", "dermoscopic")]
    frame = read_columns(
        raw,
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
    return Rows(match_files(raw, frame), targets={"diagnosis": found_classes(table, "diagnosis", level="case")})


def _splits(raw: RawFolder, rows: int) -> list[str | None]:
    sides: list[str | None] = [None] * rows
    for name, side in INDEXES.items():
        for value in raw.table(name, required=("indexes",))["indexes"]:
            row = read_number(value)
            if row is None or not 0 <= row < rows:
                raise InputError(f"{raw.find(name)}: '{value}' is no row of meta.csv, which has {rows}")
            other = sides[int(row)]
            if other not in (None, side):
                raise InputError(
                    f"{raw.find(name)}: row {value} of meta.csv lies in {other} too: keep it in one of them"
                )
            sides[int(row)] = side
    return sides


def _group(diagnosis: str) -> str:
    """The group of a diagnosis, one of the five in table 1 of Kawahara et al. (2019)."""
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
