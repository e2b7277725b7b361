"""Any table with any column names: a small YAML file beside it says what is what.

``columns.yaml`` in the root::

    table: labels.csv                # the CSV, anywhere below the root
    licence: CC-BY-4.0               # an id of `dermssl sources`, else left out
    citation: Who to name, where.
    columns:                         # manifest column: column of the table
      file: image_name
      patient_id: subject
      lesion_id: [subject, lesion]   # joined, where lesion numbers repeat from patient to patient
      age: age_years
    targets: [diagnosis, stage]      # columns of the table; classes are the names found, in alphabetical order
"""

import dataclasses
from pathlib import Path
from typing import Any

from dermssl.dataset.manifest import FIXED
from dermssl.errors import InputError, did_you_mean
from dermssl.files import read_yaml
from dermssl.licences import LICENCES
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import found_classes, read_columns
from dermssl.prepare.values import READERS

KEYS = ("table", "licence", "citation", "columns", "targets")
RESERVED = {*FIXED.names, *READERS, "picture"}
ID_COLUMNS = ("patient_id", "lesion_id", "case_id")


def read(raw: RawFolder) -> Rows:
    """The table that ``columns.yaml`` describes, joined to the images by path or name."""
    try:
        path = raw.find("columns.yaml", "columns.yml")
    except InputError as error:
        example = "`table: labels.csv` and `columns: {file: image_name, patient_id: subject}`"
        raise InputError(f"{error}, or write it: it says what your table's columns are, as {example}") from None
    layout = read_yaml(path)
    columns, labels = _checked(layout, path)
    table = raw.table(layout["table"], required=[*{name for of in columns.values() for name in of}, *labels])
    rows = read_columns(table, **columns, **{name: [name] for name in labels})
    for name in labels:
        if table[name].isna().all():
            raise InputError(f"{path}: target '{name}' has no label in {layout['table']}: leave it out of `targets`")
    rows.targets = {name: found_classes(table, name) for name in labels}
    # The coarsest unit that the columns name is kept whole; the case, else the lesion, is scored as one.
    group, case = (
        next((unit for unit in units if f"{unit}_id" in columns), "image")
        for units in (("patient", "case", "lesion"), ("case", "lesion"))
    )
    licence, citation = layout.get("licence") or "unknown", " ".join(str(layout.get("citation") or "").split())
    rows.source = dataclasses.replace(SOURCE, group=group, case=case, licence=licence, citation=citation)
    return match_files(raw, rows)


def _checked(layout: dict[str, Any], path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """``columns`` and ``targets``; raises InputError naming the first key that cannot be used."""
    columns, labels, licence = layout.get("columns"), layout.get("targets") or [], layout.get("licence") or "unknown"
    for key in layout:
        if key not in KEYS:
            raise InputError(f"{path}: unknown key '{key}'; {did_you_mean(str(key), KEYS)}")
    if not isinstance(layout.get("table"), str) or not isinstance(columns, dict) or "file" not in columns:
        raise InputError(f"{path} must name the `table`, and under `columns` at least the one with the `file` names")
    for name, column in columns.items():
        if name not in READERS:
            raise InputError(f"{path}: unknown column '{name}'; {did_you_mean(str(name), READERS)}")
        if (isinstance(column, list) and name not in ID_COLUMNS) or not column:
            raise InputError(
                f"{path}: `{name}` must be a column of the table (for {', '.join(ID_COLUMNS)} also a list)"
            )
    if not isinstance(labels, list):
        raise InputError(f"{path}: `targets` must list columns of the table")
    for name in map(str, labels):
        if name in RESERVED:
            raise InputError(f"{path}: target '{name}' is the name of a column of the manifest: rename it in the table")
    if str(licence) not in LICENCES:
        raise InputError(f"{path}: unknown licence '{licence}'; {did_you_mean(str(licence), LICENCES)}")
    lists = {name: column if isinstance(column, list) else [column] for name, column in columns.items()}
    return {name: list(map(str, column)) for name, column in lists.items()}, list(map(str, labels))


SOURCE = Source(
    name="csv",
    title="Any table with image files",
    licence="unknown",
    citation="",
    where="your disk",
    layout="columns.yaml (which column is what), the table it names, images at any depth",
    group="image",
    reader=read,
)
