"""BCN20000: dermoscopic images in the wild, from one hospital; contained in ISIC 2019."""

import dataclasses

from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Records, Source
from dermssl.prepare.values import found_classes, read_columns

COLUMNS = ("bcn_filename", "age_approx", "anatom_site_general", "diagnosis", "lesion_id", "sex", "split")


def read(raw: RawFolder) -> Records:
    """``bcn_20k_train.csv`` joined to ``BCN_*.jpg``; its split column counts only where it says more than train."""
    table = raw.table("bcn_20k_train", "bcn20000", required=COLUMNS)
    records = read_columns(
        table,
        file="bcn_filename",
        lesion_id="lesion_id",
        split="split",
        age="age_approx",
        sex="sex",
        body_site="anatom_site_general",
        diagnosis="diagnosis",
    )
    records.frame["modality"] = "dermoscopic"
    if records.frame["split"].nunique() == 1:
        records.frame["split"] = None
    records.source = dataclasses.replace(SOURCE, targets={"diagnosis": found_classes(table, "diagnosis", "case")})
    return raw.match(records)


SOURCE = Source(
    name="bcn20000",
    title="BCN20000 (contained in ISIC 2019)",
    licence="CC-BY-4.0",
    citation="Hernández-Pérez et al.: BCN20000, Sci Data 11:641, 2024.",
    where="https://doi.org/10.6084/m9.figshare.24140028",
    layout="bcn_20k_train.csv, bcn_20k_train/BCN_*.jpg",
    group="lesion",
    case="lesion",
    targets={},
    reader=read,
    patient_key=False,
)
