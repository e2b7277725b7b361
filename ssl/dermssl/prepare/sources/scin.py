"""SCIN: photos of skin concerns from the public, up to three per case, labelled by dermatologists."""

import ast

import pandas as pd

from dermssl.prepare.columns import found_classes, one_row_each, read_columns
from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source

IMAGES = ("image_1_path", "image_2_path", "image_3_path")
CASE_COLUMNS = ("case_id", *IMAGES, "sex_at_birth", "fitzpatrick_skin_type")
LABEL_COLUMNS = ("case_id", "weighted_skin_condition_label")
MONK = "monk_skin_tone_label_us"


def read(raw: RawFolder) -> Rows:
    """Read ``scin_cases.csv`` and ``scin_labels.csv``, one row per photo, labelled with the heaviest condition.

    ``fitzpatrick`` is what the contributors said of themselves. The Monk tone of graders in the US keeps its own scale.
    """
    cases = raw.table("scin_cases", required=CASE_COLUMNS)
    labels = one_row_each(raw, raw.table("scin_labels", required=LABEL_COLUMNS), "case_id", "case")
    table = cases.merge(labels, on="case_id", how="left")
    # A case that no dermatologist could label holds {}.
    table = table.astype(object).where(table.notna() & ~table.isin(["NONE_SELECTED", "{}"]), None)
    views = pd.concat([table.assign(file=table[name]) for name in IMAGES], ignore_index=True)
    views = views[views["file"].notna()].reset_index(drop=True)
    frame = read_columns(
        raw,
        views,
        (MONK, "age_group"),
        file="file",
        case_id="case_id",
        sex="sex_at_birth",
        fitzpatrick="fitzpatrick_skin_type",
        skin_tone=MONK,
        skin_tone_scale=(MONK, lambda tone: "monk"),
        age_group="age_group",
        condition=(LABEL_COLUMNS[1], _heaviest),
    )
    marked = views[[name for name in views if str(name).startswith("body_parts_")]].notna()
    names = [str(name).removeprefix("body_parts_").replace("_", " ") for name in marked]
    sites = [[name for name, mark in zip(names, row, strict=True) if mark] or None for row in marked.to_numpy()]
    frame["body_site"] = pd.Series(sites, index=views.index, dtype=object)
    return Rows(match_files(raw, frame), targets={"condition": found_classes(frame, "condition", level="case")})


def _heaviest(text: str) -> str | None:
    """The condition of highest weight in a dictionary written as text; of equal ones the first by name."""
    try:
        weights = ast.literal_eval(text)
        return min(weights, key=lambda name: (-weights[name], name)) if weights else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


SOURCE = Source(
    name="scin",
    title="SCIN, Skin Condition Image Network",
    licence="SCIN",
    citation="Ward et al.: Creating an empirical dermatology dataset through crowdsourcing with web search "
    "advertisements, JAMA Network Open 7(11):e2446615, 2024.",
    where="https://github.com/google-research-datasets/scin",
    layout="scin_cases.csv, scin_labels.csv, images/*.png",
    group="case",
    reader=read,
    modality="clinical",
)
