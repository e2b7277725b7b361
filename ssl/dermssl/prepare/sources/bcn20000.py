"""BCN20000: dermoscopic images in the wild, from one hospital; contained in ISIC 2019."""

import dataclasses
from pathlib import Path

import pandas as pd

from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.labels import found_classes
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, number, read_table, sex

COLUMNS = ("bcn_filename", "age_approx", "anatom_site_general", "diagnosis", "lesion_id", "sex", "split")
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def read(root: Path) -> Records:
    """``bcn_20k_train.csv`` joined to ``BCN_*.jpg``; its split column counts only where it says more than train."""
    table = read_table(find_file(root, "bcn_20k_train.csv", "bcn20000.csv"), COLUMNS)
    split = table["split"].map(lambda value: SPLITS.get(str(value).lower()))
    frame = pd.DataFrame(
        {
            "file": table["bcn_filename"],
            "lesion_id": table["lesion_id"],
            "split": split if split.nunique() > 1 else None,
            "age": table["age_approx"].map(number),
            "sex": table["sex"].map(sex),
            "body_site": table["anatom_site_general"].map(lambda site: [site] if site else None),
            "modality": "dermoscopic",
            "diagnosis": table["diagnosis"],
        }
    )
    records = match_images(root, frame)
    found = {"diagnosis": found_classes(table, "diagnosis", level="case")}
    records.source = dataclasses.replace(SOURCE, targets=found)
    return records


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
    read=read,
    patient_key=False,
)
