"""What a source declares (where it is from, its units and targets), and what the reading of its layout gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.prepare.problems import Problem


@dataclass(frozen=True)
class Source:
    """One known data set. ``group`` and ``case`` name the unit kept together and the unit scored as one."""

    name: str
    title: str
    licence: str
    citation: str
    where: str
    layout: str
    group: str
    case: str
    reader: Callable[[Any], "Rows"]
    """Reads the layout of a `dermssl.prepare.raw.RawFolder`."""
    targets: dict[str, Target] = field(default_factory=dict)
    modality: str | None = None
    """``clinical`` or ``dermoscopic``, where all images are of one kind."""
    patient_key: bool = True
    """False: patient leakage cannot be ruled out, and every report says so."""
    overlaps: tuple[str, ...] = ()
    """Sources known to share images or lesions with this one; saying it on one of the two is enough."""


@dataclass
class Rows:
    """What a source read: one row per image with its ``file`` (below the root), raw ids and labels."""

    frame: pd.DataFrame
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was taken for what, where the source had to find out."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Further targets than the source's, with classes that stand in the table alone."""
    source: Source | None = None
    """The source with terms and units that reading found out; None: as declared."""
