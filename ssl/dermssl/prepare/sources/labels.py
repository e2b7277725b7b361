"""Class names from label tables: one-hot columns as the ISIC challenges publish them, or the names themselves."""

from typing import Literal

import pandas as pd

from dermssl.dataset.targets import Target
from dermssl.prepare.sources.source import Problem
from dermssl.prepare.sources.tables import number


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
