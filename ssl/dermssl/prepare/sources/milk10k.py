"""MILK10k: lesions seen twice, close up and by dermoscope; shares lesions with HAM10000."""

from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.labels import one_hot_labels
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, number, read_table, sex

CLASSES = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")
COLUMNS = ("lesion_id", "image_type", "isic_id", "age_approx", "sex", "skin_tone_class", "site")


def read(root: Path) -> Records:
    """Metadata and one-hot ground truth (per lesion) joined to ``<lesion_id>/<isic_id>.jpg``.

    The skin tone classes are the set's own scale (dark 0 to light 5), not Fitzpatrick types.
    """
    table = read_table(find_file(root, "MILK10k_Training_Metadata.csv"), COLUMNS)
    truth = read_table(find_file(root, "MILK10k_Training_GroundTruth.csv"), ("lesion_id", *CLASSES))
    labels, problems = one_hot_labels(truth, "lesion_id", CLASSES)
    tone = table["skin_tone_class"]
    frame = pd.DataFrame(
        {
            "file": table["isic_id"],
            "lesion_id": table["lesion_id"],
            "age": table["age_approx"].map(number),
            "sex": table["sex"].map(sex),
            "body_site": table["site"].map(lambda site: [site] if site else None),
            "modality": table["image_type"].map(lambda kind: str(kind).split(":")[0]),
            "skin_tone": tone,
            "skin_tone_scale": tone.map(lambda value: "milk10k" if value else None),
            "diagnosis": table["lesion_id"].map(labels),
            "copyright_license": table.get("copyright_license"),
        }
    )
    return match_images(root, frame, problems)


SOURCE = Source(
    name="milk10k",
    title="MILK10k (shares lesions with HAM10000)",
    licence="CC-BY-NC-4.0",
    citation="MILK study team: MILK10k, ISIC Archive, 2025. https://doi.org/10.34970/648456",
    where="https://challenge.isic-archive.com/data/#milk10k",
    layout="MILK10k_Training_Metadata.csv, MILK10k_Training_GroundTruth.csv, <lesion_id>/<isic_id>.jpg",
    group="lesion",
    case="lesion",
    targets={"diagnosis": Target("diagnosis", CLASSES, level="case")},
    read=read,
    patient_key=False,
    overlaps=("ham10000", "isic2019"),
)
