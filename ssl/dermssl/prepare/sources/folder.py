"""Any folder of images: class folders give labels, a flat folder gives none."""

import dataclasses
from pathlib import Path

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.sources.images import list_images
from dermssl.prepare.sources.source import Records, Source


def read(root: Path) -> Records:
    """Images at any depth; with two or more first-level folders their names are the labels."""
    files = list_images(root)
    if not files:
        raise InputError(f"{root} holds no image files (.jpg, .png, ...): give the folder that does with --root")
    frame = pd.DataFrame({"file": files})
    labels = [name.split("/")[0] if "/" in name else None for name in files]
    classes = tuple(sorted({label for label in labels if label}))
    if len(classes) < 2 or None in labels:
        return Records(frame)
    found = dataclasses.replace(SOURCE, targets={"label": Target("label", classes)})
    return Records(frame.assign(label=labels), source=found)


SOURCE = Source(
    name="folder",
    title="Any folder of images",
    licence="unknown",
    citation="",
    where="your disk",
    layout="images at any depth; class folders (CLASS/*.jpg) give the target `label`",
    group="image",
    case="image",
    targets={},
    read=read,
    patient_key=False,
)
