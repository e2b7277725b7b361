"""PASSION: smartphone photos of skin disease in Sub-Saharan Africa, half of children; nearly all Fitzpatrick III-VI."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.columns import one_row_each, read_columns
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source

LABEL_COLUMNS = (
    *("subject_id", "country", "age", "sex"),
    *("fitzpatrick", "body_loc", "impetig", "conditions_PASSION"),
)
CONDITIONS = ("Eczema", "Fungal", "Others", "Scabies")
CENTRES = {"Madagascar": "Madagascar", "Guinea": "Guinea", "Malawi": "EAS", "Tanzania": "EAS"}
IMPETIGO = {"1.0": "impetigo", "1": "impetigo", "0.0": "no impetigo", "0": "no impetigo"}
SPLITS = ("TRAIN", "TEST")


def read(raw: RawFolder) -> Rows:
    """Read patients from ``label.csv``, splits from ``PASSION_split.csv``, photos ``images/{subject_id}_{int}.jpg``."""
    table = raw.table("label", "labels", required=LABEL_COLUMNS)
    require_known(raw.find("label", "labels"), "impetig", table["impetig"], IMPETIGO)
    table = one_row_each(raw, table, "subject_id", "subject")
    labelled = set(table["subject_id"])
    frame = read_columns(
        raw,
        table.assign(split=table["subject_id"].map(_read_split(raw, labelled))),
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
    names = {PurePosixPath(file).name for file in raw.images}
    images = match_files(raw, pd.DataFrame({"file": sorted(names)}))
    stems = [PurePosixPath(file).stem for file in images["file"]]
    images = images.assign(patient_id=[stem.rpartition("_")[0] or stem for stem in stems])
    known = images["patient_id"].isin(labelled)
    for name in images["file"][~known]:
        raw.report(name, "photo of a subject without a label row")
    for subject in sorted(labelled - set(images["patient_id"])):
        raw.report(f"subject {subject}", "label row without a photo")
    return Rows(images[known].merge(frame, on="patient_id", how="left"))


def require_known(where: Path, column: str, values: pd.Series, known: Iterable[str]) -> None:
    """Raise InputError unless all ``values`` of the ``column`` of the table ``where`` are ``known``, or missing."""
    unknown = set(values.dropna()) - set(known)
    if unknown:
        raise InputError(f"{where}: {column} holds {sorted(unknown)}: it must be one of {', '.join(known)}")


def _read_split(raw: RawFolder, labelled: set[str]) -> dict[str, str]:
    """TRAIN or TEST by subject. Reports subjects without a label row, and ``labelled`` ones without a split."""
    try:
        path = raw.find("PASSION_split")
    except InputError:
        raw.report("PASSION_split.csv", "no official split file", "a patient-grouped split is drawn")
        return {}
    table = raw.table("PASSION_split", required=("subject_id", "Split"))
    table = table.assign(Split=table["Split"].str.upper())
    require_known(path, "Split", table["Split"], SPLITS)
    sides = table.groupby("subject_id")["Split"].nunique()
    if (sides > 1).any():
        raise InputError(f"{path}: subjects in two splits: {', '.join(sides[sides > 1].index[:5])}")
    table = table[table["Split"].notna()]
    for subject, side in zip(table["subject_id"], table["Split"], strict=True):
        if subject not in labelled:
            raw.report(f"subject {subject}", f"without a label row but in the split file ({side})")
    for subject in sorted(labelled - set(table["subject_id"])):
        raw.report(f"subject {subject}", "no split in the split file", "kept without a split")
    return dict(zip(table["subject_id"], table["Split"], strict=True))


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
