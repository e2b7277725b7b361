"""DDI, Diverse Dermatology Images: biopsy-proven lesions over pairs of Fitzpatrick types."""

from dermssl.dataset.targets import Target
from dermssl.prepare.source import Source
from dermssl.prepare.values import malignancy

TONES = {"12": "I-II", "34": "III-IV", "56": "V-VI"}

SOURCE = Source(
    name="ddi",
    title="Diverse Dermatology Images (DDI)",
    licence="research-agreement",
    citation="Daneshjou et al.: Disparities in dermatology AI performance on a diverse, curated clinical image set, "
    "Science Advances 8:eabq6147, 2022.",
    where="https://ddi-dataset.github.io/",
    layout="ddi_metadata.csv, 000001.png ...",
    group="image",
    targets={"malignancy": Target("malignancy", ("benign", "malignant"), kind="binary", positive="malignant")},
    tables=("ddi_metadata",),
    columns={
        "file": "DDI_file",
        "skin_tone": ("skin_tone", lambda tone: tone.removesuffix(".0")),
        "skin_tone_scale": ("skin_tone", lambda tone: "fitzpatrick pairs"),
        "tone_group": ("skin_tone", lambda tone: TONES.get(tone.removesuffix(".0"))),
        "disease": "disease",
        "malignancy": ("malignant", malignancy),
    },
    found={"disease": "image"},
    modality="clinical",
    overlaps=("fitzpatrick17k",),
)
