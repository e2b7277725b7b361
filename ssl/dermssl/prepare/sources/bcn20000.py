"""BCN20000: dermoscopic images in the wild, from one hospital; contained in ISIC 2019."""

from dermssl.prepare.source import Source

SOURCE = Source(
    name="bcn20000",
    title="BCN20000 (contained in ISIC 2019)",
    licence="CC-BY-4.0",
    citation="Hernández-Pérez et al.: BCN20000, Sci Data 11:641, 2024.",
    where="https://doi.org/10.6084/m9.figshare.24140028",
    layout="bcn_20k_train.csv, bcn_20k_train/BCN_*.jpg",
    group="lesion",
    tables=("bcn_20k_train", "bcn20000"),
    columns={
        "file": "bcn_filename",
        "lesion_id": "lesion_id",
        "split": "split",
        "age": "age_approx",
        "sex": "sex",
        "body_site": "anatom_site_general",
        "diagnosis": "diagnosis",
    },
    found={"diagnosis": "case"},
    modality="dermoscopic",
)
