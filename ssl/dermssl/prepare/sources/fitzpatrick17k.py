"""Fitzpatrick17k: web photos of 114 conditions with skin types; no patients, no lesions."""

import dataclasses
from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.labels import found_classes
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, fitzpatrick, read_table

COLUMNS = ("md5hash", "fitzpatrick_scale", "label", "nine_partition_label", "three_partition_label")
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


def read(root: Path) -> Records:
    """``fitzpatrick17k.csv`` joined to ``<md5hash>.jpg``; the 114 labels found make the target ``label``."""
    table = read_table(find_file(root, "fitzpatrick17k.csv"), COLUMNS)
    frame = pd.DataFrame(
        {
            "file": table["md5hash"],
            "modality": "clinical",
            "fitzpatrick": table["fitzpatrick_scale"].map(fitzpatrick),
            "label": table["label"],
            "nine_partition": table["nine_partition_label"],
            "three_partition": table["three_partition_label"],
            "qc": table.get("qc"),
        }
    )
    records = match_images(root, frame)
    found = SOURCE.targets | {"label": found_classes(table, "label")}
    records.source = dataclasses.replace(SOURCE, targets=found)
    return records


SOURCE = Source(
    name="fitzpatrick17k",
    title="Fitzpatrick17k",
    licence="CC-BY-NC-SA-3.0",
    citation="Groh et al.: Evaluating deep neural networks trained on clinical images in dermatology with the "
    "Fitzpatrick 17k dataset, CVPR workshops 2021.",
    where="https://github.com/mattgroh/fitzpatrick17k",
    layout="fitzpatrick17k.csv, <md5hash>.jpg in any folder",
    group="image",
    case="image",
    targets={"nine_partition": Target("nine_partition", NINE), "three_partition": Target("three_partition", THREE)},
    read=read,
    patient_key=False,
)
