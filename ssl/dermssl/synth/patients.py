"""The patients of a synthetic data set: label rows, numbers of photos and splits, in PASSION's proportions.

The shares are those of the public tables (Gottfrois et al., MICCAI 2024), of the whole data set and no single patient.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermssl.dataset.splits import draw_split
from dermssl.errors import InputError
from dermssl.paths import require_name
from dermssl.prepare.sources.passion import CONDITIONS, IMPETIGO, LABEL_COLUMNS
from dermssl.prepare.tables import read_table
from dermssl.prepare.values import fitzpatrick

COUNTRIES = {"Madagascar": 0.596, "Guinea": 0.232, "Malawi": 0.158, "Tanzania": 0.014}
CONDITION_SHARES = {
    "Madagascar": (0.306, 0.304, 0.029, 0.361),
    "Guinea": (0.148, 0.599, 0.102, 0.151),
    "Malawi": (0.138, 0.192, 0.452, 0.218),
    "Tanzania": (0.87, 0.0, 0.13, 0.0),
}
FITZPATRICK_SHARES = {
    "Madagascar": (0.0, 0.0, 0.232, 0.449, 0.311, 0.008),
    "Guinea": (0.0, 0.0, 0.01, 0.003, 0.008, 0.979),
    "Malawi": (0.004, 0.0, 0.46, 0.149, 0.387, 0.0),
    "Tanzania": (0.0, 0.0, 0.04, 0.18, 0.78, 0.0),
}
IMPETIGO_SHARE = {"Eczema": 0.106, "Fungal": 0.031, "Others": 0.497, "Scabies": 0.074}
MEAN_AGE = {"Madagascar": 24.7, "Guinea": 19.0, "Malawi": 4.6, "Tanzania": 3.4}
MALE_SHARE = 0.582
NO_SITE_SHARE = 0.082
SITES = ("torso", "arm", "leg", "back", "pelvic", "hand", "hair", "face", "foot")
SITE_SHARES = {
    "Eczema": (0.144, 0.194, 0.174, 0.107, 0.04, 0.047, 0.04, 0.196, 0.058),
    "Fungal": (0.171, 0.095, 0.095, 0.118, 0.05, 0.059, 0.299, 0.06, 0.053),
    "Others": (0.135, 0.141, 0.157, 0.135, 0.12, 0.004, 0.12, 0.18, 0.008),
    "Scabies": (0.181, 0.159, 0.15, 0.145, 0.178, 0.149, 0.002, 0.006, 0.03),
}
SITE_COUNT_SHARES = (0.665, 0.129, 0.087, 0.054, 0.065)
PHOTOS_PER_PATIENT = {"Madagascar": 2185 / 985, "Guinea": 480 / 384, "Malawi": 2150 / 261, "Tanzania": 86 / 23}
SINGLE_PHOTO_SHARE = {"Madagascar": 0.33, "Guinea": 0.80, "Malawi": 0.0, "Tanzania": 0.0}
MOST_PHOTOS = 18
TEST_FRACTION = 0.2


def invent_patients(count: int, random: np.random.Generator) -> pd.DataFrame:
    """``count`` invented rows of ``label.csv``, as text in the official columns and spellings."""
    return pd.DataFrame([_draw_patient(number, random) for number in range(1, count + 1)], columns=list(LABEL_COLUMNS))


def _draw_patient(number: int, random: np.random.Generator) -> dict[str, str]:
    country = _choose(list(COUNTRIES), tuple(COUNTRIES.values()), random)
    condition = _choose(CONDITIONS, CONDITION_SHARES[country], random)
    age = min(97, random.gamma(1.8, MEAN_AGE[country] / 1.8))
    number_of_sites = _choose((1, 2, 3, 4, 5), SITE_COUNT_SHARES, random)
    sites = random.choice(SITES, size=number_of_sites, replace=False, p=_shares(SITE_SHARES[condition]))
    return {
        "subject_id": synthetic_id(number),
        "country": country,
        "age": str(int(age)),
        "sex": "m" if random.random() < MALE_SHARE else "f",
        "fitzpatrick": str(_choose((1, 2, 3, 4, 5, 6), FITZPATRICK_SHARES[country], random)),
        "body_loc": "" if random.random() < NO_SITE_SHARE else "; ".join(sites),
        "impetig": "1.0" if random.random() < IMPETIGO_SHARE[condition] else "0.0",
        "conditions_PASSION": condition,
    }


def synthetic_id(number: int) -> str:
    """The subject id of an invented patient. No real id starts with SYN."""
    return f"SYN{number:07d}"


def _shares(weights: Sequence[float]) -> np.ndarray:
    return np.array(weights) / np.sum(weights)


def _choose(values: Sequence[Any], weights: Sequence[float], random: np.random.Generator) -> Any:
    return values[random.choice(len(values), p=_shares(weights))]


def read_patients(path: Path) -> pd.DataFrame:
    """A real ``label.csv`` as text, "" where missing. Raises InputError for rows that cannot be drawn."""
    table = read_table(path, LABEL_COLUMNS)
    for subject in table["subject_id"]:
        require_name(subject or "", f"{path}: subject_id")
    for column, valid in (("conditions_PASSION", set(CONDITIONS)), ("impetig", set(IMPETIGO))):
        for subject, value in table[["subject_id", column]][~table[column].isin(valid)].to_numpy():
            one_of = ", ".join(sorted(valid))
            raise InputError(f"{path}: subject {subject} has {column} '{value}': it must be one of {one_of}")
    untyped = table["fitzpatrick"].map(fitzpatrick).isna()
    for subject in table["subject_id"][untyped]:
        raise InputError(f"{path}: subject {subject} has no Fitzpatrick type from 1 to 6: give one")
    for subject in table["subject_id"][table["subject_id"].duplicated()]:
        raise InputError(f"{path}: subject {subject} has two rows: keep one")
    return table[list(LABEL_COLUMNS)].fillna("")


def draw_photo_counts(countries: pd.Series, random: np.random.Generator) -> np.ndarray:
    """Photos per patient ``(N,)``, 1 to 18. Their sum per country is PASSION's mean times the patients, rounded."""
    counts = np.ones(len(countries), dtype=int)
    for country in sorted(set(countries)):
        rows = np.flatnonzero(countries == country)
        like = country if country in PHOTOS_PER_PATIENT else "Madagascar"
        counts[rows] = _counts_of_country(len(rows), like, random)
    return counts


