"""HAM10000: dermoscopic images of pigmented lesions; several images of a lesion, no patient key."""

from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, number, read_table, sex


def read(root: Path) -> Records:
    """``HAM10000_metadata[.csv]`` joined to ``ISIC_*.jpg`` in any folder."""
    table = read_table(
        find_file(root, "HAM10000_metadata.csv", "HAM10000_metadata"),
        ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"),
    )
    frame = pd.DataFrame(
        {
            "file": table["image_id"],
            "lesion_id": table["lesion_id"],
            "age": table["age"].map(number),
            "sex": table["sex"].map(sex),
            "body_site": table["localization"].map(lambda site: [site] if site else None),
            "modality": "dermoscopic",
            "dx": table["dx"],
            "dx_type": table["dx_type"],
        }
    )
    return match_images(root, frame)


SOURCE = Source(
    name="ham10000",
    title="HAM10000",
    licence="CC-BY-NC-4.0",
    citation="Tschandl, Rosendahl, Kittler: The HAM10000 dataset, Sci Data 5:180161, 2018 "
    "(ViDIR Group, Medical University of Vienna).",
    where="https://doi.org/10.7910/DVN/DBW86T",
    layout="HAM10000_metadata.csv, HAM10000_images_part_*/ISIC_*.jpg",
    group="lesion",
    case="lesion",
    targets={"dx": Target("dx", ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"), level="case")},
    read=read,
    patient_key=False,
)
