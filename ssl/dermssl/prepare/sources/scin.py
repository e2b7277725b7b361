"""SCIN: photos of skin concerns from the public, up to three per case, labelled by dermatologists."""

import ast
import dataclasses
from pathlib import Path

import pandas as pd

from dermssl.prepare.sources.images import match_images
from dermssl.prepare.sources.labels import found_classes
from dermssl.prepare.sources.source import Records, Source
from dermssl.prepare.sources.tables import find_file, fitzpatrick, read_table, sex

IMAGES = ("image_1_path", "image_2_path", "image_3_path")
CASE_COLUMNS = ("case_id", *IMAGES, "sex_at_birth", "fitzpatrick_skin_type")
LABEL_COLUMNS = ("case_id", "weighted_skin_condition_label")
MONK = "monk_skin_tone_label_us"


def read(root: Path) -> Records:
    """``scin_cases.csv`` and ``scin_labels.csv`` as one row per photo; the label is the condition of highest weight.

    ``fitzpatrick`` is what contributors said of themselves; the Monk tone (graders in the US) keeps its own scale.
    """
    cases = read_table(find_file(root, "scin_cases.csv"), CASE_COLUMNS)
    labels = read_table(find_file(root, "scin_labels.csv"), LABEL_COLUMNS)
    table = cases.merge(labels.drop_duplicates("case_id"), on="case_id", how="left")
    columns = {
        "case_id": table["case_id"],
        "sex": table["sex_at_birth"].map(sex),
        "body_site": _body_sites(table),
        "modality": "clinical",
        "fitzpatrick": table["fitzpatrick_skin_type"].map(_skin_type),
        "skin_tone": table.get(MONK),
        "skin_tone_scale": table[MONK].map(lambda tone: "monk" if isinstance(tone, str) else None)
        if MONK in table
        else None,
        "age_group": table.get("age_group"),
        "condition": table["weighted_skin_condition_label"].map(_heaviest),
    }
    frame = pd.concat([pd.DataFrame(columns | {"file": table[name]}) for name in IMAGES], ignore_index=True)
    records = match_images(root, frame[frame["file"].notna()])
    found = {"condition": found_classes(frame, "condition", level="case")}
    records.source = dataclasses.replace(SOURCE, targets=found)
    return records


def _body_sites(table: pd.DataFrame) -> pd.Series:
    """Names of the ``body_parts_*`` columns that are marked."""
    marked = table[[name for name in table if str(name).startswith("body_parts_")]].notna()
    names = [str(name).removeprefix("body_parts_").replace("_", " ") for name in marked]
    sites = [[name for name, mark in zip(names, row, strict=True) if mark] or None for row in marked.to_numpy()]
    return pd.Series(sites, index=table.index, dtype=object)


def _skin_type(value: object) -> int | None:
    return fitzpatrick(value.removeprefix("FST")) if isinstance(value, str) else None


def _heaviest(value: object) -> str | None:
    """The condition of highest weight of a dictionary written as text; the first by name among equals."""
    try:
        weights = ast.literal_eval(value) if isinstance(value, str) else {}
    except (ValueError, SyntaxError):
        return None
    return min(weights, key=lambda name: (-weights[name], name)) if isinstance(weights, dict) and weights else None


SOURCE = Source(
    name="scin",
    title="SCIN, Skin Condition Image Network",
    licence="SCIN",
    citation="Ward et al.: Creating an empirical dermatology dataset through crowdsourcing with web search "
    "advertisements, JAMA Network Open 7(11):e2446615, 2024.",
    where="https://github.com/google-research-datasets/scin",
    layout="scin_cases.csv, scin_labels.csv, images/*.png",
    group="case",
    case="case",
    targets={},
    read=read,
    patient_key=False,
)
