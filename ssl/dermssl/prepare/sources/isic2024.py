"""ISIC 2024 (SLICE-3D): small crops from 3D total body photographs, with patients."""

from dermssl.dataset.targets import Target
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import read_columns

COLUMNS = (
    *("isic_id", "target", "patient_id", "lesion_id", "age_approx", "sex"),
    *("anatom_site_general", "copyright_license"),
)
MALIGNANT = {"1": "malignant", "1.0": "malignant", "0": "benign", "0.0": "benign"}


def read(raw: RawFolder) -> Rows:
    """``train-metadata.csv`` joined to ``ISIC_*.jpg``.

    The columns ``iddx_*`` and ``mel_*`` state the diagnosis: they are not carried along, so nothing can learn
    from them by accident.
    """
    rows = read_columns(
        raw.table("train-metadata", only=COLUMNS),
        optional=("lesion_id", "copyright_license"),
        file="isic_id",
        patient_id="patient_id",
        lesion_id="lesion_id",
        age="age_approx",
        sex="sex",
        body_site="anatom_site_general",
        malignancy=("target", MALIGNANT),
        copyright_license="copyright_license",
    )
    return match_files(raw, rows)


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
    reader=read,
    modality="clinical",
)