def _counts_of_country(patients: int, country: str, random: np.random.Generator) -> np.ndarray:
    mean, single = PHOTOS_PER_PATIENT[country], SINGLE_PHOTO_SHARE[country]
    total = round(patients * mean)
    beyond_two = max(0.1, (mean - single) / (1 - single) - 2)
    counts = 2 + np.round(random.gamma(1.5, beyond_two / 1.5, size=patients)).astype(int)
    counts[random.permutation(patients)[: round(single * patients)]] = 1
    counts = counts.clip(1, MOST_PHOTOS)
    while counts.sum() != total:
        step = 1 if counts.sum() < total else -1
        movable = np.flatnonzero((counts > 1) & (counts + step >= 2) & (counts + step <= MOST_PHOTOS))
        if not len(movable):
            movable = np.arange(patients)
        counts[random.choice(movable)] += step
    return counts


def draw_splits(labels: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows of ``PASSION_split.csv`` for ``labels``: a fifth is TEST, stratified by condition."""
    fractions = {"TRAIN": 1 - TEST_FRACTION, "TEST": TEST_FRACTION}
    sides = draw_split(labels["subject_id"], labels["conditions_PASSION"], fractions, seed)
    return pd.DataFrame({"subject_id": labels["subject_id"], "Split": sides})
