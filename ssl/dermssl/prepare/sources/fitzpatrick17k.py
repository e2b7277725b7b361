"""Fitzpatrick17k: web photos of 114 conditions with skin types; no patients, no lesions."""

from dermssl.dataset.targets import Target
from dermssl.prepare.source import Source

NINE = (
    "benign dermal",
    "benign epidermal",
    "benign melanocyte",
    "genodermatoses",
    "inflammatory",
    "malignant cutaneous lymphoma",
    "malignant dermal",
    "malignant epidermal",
    "malignant melanoma",
)
THREE = ("benign", "malignant", "non-neoplastic")

SOURCE = Source(
    name="fitzpatrick17k",
    title="Fitzpatrick17k",
    licence="CC-BY-NC-SA-3.0",
    citation="Groh et al.: Evaluating deep neural networks trained on clinical images in dermatology with the "
    "Fitzpatrick 17k dataset, CVPR workshops 2021.",
    where="https://github.com/mattgroh/fitzpatrick17k",
    layout="fitzpatrick17k.csv, <md5hash>.jpg in any folder",
    group="image",
    targets={"nine_partition": Target("nine_partition", NINE), "three_partition": Target("three_partition", THREE)},
    tables=("fitzpatrick17k",),
    columns={
        "file": "md5hash",
        "fitzpatrick": "fitzpatrick_scale",
        "label": "label",
        "nine_partition": "nine_partition_label",
        "three_partition": "three_partition_label",
        "qc": "qc",
    },
    optional=("qc",),
    found={"label": "image"},
    modality="clinical",
)
