"""ISIC 2024 (SLICE-3D): crops of 3D photographs. The columns ``iddx_*`` and ``mel_*`` state the label: not read."""

from dermssl.dataset.targets import Target
from dermssl.prepare.source import Source
from dermssl.prepare.values import malignancy

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
    tables=("train-metadata",),
    columns={
        "file": "isic_id",
        "patient_id": "patient_id",
        "lesion_id": "lesion_id",
        "age": "age_approx",
        "sex": "sex",
        "body_site": "anatom_site_general",
        "malignancy": ("target", malignancy),
        "copyright_license": "copyright_license",
    },
    optional=("lesion_id", "copyright_license"),
    modality="clinical",
)
