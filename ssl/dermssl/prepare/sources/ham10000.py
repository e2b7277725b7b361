"""HAM10000: dermoscopic images of pigmented lesions; several images of a lesion, no patient key."""

from dermssl.dataset.targets import Target
from dermssl.prepare.source import Source

SOURCE = Source(
    name="ham10000",
    title="HAM10000",
    licence="CC-BY-NC-4.0",
    citation="Tschandl, Rosendahl, Kittler: The HAM10000 dataset, Sci Data 5:180161, 2018 "
    "(ViDIR Group, Medical University of Vienna).",
    where="https://doi.org/10.7910/DVN/DBW86T",
    layout="HAM10000_metadata.csv, HAM10000_images_part_*/ISIC_*.jpg",
    group="lesion",
    targets={"dx": Target("dx", ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"), level="case")},
    tables=("HAM10000_metadata",),
    columns={
        "file": "image_id",
        "lesion_id": "lesion_id",
        "age": "age",
        "sex": "sex",
        "body_site": "localization",
        "dx": "dx",
        "dx_type": "dx_type",
    },
    modality="dermoscopic",
)
