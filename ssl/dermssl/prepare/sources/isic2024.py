"""ISIC 2024 (SLICE-3D): small crops from 3D total body photographs, with patients."""

from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, number, read_table, sex

COLUMNS = ("isic_id", "target", "patient_id", "age_approx", "sex", "anatom_site_general")
MALIGNANT = {"1": "malignant", "1.0": "malignant", "0": "benign", "0.0": "benign"}


def read(root: Path) -> Records:
    """``train-metadata.csv`` joined to ``ISIC_*.jpg``.

    The columns ``iddx_*`` and ``mel_*`` state the diagnosis: they are not carried along, so nothing can learn
    from them by accident.
    """
    table = read_table(find_file(root, "train-metadata.csv"), COLUMNS, further=("lesion_id", "copyright_license"))
    frame = pd.DataFrame(
        {
            "file": table["isic_id"],
            "patient_id": table["patient_id"],
            "lesion_id": table.get("lesion_id"),
            "age": table["age_approx"].map(number),
            "sex": table["sex"].map(sex),
            "body_site": table["anatom_site_general"].map(lambda site: [site] if site else None),
            "modality": "clinical",
            "malignancy": table["target"].map(MALIGNANT),
            "copyright_license": table.get("copyright_license"),
        }
    )
    return match_images(root, frame)


SOURCE = Source(
    name="isic2024",
    title="ISIC 2024 challenge (SLICE-3D)",
    licence="CC-BY-NC-4.0",
    citation="Kurtansky et al.: The SLICE-3D dataset, Sci Data 11:884, 2024.",
    where="https://challenge2024.isic-archive.com/",
    layout="train-metadata.csv, image/ISIC_*.jpg",
    group="patient",
    case="lesion",
    targets={
        "malignancy": Target("malignancy", ("benign", "malignant"), kind="binary", positive="malignant", level="case")
    },
    read=read,
)
