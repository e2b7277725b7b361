"""BCN20000: dermoscopic images in the wild, from one hospital; contained in ISIC 2019."""

from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import found_classes, read_columns


def read(raw: RawFolder) -> Rows:
    """``bcn_20k_train.csv`` joined to ``BCN_*.jpg``; its split column counts only where it says more than train."""
    table = raw.table("bcn_20k_train", "bcn20000")
    rows = read_columns(
        table,
        file="bcn_filename",
        lesion_id="lesion_id",
        split="split",
        age="age_approx",
        sex="sex",
        body_site="anatom_site_general",
        diagnosis="diagnosis",
    )
    if rows.frame["split"].nunique() == 1:
        rows.frame["split"] = None
    rows.targets = {"diagnosis": found_classes(table, "diagnosis", "case")}
    return match_files(raw, rows)


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
