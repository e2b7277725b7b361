"""ISIC 2020 and its Kaggle edition (SIIM-ISIC): dermoscopic images with patients."""

from pathlib import Path

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.columns import read_columns
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import require_column
from dermssl.prepare.values import malignancy

CLASSES = (
    "atypical melanocytic proliferation",
    "cafe-au-lait macule",
    "lentigo NOS",
    "lichenoid keratosis",
    "melanoma",
    "nevus",
    "seborrheic keratosis",
    "solar lentigo",
)
DUPLICATES = ("ISIC_2020_Training_Duplicates", "2020_Challenge_duplicates")
"""The list of duplicates of the archive, and that of the Kaggle edition."""
PAIRS = (("image_name_1", "image_name_2"), ("ISIC_id", "ISIC_id_paired"))
"""The two columns of a pair in either list."""


def read(raw: RawFolder) -> Rows:
    """Read ``ISIC_2020_Training_GroundTruth[_v2].csv`` or Kaggle's ``train.csv``, which has no lesions.

    Of images that the list of duplicates connects by one or more pairs, only the first is kept.
    """
    names = ("ISIC_2020_Training_GroundTruth_v2", "ISIC_2020_Training_GroundTruth", "train", "siim_train")
    frame = read_columns(
        raw,
        raw.table(*names),
        ("lesion_id",),
        file="image_name",
        patient_id="patient_id",
        lesion_id="lesion_id",
        age="age_approx",
        sex="sex",
        body_site="anatom_site_general_challenge",
        diagnosis="diagnosis",
        malignancy=("target", malignancy),
    )
    frame = match_files(raw, frame)
    pictures = _pictures(raw)
    doubled = frame["file"].map(lambda file: pictures.get(Path(file).stem, Path(file).stem)).duplicated()
    for file in frame["file"][doubled]:
        raw.report(file, "listed as a duplicate of another image")
    return Rows(frame[~doubled])


def _pictures(raw: RawFolder) -> dict[str, str]:
    """For each image of a listed pair, a name that all images connected with it share."""
    try:
        raw.find(*DUPLICATES)
    except InputError:
        return {}
    pairs = raw.table(*DUPLICATES)
    names = next((names for names in PAIRS if names[0] in pairs), PAIRS[0])
    for name in names:
        require_column(pairs, name, pairs.attrs["path"])
    same: dict[str, set[str]] = {}
    for one, other in pairs[list(names)].dropna().to_numpy():
        joined = same.get(one, {one}) | same.get(other, {other})
        same |= dict.fromkeys(joined, joined)
    return {name: min(joined) for name, joined in same.items()}


SOURCE = Source(
    name="isic2020",
    title="ISIC 2020 challenge (SIIM-ISIC)",
    licence="CC-BY-NC-4.0",
    citation="Rotemberg et al.: A patient-centric dataset of images and metadata for identifying melanomas using "
    "clinical context, Sci Data 8:34, 2021.",
    where="https://challenge2020.isic-archive.com/",
    layout="ISIC_2020_Training_GroundTruth_v2.csv (or Kaggle's train.csv), train/ISIC_*.jpg; of the pairs in "
    "ISIC_2020_Training_Duplicates.csv (or 2020_Challenge_duplicates.csv) one image is kept",
    group="patient",
    case="lesion",
    targets={
        "malignancy": Target("malignancy", ("benign", "malignant"), kind="binary", positive="malignant", level="case"),
        "diagnosis": Target("diagnosis", CLASSES, level="case"),
    },
    reader=read,
    modality="dermoscopic",
    # This source reads both editions, which hold the same images.
    overlaps=("isic2020",),
)
