"""The values of a table, each read from the spellings in use: missing, numbers, age, sex, skin type and so on."""

import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any

MISSING = {
    *("", "nan", "none", "null", "nil", "na", "n/a", "n.a.", "#n/a", "<na>"),
    *("?", "??", ".", "-", "--", "---", "unknown", "unk", "undefined", "unspecified", "missing", "blank", "no data"),
    *(f"not {word}" for word in ("available", "applicable", "known", "recorded", "reported", "specified", "given")),
    *("unbekannt", "keine angabe", "k.a.", "k. a.", "inconnu", "inconnue", "non renseigné"),
    *("desconocido", "desconhecido"),
}
"""Words for missing, in lower case and without brackets around them."""
MISSING_NUMBERS = {-1, -9, -99, -999}
"""Numbers for missing in columns without other negative numbers."""
OLDEST = 120
"""The highest age that is read, in years."""
UNITS = {
    1: " y yr yrs year years yo a an ans année années año años ano anos jahr jahre",
    1 / 12: "m mo mos month months mois mes meses monat monate",
    7 / 365.25: "w wk wks week weeks semaine semaines semana semanas woche wochen",
    1 / 365.25: "d day days jour jours día días dia dias tag tage",
}
YEARS = {unit: years for years, units in UNITS.items() for unit in units.split(" ")}
AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([^\W\d_]*)\.?\s*")


def _words(**spellings: str) -> dict[str, str]:
    """The meaning of every spelling."""
    return {word: meaning for meaning, words in spellings.items() for word in words.split()}


SEX = _words(
    female="f fem female w woman girl ♀ femme féminin feminin fille weibl weiblich frau mujer femenino feminino mulher",
    male="m masc male man boy ♂ homme masculin garçon männl männlich mann hombre masculino homem",
)
MODALITY = _words(
    clinical="clinical clinic macroscopic macro close-up overview smartphone photo photograph",
    dermoscopic="dermoscopic dermoscopy dermoscope derm dermatoscopic dermatoscopy dermatoscope",
)
SPLIT = _words(
    train="train training trn entrenamiento treino entraînement entrainement",
    val="val valid validation dev eval evaluation validación validação",
    test="test testing tst holdout hold-out prueba teste",
)
TYPE_WORDS = "fitzpatrick|fitz|skin|photo|type|typ|tipo|fst|fpt|fp|st"
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6}


def clean(value: object) -> str | None:
    """The stripped text of ``value``, None for any spelling in `MISSING`."""
    text = str(value).strip()
    return None if text.lower().strip("()[]") in MISSING else text


def read_number(value: object) -> float | None:
    """The number in "35" or "35,5"; None if there is no finite one."""
    try:
        parsed = float(str(value).strip().replace(",", "."))
    except ValueError:
        return None
    return parsed if math.isfinite(parsed) else None


def age(text: str) -> float | None:
    """The years in "35", "85+", ">85", "18 months" or "2 years 6 months"; None for any other text."""
    text = re.sub(
        r"^(>=|>|≥)|\+|\b(or|and) (older|over|above)\b|\b(old|of age)\b",
        " ",
        text.lower().replace("y/o", "yo").replace(",", "."),
    )
    parts = AMOUNT.findall(text)
    units = [unit for _, unit in parts]
    if not parts or AMOUNT.sub("", text).strip() or not set(units) <= set(YEARS) or (len(parts) > 1 and "" in units):
        return None
    years = sum(float(amount) * YEARS[unit] for amount, unit in parts)
    return years if years <= OLDEST else None


def sex(text: str) -> str | None:
    """``female`` or ``male``; None for any other text."""
    return SEX.get(text.lower().strip(" ."))


def fitzpatrick(text: str) -> int | None:
    """The Fitzpatrick type 1-6 in "3", "III", "type 3" or "FST III"; None for any other text."""
    plain = unicodedata.normalize("NFKC", text).lower()
    found = re.fullmatch(rf"(?:{TYPE_WORDS}|[\s:_.-])*0?([1-6]|i{{1,3}}|iv|vi?)(?:\.0*)?", plain)
    return (ROMAN.get(found[1]) or int(found[1])) if found else None


def body_sites(text: str) -> list[str] | None:
    """The names in "arm; leg"; None if there is none."""
    return [site for site in map(clean, text.split(";")) if site] or None


def modality(text: str) -> str | None:
    """``clinical`` or ``dermoscopic`` from the words before a ``:``; None for any other text."""
    return MODALITY.get(text.lower().split(":")[0].strip())


def malignancy(text: str) -> str | None:
    """``malignant`` or ``benign`` from "1", "1.0", "True", "0" and so on; None for any other text."""
    marks = {"1": "malignant", "true": "malignant", "0": "benign", "false": "benign"}
    return marks.get(text.lower().removesuffix(".0"))


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
"""How the fixed columns of the manifest are read. Other columns are text unless a source gives a reader."""
