"""DDI, Diverse Dermatology Images: biopsy-proven lesions over pairs of Fitzpatrick types."""

import dataclasses
from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.labels import found_classes
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, read_table

TONES = {"12": "I-II", "34": "III-IV", "56": "V-VI"}
MALIGNANT = {"true": "malignant", "1": "malignant", "false": "benign", "0": "benign"}


def read(root: Path) -> Records:
    """``ddi_metadata.csv`` joined to ``000001.png``; skin tones are pairs of types, so only groups are known."""
    table = read_table(find_file(root, "ddi_metadata.csv"), ("DDI_file", "skin_tone", "malignant", "disease"))
    tone = table["skin_tone"].map(lambda value: str(value).removesuffix(".0") if value else None)
    frame = pd.DataFrame(
        {
            "file": table["DDI_file"],
            "modality": "clinical",
            "skin_tone": tone,
            "skin_tone_scale": tone.map(lambda value: "fitzpatrick pairs" if value else None),
            "tone_group": tone.map(TONES),
            "disease": table["disease"],
            "malignancy": table["malignant"].map(lambda value: MALIGNANT.get(str(value).lower())),
        }
    )
    records = match_images(root, frame)
    found = SOURCE.targets | {"disease": found_classes(table, "disease")}
    records.source = dataclasses.replace(SOURCE, targets=found)
    return records


SOURCE = Source(
    name="ddi",
    title="Diverse Dermatology Images (DDI)",
    licence="research-agreement",
    citation="Daneshjou et al.: Disparities in dermatology AI performance on a diverse, curated clinical image set, "
    "Science Advances 8:eabq6147, 2022.",
    where="https://ddi-dataset.github.io/",
    layout="ddi_metadata.csv, 000001.png ...",
    group="image",
    case="image",
    targets={"malignancy": Target("malignancy", ("benign", "malignant"), kind="binary", positive="malignant")},
    read=read,
    patient_key=False,
    overlaps=("fitzpatrick17k",),
)
