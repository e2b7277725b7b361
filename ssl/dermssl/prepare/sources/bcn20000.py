"""BCN20000: dermoscopic images in the wild, from one hospital; contained in ISIC 2019."""

from dermssl.prepare.columns import found_classes, read_columns
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source


def read(raw: RawFolder) -> Rows:
    """Read ``bcn_20k_train.csv`` and ``BCN_*.jpg``. The column split is used only if it holds more than train."""
    frame = read_columns(
        raw,
        raw.table("bcn_20k_train", "bcn20000"),
        file="bcn_filename",
        lesion_id="lesion_id",
        split="split",
        age="age_approx",
        sex="sex",
        body_site="anatom_site_general",
        diagnosis="diagnosis",
    )
    if frame["split"].nunique() == 1:
        frame["split"] = None
    return Rows(match_files(raw, frame), targets={"diagnosis": found_classes(frame, "diagnosis", "case")})


SOURCE = Source(
    name="bcn20000",
    title="BCN20000 (contained in ISIC 2019)",
    licence="CC-BY-4.0",
    citation="Hernández-Pérez et al.: BCN20000, Sci Data 11:641, 2024.",
    where="https://doi.org/10.6084/m9.figshare.24140028",
    layout="bcn_20k_train.csv, bcn_20k_train/BCN_*.jpg",
    group="lesion",
    reader=read,
    modality="dermoscopic",
)
