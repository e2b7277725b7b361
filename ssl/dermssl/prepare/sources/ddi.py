"""DDI, Diverse Dermatology Images: biopsy-proven lesions over pairs of Fitzpatrick types."""

from dermssl.dataset.targets import Target
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import found_classes, read_columns

TONES = {"12": "I-II", "34": "III-IV", "56": "V-VI"}
MALIGNANT = {"true": "malignant", "1": "malignant", "false": "benign", "0": "benign"}


def read(raw: RawFolder) -> Rows:
    """``ddi_metadata.csv`` joined to ``000001.png``; skin tones are pairs of types, so only groups are known."""
    table = raw.table("ddi_metadata")
    rows = read_columns(
        table,
        file="DDI_file",
        skin_tone=("skin_tone", lambda tone: tone.removesuffix(".0")),
        skin_tone_scale=("skin_tone", lambda tone: "fitzpatrick pairs"),
        tone_group=("skin_tone", lambda tone: TONES.get(tone.removesuffix(".0"))),
        disease="disease",
        malignancy=("malignant", lambda value: MALIGNANT.get(value.lower())),
    )
    rows.targets = {"disease": found_classes(table, "disease")}
    return match_files(raw, rows)


SOURCE = Source(
    name="ddi",
    title="Diverse Dermatology Images (DDI)",
    licence="research-agreement",
    citation="Daneshjou et al.: Disparities in dermatology AI performance on a diverse, curated clinical image set, "
    "Science Advances 8:eabq6147, 2022.",
    where="https://ddi-dataset.github.io/",
    layout="ddi_metadata.csv, 000001.png ...",
    group="image",
    case="image",
    targets={"malignancy": Target("malignancy", ("benign", "malignant"), kind="binary", positive="malignant")},
    reader=read,
    modality="clinical",
    patient_key=False,
    overlaps=("fitzpatrick17k",),
)
