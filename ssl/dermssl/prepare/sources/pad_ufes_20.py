"""PAD-UFES-20: smartphone photos of skin lesions from Brazil, with patients, lesions and Fitzpatrick types."""

from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, fitzpatrick, number, read_table, sex

REQUIRED = ("patient_id", "lesion_id", "age", "gender", "fitspatrick", "region", "diagnostic", "img_id", "biopsed")


def read(root: Path) -> Records:
    """``metadata.csv`` joined to ``PAT_*`` images by stem, since re-uploads change the extension."""
    table = read_table(find_file(root, "metadata.csv"), REQUIRED)
    frame = pd.DataFrame(
        {
            "file": table["img_id"],
            "patient_id": table["patient_id"],
            "lesion_id": _composite(table["patient_id"], table["lesion_id"]),
            "age": table["age"].map(number),
            "sex": table["gender"].map(sex),
            "body_site": table["region"].map(lambda site: [site.lower()] if site else None),
            "modality": "clinical",
            "fitzpatrick": table["fitspatrick"].map(fitzpatrick),
            "diagnostic": table["diagnostic"],
            "biopsed": table["biopsed"].map({"True": True, "False": False}),
        }
    )
    return match_images(root, frame)


def _composite(patients: pd.Series, lesions: pd.Series) -> list[str | None]:
    """Lesion numbers repeat across patients, so the patient is part of the lesion's id."""
    return [f"{p}/{n}" if p and n else None for p, n in zip(patients, lesions, strict=True)]


SOURCE = Source(
    name="pad_ufes_20",
    title="PAD-UFES-20",
    licence="CC-BY-4.0",
    citation="Pacheco et al.: PAD-UFES-20, a skin lesion dataset composed of patient data and clinical images "
    "collected from smartphones, Data in Brief 32:106221, 2020.",
    where="https://data.mendeley.com/datasets/zr7vgbcyr2/1",
    layout="metadata.csv, images/PAT_{patient}_{lesion}_{n}.png (one or several folders)",
    group="patient",
    case="lesion",
    targets={"diagnostic": Target("diagnostic", ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK"), level="case")},
    read=read,
)
