"""The values of tables: what each column of the manifest is read from, in the spellings in use.

A value that is there but cannot be read becomes missing, and is counted among the problems.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.errors import InputError
from dermssl.prepare.source import Problem, Records

MISSING = {"", "nan", "none", "null", "na", "n/a", "unknown", "-1", "-1.0"}
OLDEST = 120
UNITS = {
    1: " y yr yrs year years yo a an ans année années año años ano anos jahr jahre",
    1 / 12: "m mo mos month months mois mes meses monat monate",
    7 / 365.25: "w wk wks week weeks semaine semaines semana semanas woche wochen",
    1 / 365.25: "d day days jour jours día días dia dias tag tage",
}
YEARS = {unit: years for years, units in UNITS.items() for unit in units.split(" ")}
SEXES = {
    "female": "f female w woman girl femme féminin feminin fille weiblich frau mujer femenino feminino mulher",
    "male": "m male man boy homme masculin garçon männlich mann hombre masculino homem",
}
SEX = {word: name for name, words in SEXES.items() for word in words.split()}
MODALITIES = {
    "clinical": "clinical macroscopic macro close-up smartphone photo photograph",
    "dermoscopic": "dermoscopic dermoscopy dermatoscopic dermatoscopy",
}
MODALITY = {word: name for name, words in MODALITIES.items() for word in words.split()}
SPLIT = {
    word: side
    for side, words in {"train": "train training", "val": "val valid validation dev", "test": "test testing"}.items()
    for word in words.split()
}
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6}


def clean(value: object) -> str | None:
    """A stripped string, or None for any spelling of missing."""
    text = str(value).strip()
    return None if text.lower() in MISSING else text


def number(value: object) -> float | None:
    """A number from "35" or "35,5"; None for missing or unreadable."""
    try:
        parsed = float(str(value).strip().replace(",", "."))
    except ValueError:
        return None
    return parsed if math.isfinite(parsed) else None


def age(text: str) -> float | None:
    """Years from "35", "85+", ">85", "18 months" or "2 years 6 months"; None for what is no age of a person."""
    text = re.sub(r"^(>=|>|≥)|\+|\b(old|of age)\b", " ", text.lower().replace("y/o", "yo").replace(",", "."))
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([^\W\d_]*)\.?\s*", text)
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([^\W\d_]*)\.?\s*", "", text).strip():
        return None
    units = [unit for _, unit in parts]
    if not all(unit in YEARS for unit in units) or (len(parts) > 1 and "" in units):
        return None
    years = sum(float(amount) * YEARS[unit] for amount, unit in parts)
    return years if years <= OLDEST else None


def sex(text: str) -> str | None:
    """``female``, ``male`` or None."""
    return SEX.get(text.lower().strip(" ."))


def fitzpatrick(text: str) -> int | None:
    """Fitzpatrick type 1-6 from "3", "III", "type 3", "FST III"; None for what is no single type."""
    found = re.fullmatch(r"(?:fitzpatrick|skin|photo|type|fst|[\s:_.-])*([1-6]|i{1,3}|iv|vi?)(?:\.0*)?", text.lower())
    return (ROMAN.get(found[1]) or int(found[1])) if found else None


def body_sites(text: str) -> list[str] | None:
    """Names separated by ``;``."""
    return [site for site in map(clean, text.split(";")) if site] or None


def modality(text: str) -> str | None:
    """``clinical`` or ``dermoscopic``; what follows a ``:`` is a detail."""
    return MODALITY.get(text.lower().split(":")[0].strip())


READERS: dict[str, Callable[[str], Any]] = {
    "file": str,
    "patient_id": str,
    "lesion_id": str,
    "case_id": str,
    "split": lambda text: SPLIT.get(text.lower()),
    "age": age,
    "sex": sex,
    "country": str,
    "body_site": body_sites,
    "modality": modality,
    "fitzpatrick": fitzpatrick,
}
"""How the manifest's own columns are read; other columns are text unless a source says otherwise."""


def read_columns(table: pd.DataFrame, **columns: str | tuple[str, Callable[[str], Any] | Mapping[str, Any]]) -> Records:
    """The manifest's columns from those of ``table`` (from `read_table`), each by its reader.

    Args:
        table: text; whatever is no text is missing.
        columns: name in the manifest = name in the table, or that name with a reader or a dictionary of its own.
            A column that the table lacks is missing throughout.

    Raises:
        InputError: a split is none of train, val and test.
    """
    records = Records(pd.DataFrame(index=table.index))
    for name, wanted in columns.items():
        column, reader = wanted if isinstance(wanted, tuple) else (wanted, READERS.get(name, str))
        read = reader.get if isinstance(reader, Mapping) else reader
        cells = table[column] if column in table else [None] * len(table)
        raw = [cell if isinstance(cell, str) else None for cell in cells]
        values = [None if text is None else read(text) for text in raw]
        numeric = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        records.frame[name] = pd.Series(values, index=table.index, dtype=float if numeric else object)
        unread = Counter(text for text, value in zip(raw, values, strict=True) if text is not None and value is None)
        if unread and name == "split":
            raise InputError(f"column '{column}' holds '{next(iter(unread))}': a split is train, val or test")
        if unread:
            examples = ", ".join(f"'{text[:40]}'" for text, _ in unread.most_common(3))
            problem = f"values of {column} cannot be read ({unread.total()}, such as {examples})"
            records.problems.append(Problem(f"column {column}", problem, "kept as missing"))
    return records


def one_hot_labels(table: pd.DataFrame, key: str, classes: tuple[str, ...]) -> tuple[dict[str, str], list[Problem]]:
    """The class of each row by its ``key``; a row with no class or several is a problem and stays unlabelled."""
    marks = table[list(classes)].map(lambda value: number(value) == 1)
    labels, problems = {}, []
    for name, count, label in zip(table[key], marks.sum(axis=1), marks.idxmax(axis=1), strict=True):
        if count == 1:
            labels[name] = label
        else:
            problems.append(Problem(str(name), f"{count} classes marked in the label table", "kept unlabelled"))
    return labels, problems


def found_classes(table: pd.DataFrame, column: str, level: Literal["image", "case"] = "image") -> Target:
    """A target whose classes are the names in ``column``, in alphabetical order."""
    return Target(column, tuple(sorted(table[column].dropna().unique())), level=level)
