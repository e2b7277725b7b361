"""Any table with any column names: a small YAML file beside it says what is what.

``columns.yaml`` in the root::

    table: labels.csv                # the CSV, anywhere below the root
    licence: CC-BY-4.0               # an id of `dermssl sources`, else left out
    citation: Who to name, where.
    columns:                         # manifest column: column of the table
      file: image_name
      patient_id: subject
      age: age_years
    targets: [diagnosis, stage]      # columns of the table; classes are the names found, in alphabetical order
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError, did_you_mean
from dermssl.files import read_yaml
from dermssl.licences import LICENCES
from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.labels import found_classes
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import clean, find_file, fitzpatrick, number, read_table, sex

KEYS = ("table", "licence", "citation", "columns", "targets")
READERS: dict[str, Callable[[Any], Any]] = {
    "file": clean,
    "patient_id": clean,
    "lesion_id": clean,
    "case_id": clean,
    "split": lambda value: value.lower() if value else None,
    "age": number,
    "sex": sex,
    "country": clean,
    "body_site": lambda value: [part.strip() for part in value.split(";") if part.strip()] if value else None,
    "modality": lambda value: value.lower() if value else None,
    "fitzpatrick": fitzpatrick,
}


def read(root: Path) -> Records:
    """The table that ``columns.yaml`` describes, joined to the images by path or name."""
    path = find_file(root, "columns.yaml", "columns.yml")
    layout = read_yaml(path)
    columns, labels = _checked(layout, path)
    table = read_table(find_file(root, str(layout["table"])), [*columns.values(), *labels])
    frame = pd.DataFrame({name: table[column].map(READERS[name]) for name, column in columns.items()})
    records = match_images(root, frame.assign(**{name: table[name] for name in labels}))
    records.source = _source(layout, columns, {name: found_classes(table, name) for name in labels})
    return records


def _checked(layout: dict[str, Any], path: Path) -> tuple[dict[str, str], list[str]]:
    """``columns`` and ``targets``; raises InputError naming the first key that cannot be used."""
    columns, labels = layout.get("columns"), layout.get("targets") or []
    for key in layout:
        if key not in KEYS:
            raise InputError(f"{path}: unknown key '{key}'; {did_you_mean(str(key), KEYS)}")
    if not layout.get("table") or not isinstance(columns, dict) or "file" not in columns:
        raise InputError(f"{path} must name the `table`, and under `columns` at least the one with the `file` names")
    for name in columns:
        if name not in READERS:
            raise InputError(f"{path}: unknown column '{name}'; {did_you_mean(str(name), READERS)}")
    if not isinstance(labels, list) or set(labels) & set(READERS):
        raise InputError(f"{path}: `targets` must list columns of the table, none of them called {', '.join(READERS)}")
    if layout.get("licence", "unknown") not in LICENCES:
        raise InputError(f"{path}: unknown licence '{layout['licence']}'; {did_you_mean(layout['licence'], LICENCES)}")
    return {name: str(column) for name, column in columns.items()}, [str(label) for label in labels]


def _source(layout: dict[str, Any], columns: dict[str, str], targets: dict[str, Target]) -> Source:
    """The finest unit that the columns name is kept together; the case, else the lesion, is scored as one."""
    group = next((unit for unit in ("patient", "case", "lesion") if f"{unit}_id" in columns), "image")
    case = next((unit for unit in ("case", "lesion") if f"{unit}_id" in columns), "image")
    return dataclasses.replace(
        SOURCE,
        licence=layout.get("licence", "unknown"),
        citation=str(layout.get("citation") or ""),
        group=group,
        case=case,
        targets=targets,
        patient_key=group == "patient",
    )


SOURCE = Source(
    name="csv",
    title="Any table with image files",
    licence="unknown",
    citation="",
    where="your disk",
    layout="columns.yaml (which column is what), the table it names, images at any depth",
    group="image",
    case="image",
    targets={},
    read=read,
    patient_key=False,
)
