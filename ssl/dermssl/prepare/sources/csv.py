"""Any table with any column names. A file ``columns.yaml`` says what each column holds::

table: labels.csv                # the CSV, at most three folders below the root
licence: CC-BY-4.0               # an id that `dermssl sources` shows; leave it out if you do not know it
citation: Who to name, where.
columns:                         # manifest column: column of the table
  file: image_name
  patient_id: subject
  lesion_id: [subject, lesion]   # joined, because lesion numbers repeat from patient to patient
  age: age_years
targets: [diagnosis, cancer]     # columns of the table, or {name: column}; classes in alphabetical order
positive: {cancer: malignant}    # the positive class of a target that has two
"""

import dataclasses
from pathlib import Path
from typing import Any

from dermssl.dataset.manifest import FIXED
from dermssl.dataset.targets import Target
from dermssl.errors import InputError, did_you_mean, shortened
from dermssl.files import read_yaml
from dermssl.licences import LICENCES
from dermssl.prepare.columns import found_classes, read_columns
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.values import READERS

KEYS = ("table", "licence", "citation", "columns", "targets", "positive")
RESERVED = {*FIXED.names, *READERS, "picture", "fold", "unit", "side", "leak_group", "rank", "similarity"}
RESERVED |= {"images", "patients", "lesions", "cases"}
"""Names that a target may not have: those of the manifest's columns, and of columns that later commands add to it."""
ID_COLUMNS = ("patient_id", "lesion_id", "case_id")
YAML_WORDS = {True: ("yes", "true", "on"), False: ("no", "false", "off")}
"""Words that YAML reads as true or false unless they stand in quotes."""


def read(raw: RawFolder) -> Rows:
    """Read the table that ``columns.yaml`` describes, and the images that it names."""
    try:
        path = raw.find("columns.yaml", "columns.yml")
    except InputError as error:
        example = "`table: labels.csv` and `columns: {file: image_name, patient_id: subject}`"
        raise InputError(f"{error}, or write one that says what your columns hold, such as {example}") from None
    layout = read_yaml(path)
    columns, labels = _checked(layout, path)
    table = raw.table(layout["table"], required=[*{name for of in columns.values() for name in of}, *labels.values()])
    frame, notes = read_columns(raw, table, **columns, **{name: [column] for name, column in labels.items()}), []
    for name, column in labels.items():
        coded, words = (table.attrs[kind].get(column) for kind in ("coded", "worded"))
        if frame[name].isna().all():
            codes = " (its -1, -9, -99 or -999 count as missing: a class must be a word)" if coded else ""
            raise InputError(
                f"{path}: target '{name}' has no label in {layout['table']}{codes}: leave it out of `targets`"
            )
        if coded:
            why = "-1, -9, -99 or -999, so they have no label: if that is a class, write a word instead"
            notes.append(f"{coded} rows of {name} hold {why}")
        if words:
            told = ", ".join(f"'{word}' ({rows} rows)" for word, rows in words.items())
            why = "which means missing, so these rows have no label: if it is a class, write another word"
            notes.append(f"{name} holds {shortened(told)}, {why}")
    # Splits keep the coarsest unit together that the columns name. Scores count cases, else lesions.
    group, case = (
        next((unit for unit in units if f"{unit}_id" in columns), "image")
        for units in (("patient", "case", "lesion"), ("case", "lesion"))
    )
    licence, citation = layout.get("licence") or "unknown", " ".join(str(layout.get("citation") or "").split())
    source = dataclasses.replace(SOURCE, group=group, case=case, licence=licence, citation=citation)
    targets = {name: found_classes(frame, name) for name in labels}
    for name, positive in (layout.get("positive") or {}).items():
        targets[str(name)] = _binary(targets[str(name)], positive, path)
    return Rows(match_files(raw, frame), notes, targets, source)


def _binary(target: Target, value: Any, path: Path) -> Target:
    """The target with its positive class, added if no row has it. InputError if that makes more than two classes."""
    words = YAML_WORDS[value] if isinstance(value, bool) else ()
    positive = next((label for label in target.classes if label.lower() in words), value)
    if isinstance(positive, bool) or len({*target.classes, str(positive)}) > 2:
        found = shortened(", ".join(f"'{label}'" for label in target.classes))
        remedies = {1: "write the other one in quotes", 2: "give one of these"}
        remedy = remedies.get(len(target.classes), "correct the table, or leave it out of `positive`")
        raise InputError(f"{path}: `positive` must name one of two classes, but {target.column} has {found}: {remedy}")
    negative = [label for label in target.classes if label != str(positive)]
    return dataclasses.replace(target, classes=(*negative, str(positive)), kind="binary", positive=str(positive))


def _checked(layout: dict[str, Any], path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The ``columns`` and ``targets`` of the file ``path``; raises InputError naming the first key that is wrong."""
    columns, labels, licence = layout.get("columns"), layout.get("targets") or [], layout.get("licence") or "unknown"
    for key in layout:
        if key not in KEYS:
            raise InputError(f"{path}: unknown key '{key}'; {did_you_mean(str(key), KEYS)}")
    if not isinstance(layout.get("table"), str) or not isinstance(columns, dict) or "file" not in columns:
        raise InputError(f"{path} must name the `table`, and under `columns` at least the column of the `file`")
    for name, column in columns.items():
        if name not in READERS:
            known = did_you_mean(str(name), READERS)
            raise InputError(f"{path}: unknown column '{name}'; {known}. Labels stand in `targets`")
        if (isinstance(column, list) and name not in ID_COLUMNS) or not column:
            ids = ", ".join(ID_COLUMNS)
            raise InputError(f"{path}: `{name}` must be a column of the table, or a list of columns for {ids}")
    if not isinstance(labels, list | dict):
        raise InputError(f"{path}: `targets` must list columns of the table, or give names to columns")
    pairs = labels.items() if isinstance(labels, dict) else zip(labels, labels, strict=True)
    named = {str(name): str(column) for name, column in pairs}
    for name, column in named.items():
        if name in RESERVED:
            example = f"`targets: {{my_{name}: {column}}}`"
            raise InputError(f"{path}: target '{name}' has the name of a manifest column: rename it, as in {example}")
    positive = layout.get("positive") or {}
    if not isinstance(positive, dict) or not {*map(str, positive)} <= {*named}:
        raise InputError(f"{path}: `positive` must give classes of `targets`, such as {{cancer: malignant}}")
    if str(licence) not in LICENCES:
        raise InputError(f"{path}: unknown licence '{licence}'; {did_you_mean(str(licence), LICENCES)}")
    lists = {name: column if isinstance(column, list) else [column] for name, column in columns.items()}
    return {name: list(map(str, column)) for name, column in lists.items()}, named


SOURCE = Source(
    name="csv",
    title="Any table with image files",
    licence="unknown",
    citation="",
    where="your disk",
    layout="columns.yaml (what each column holds), the table that it names, images at any depth",
    group="image",
    reader=read,
)
