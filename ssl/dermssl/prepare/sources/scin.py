"""SCIN: photos of skin concerns from the public, up to three per case, labelled by dermatologists."""

import ast

import pandas as pd

from dermssl.prepare.match import match_files
from dermssl.prepare.raw import RawFolder
from dermssl.prepare.source import Rows, Source
from dermssl.prepare.tables import found_classes, read_columns

IMAGES = ("image_1_path", "image_2_path", "image_3_path")
CASE_COLUMNS = ("case_id", *IMAGES, "sex_at_birth", "fitzpatrick_skin_type")
LABEL_COLUMNS = ("case_id", "weighted_skin_condition_label")
MONK = "monk_skin_tone_label_us"


def read(raw: RawFolder) -> Rows:
    """``scin_cases.csv`` and ``scin_labels.csv`` as one row per photo; the label is the condition of highest weight.

    ``fitzpatrick`` is what contributors said of themselves; the Monk tone (graders in the US) keeps its own scale.
    """
    cases = raw.table("scin_cases", required=CASE_COLUMNS)
    labels = raw.table("scin_labels", required=LABEL_COLUMNS)
    table = cases.merge(labels.drop_duplicates("case_id"), on="case_id", how="left")
    table = table.astype(object).where(table.notna() & (table != "NONE_SELECTED"), None)
    views = pd.concat([table.assign(file=table[name]) for name in IMAGES], ignore_index=True)
    views = views[views["file"].notna()].reset_index(drop=True)
    rows = read_columns(
        views,
        optional=(MONK, "age_group"),
        file="file",
        case_id="case_id",
        sex="sex_at_birth",
        fitzpatrick="fitzpatrick_skin_type",
        skin_tone=MONK,
        skin_tone_scale=(MONK, lambda tone: "monk"),
        age_group="age_group",
        condition=(LABEL_COLUMNS[1], _heaviest),
    )
    # A case that no dermatologist could label holds {}, which is no mistake.
    rows.problems = [problem for problem in rows.problems if LABEL_COLUMNS[1] not in problem.file]
    marked = views[[name for name in views if str(name).startswith("body_parts_")]].notna()
    names = [str(name).removeprefix("body_parts_").replace("_", " ") for name in marked]
    sites = [[name for name, mark in zip(names, row, strict=True) if mark] or None for row in marked.to_numpy()]
    rows.frame["body_site"] = pd.Series(sites, index=views.index, dtype=object)
    rows.targets = {"condition": found_classes(rows.frame, "condition", level="case")}
    return match_files(raw, rows)


def _heaviest(text: str) -> str | None:
    """The condition of highest weight of a dictionary written as text; the first by name among equals."""
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
