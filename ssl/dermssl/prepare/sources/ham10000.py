"""HAM10000: dermoscopic images of pigmented lesions; several images of a lesion, no patient key."""

from dermssl.dataset.targets import Target
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Records, Source
from dermssl.prepare.values import read_columns

COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")


def read(raw: RawFolder) -> Records:
    """``HAM10000_metadata`` joined to ``ISIC_*.jpg`` in any folder."""
    records = read_columns(
        raw.table("HAM10000_metadata", required=COLUMNS),
        file="image_id",
        lesion_id="lesion_id",
        age="age",
        sex="sex",
        body_site="localization",
        dx="dx",
        dx_type="dx_type",
    )
    records.frame["modality"] = "dermoscopic"
    return raw.match(records)


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
    reader=read,
    patient_key=False,
)
