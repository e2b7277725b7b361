"""ISIC 2019: dermoscopic images of eight diagnoses; contains HAM10000 and BCN20000."""

from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.labels import one_hot_labels
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, number, read_table, sex

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


def read(root: Path) -> Records:
    """Ground truth (one-hot) and metadata joined to ``ISIC_*.jpg``; some copies call the sex ``gender``."""
    truth = read_table(find_file(root, "ISIC_2019_Training_GroundTruth.csv"), ("image", *CLASSES[:-1]))
    metadata = read_table(
        find_file(root, "ISIC_2019_Training_Metadata.csv"), ("image", "age_approx", "anatom_site_general", "lesion_id")
    )
    labels, problems = one_hot_labels(truth, "image", tuple(name for name in CLASSES if name in truth))
    table = truth[["image"]].merge(metadata.drop_duplicates("image"), on="image", how="left")
    gender = table["sex"] if "sex" in table else table.get("gender", pd.Series(None, index=table.index, dtype=object))
    frame = pd.DataFrame(
        {
            "file": table["image"],
            "lesion_id": table["lesion_id"],
            "age": table["age_approx"].map(number),
            "sex": gender.map(sex),
            "body_site": table["anatom_site_general"].map(lambda site: [site] if isinstance(site, str) else None),
            "modality": "dermoscopic",
            "diagnosis": table["image"].map(labels),
            "downsampled": table["image"].str.endswith("_downsampled"),
        }
    )
    return match_images(root, frame, problems)


SOURCE = Source(
    name="isic2019",
    title="ISIC 2019 challenge (contains HAM10000 and BCN20000)",
    licence="CC-BY-NC-4.0",
    citation="Tschandl et al., Sci Data 5:180161, 2018; Codella et al., ISBI 2018; Hernández-Pérez et al. (BCN20000), "
    "Sci Data 11:641, 2024.",
    where="https://challenge.isic-archive.com/data/#2019",
    layout="ISIC_2019_Training_GroundTruth.csv, ISIC_2019_Training_Metadata.csv, ISIC_2019_Training_Input/*.jpg",
    group="lesion",
    case="lesion",
    targets={"diagnosis": Target("diagnosis", CLASSES, level="case")},
    read=read,
    patient_key=False,
    overlaps=("ham10000", "bcn20000"),
)
