"""ISIC 2019: dermoscopic images of eight diagnoses; contains HAM10000 and BCN20000."""

from dermssl.dataset.targets import Target
from dermssl.prepare.columns import one_hot_labels, one_row_each, read_columns
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source

COLUMNS = ("image", "age_approx", "anatom_site_general", "lesion_id")
CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


def read(raw: RawFolder) -> Rows:
    """Read the one-hot ground truth, the metadata and ``ISIC_*.jpg``. Some copies call the sex ``gender``."""
    truth = raw.table("ISIC_2019_Training_GroundTruth", required=("image", *CLASSES[:-1]))
    truth = one_row_each(raw, truth, "image", "image")
    metadata = raw.table("ISIC_2019_Training_Metadata", required=COLUMNS)
    metadata = one_row_each(raw, metadata, "image", "image", "metadata")
    labels = one_hot_labels(raw, truth, "image", [name for name in CLASSES if name in truth])
    table = truth[["image"]].merge(metadata, on="image", how="left")
    frame = read_columns(
        raw,
        table,
        ("gender",),
        file="image",
        lesion_id="lesion_id",
        age="age_approx",
        sex="sex" if "sex" in table else "gender",
        body_site="anatom_site_general",
    )
    frame["diagnosis"] = table["image"].map(labels)
    frame["downsampled"] = table["image"].str.endswith("_downsampled")
    return Rows(match_files(raw, frame))


SOURCE = Source(
    name="isic2019",
    title="ISIC 2019 challenge (contains HAM10000 and BCN20000)",
    licence="CC-BY-NC-4.0",
    citation="Tschandl et al., Sci Data 5:180161, 2018; Codella et al., ISBI 2018; Hernández-Pérez et al. (BCN20000), "
    "Sci Data 11:641, 2024.",
    where="https://challenge.isic-archive.com/data/#2019",
    layout="ISIC_2019_Training_GroundTruth.csv, ISIC_2019_Training_Metadata.csv, ISIC_2019_Training_Input/*.jpg",
    group="lesion",
    targets={"diagnosis": Target("diagnosis", CLASSES, level="case")},
    reader=read,
    modality="dermoscopic",
    overlaps=("ham10000", "bcn20000"),
)
