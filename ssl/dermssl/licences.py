"""The licences of data sets, and the notices that go with everything made from the data."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, StrictBool


@dataclass(frozen=True)
class Licence:
    """The terms of one licence that software can help to keep."""

    id: str
    name: str
    duties: tuple[str, ...]
    commercial: bool = False
    redistribution: bool = True
    relinking: bool = True
    """False if the licence forbids joining records of one person, within the data set or with other data."""


_ATTRIBUTE = "Name the source wherever you publish results or derived material."
_NON_COMMERCIAL = "Non-commercial use only, adapted material (encoders, embeddings) included."

LICENCES = {
    licence.id: licence
    for licence in (
        Licence(
            "PASSION",
            "PASSION Data Public License",
            (
                _NON_COMMERCIAL,
                _ATTRIBUTE,
                "Keep the licence notice with the data and state what you changed.",
                "Never try to re-identify a person or to re-link records: it ends your rights.",
                "Never upload the images anywhere; share only the website link https://passionderm.github.io/.",
            ),
            redistribution=False,
            relinking=False,
        ),
        Licence("CC-BY-4.0", "Creative Commons Attribution 4.0", (_ATTRIBUTE,), commercial=True),
        Licence("CC-BY-NC-4.0", "Creative Commons Attribution-NonCommercial 4.0", (_NON_COMMERCIAL, _ATTRIBUTE)),
        Licence(
            "CC-BY-NC-SA-3.0",
            "Creative Commons Attribution-NonCommercial-ShareAlike 3.0",
            (_NON_COMMERCIAL, _ATTRIBUTE, "Share adapted material under the same licence."),
        ),
        Licence("Apache-2.0", "Apache License 2.0", (_ATTRIBUTE,), commercial=True),
        Licence("MIT", "MIT License", (_ATTRIBUTE,), commercial=True),
        Licence("BSD-3-Clause", "BSD 3-Clause License", (_ATTRIBUTE,), commercial=True),
        Licence("CC0-1.0", "Creative Commons Zero 1.0", (), commercial=True),
        Licence(
            "SCIN",
            "SCIN Data Use License",
            (_ATTRIBUTE, "Never try to re-identify a person or to re-link records."),
            commercial=True,
            relinking=False,
        ),
        Licence(
            "research-agreement",
            "Research use agreement of the data set's owner",
            (_NON_COMMERCIAL, _ATTRIBUTE, "Do not pass the data on: others sign the agreement themselves."),
            redistribution=False,
        ),
        Licence(
            "unknown",
            "No licence recorded",
            ("Find out the licence before you publish or pass on anything made from it.",),
            redistribution=False,
        ),
    )
}


class Notice(BaseModel):
    """The content of one licence notice, see `notice`."""

    dataset: str
    id: str
    name: str
    attribution: str
    duties: list[str]
    commercial: StrictBool
    redistribution: StrictBool
    relinking: StrictBool
    synthetic: StrictBool


def notice(dataset: str, licence_id: str, attribution: str, synthetic: bool) -> dict[str, Any]:
    """The licence notice of one data set, as it is written to JSON."""
    terms = asdict(LICENCES[licence_id])
    return Notice(dataset=dataset, attribution=attribution, synthetic=synthetic, **terms).model_dump()


def merge(notices: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The notices of pooled data: one per data set and licence, in the order of their first appearance."""
    return list({(entry["dataset"], entry["id"]): entry for entry in notices}.values())


def restricted(notices: Iterable[dict[str, Any]]) -> list[str]:
    """The data sets whose images and ids must not be passed on: no redistribution, or no re-linking of records."""
    return [entry["dataset"] for entry in notices if not (entry["redistribution"] and entry["relinking"])]


def unrecorded(notices: Iterable[dict[str, Any]]) -> str:
    """For a refusal of `restricted` data: those of which no licence is recorded. Empty if there are none."""
    names = ", ".join(entry["dataset"] for entry in notices if entry["id"] == "unknown")
    remedy = "`dermssl prepare --licence` records one"
    return f" (no licence of {names} is recorded, which counts as one that forbids it; {remedy})" if names else ""


def notice_lines(notices: Iterable[dict[str, Any]]) -> list[str]:
    """Notices as lines of text for the end of a report or model card."""
    text = []
    for entry in notices:
        synthetic = "SYNTHETIC data, made by dermssl; " if entry["synthetic"] else ""
        text.append(f"{entry['dataset']}: {synthetic}{entry['name']}. {entry['attribution']}".rstrip())
        text += [f"  - {duty}" for duty in entry["duties"]]
    return text
