"""HAM10000: dermoscopic images of pigmented lesions; several images of a lesion, no patient key."""

from dermssl.dataset.targets import Target
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import read_columns


def read(raw: RawFolder) -> Rows:
    """``HAM10000_metadata`` joined to ``ISIC_*.jpg`` in any folder."""
    rows = read_columns(
        raw.table("HAM10000_metadata"),
        file="image_id",
        lesion_id="lesion_id",
        age="age",
        sex="sex",
        body_site="localization",
        dx="dx",
        dx_type="dx_type",
    )
    return match_files(raw, rows)


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
    modality="dermoscopic",
    patient_key=False,
)
