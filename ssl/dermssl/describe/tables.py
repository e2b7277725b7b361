"""The tables that a data paper prints, counted from the manifest.

Tables count distinct *units* beside images: the patients, cases or lesions that the data set's splits keep together.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dermssl.dataset.splits import SPLITS
from dermssl.dataset.targets import Target

MISSING = "(missing)"
AGE_EDGES = (0, 5, 12, 17, 30, 45, 60, 75, np.inf)
AGE_NAMES = ("0-4", "5-11", "12-16", "17-29", "30-44", "45-59", "60-74", "75+")
PER_UNIT_EDGES = (1, 2, 3, 4, 5, 6, 11, np.inf)
PER_UNIT_NAMES = ("1", "2", "3", "4", "5", "6-10", "11+")
TECHNICAL = ("unit", "image_id", "dataset", "file", "group_id", "case_id", "fold", "sha256", "pixel_sha256", "phash")


def with_units(frame: pd.DataFrame, group: str) -> tuple[pd.DataFrame, str]:
    """``frame`` with the id of each row's ``group``, else its group_id, as ``unit``; and the plural name of units."""
    own = frame[f"{group}_id"] if f"{group}_id" in frame else pd.Series(None, index=frame.index, dtype=object)
    units = own.where(own.notna(), frame["group_id"] if "group_id" in frame else frame["image_id"])
    return frame.assign(unit=units), f"{group}s"


def all_tables(frame: pd.DataFrame, targets: Mapping[str, Target], group: str) -> dict[str, pd.DataFrame]:
    """All tables by title, as far as ``frame`` (a manifest) has their columns. Missing values have their own row.

    The columns are in the order of the classes of ``targets``. ``group`` is the data set's unit.
    """
    frame, units = with_units(frame, group)
    counted = _counted(units)
    if _known(frame, "fitzpatrick"):
        frame = frame.assign(fitzpatrick=frame["fitzpatrick"].astype("Int8"))
    if _known(frame, "split"):
        present = tuple(side for side in SPLITS if (frame["split"] == side).any())
        frame = frame.assign(split=_ordered(frame["split"], present))
    tables = {}
    for place in (name for name in ("country", "centre") if _known(frame, name)):
        tables[f"{counted} per {place}"] = _counts(frame, place, units)
    for name, target in targets.items():
        frame = frame.assign(**{name: _ordered(frame[target.column], target.classes)})
        tables[f"{counted} per {name}"] = _counts(frame, name, units)
        for other, title in (("centre", "centre"), ("body_site", "body site"), ("split", "split")):
            if _known(frame, other):
                tables[f"{units} per {title} and {name}"] = _cross(frame, other, name)
        if _known(frame, "centre") and units != "images":
            tables[f"images per centre and {name}"] = _cross(frame.assign(unit=frame["image_id"]), "centre", name)
    tables |= _people(frame, units) | _pictures(frame, units)
    tables["missing values"] = _missing(frame)
    return tables


def _counted(units: str) -> str:
    return "images" if units == "images" else f"{units} and images"


def _known(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and frame[name].notna().any()


def _people(frame: pd.DataFrame, units: str) -> dict[str, pd.DataFrame]:
    """The tables of skin type, age and sex."""
    tables, counted = {}, _counted(units)
    for name, title in (("fitzpatrick", "Fitzpatrick type"), ("skin_tone", "skin tone"), ("tone_group", "tone group")):
        scale = frame["skin_tone_scale"].dropna().unique().tolist() if _known(frame, "skin_tone_scale") else []
        if _known(frame, name) and not (name == "skin_tone" and scale == ["fitzpatrick"]):
            tables[f"{counted} per {title}"] = _counts(frame, name, units)
    if _known(frame, "age"):
        banded = frame.assign(age=_bands(frame["age"], AGE_EDGES, AGE_NAMES))
        tables[f"{units} per age and sex"] = _cross(banded, "age", "sex")
        tables["age in years"] = _spread(frame.drop_duplicates("unit")["age"], f"{units} (first record of each)")
    elif _known(frame, "sex"):
        tables[f"{counted} per sex"] = _counts(frame, "sex", units)
    return tables


def _pictures(frame: pd.DataFrame, units: str) -> dict[str, pd.DataFrame]:
    """The tables of images per unit, splits and image sizes."""
    tables, counted = {}, _counted(units)
    if units != "images":
        per_unit = frame["unit"].value_counts()
        banded = _bands(per_unit, PER_UNIT_EDGES, PER_UNIT_NAMES).value_counts(sort=False)
        tables[f"images per {units[:-1]}"] = banded.rename_axis("images").rename(units).to_frame()
        tables[f"images per {units[:-1]}, spread"] = _spread(per_unit, "all")
    if _known(frame, "split"):
        tables[f"{counted} per split"] = _counts(frame, "split", units)
    if "width" in frame:
        sizes = frame[["width", "height"]]
        sizes = sizes.assign(**{"short side": sizes.min(axis=1)})
        tables["image size in pixels"] = pd.concat([_spread(sizes[name], name) for name in sizes])
    return tables


def _ordered(values: pd.Series, classes: tuple[str, ...]) -> pd.Series:
    return values.astype(pd.CategoricalDtype(list(classes), ordered=True))


def _bands(values: pd.Series, edges: tuple[float, ...], names: tuple[str, ...]) -> pd.Series:
    return pd.cut(values.astype(float), list(edges), right=False, labels=list(names))


def _with_missing(values: pd.Series) -> pd.Series:
    """Values as ordered categories; the last one is `MISSING` if any value is."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        order = list(values.cat.categories)
    else:
        order = sorted(values.dropna().unique())
    values = values.astype(object)
    if values.isna().any():
        order.append(MISSING)
    return values.where(values.notna(), MISSING).astype(pd.CategoricalDtype(order, ordered=True))


def _counts(frame: pd.DataFrame, name: str, units: str) -> pd.DataFrame:
    """The numbers of distinct units and of images per value of ``name``."""
    values = _with_missing(frame[name]).rename(name)
    grouped = frame.groupby(values, observed=False)
    if units == "images":
        return grouped.size().rename("images").to_frame()
    return pd.DataFrame({units: grouped["unit"].nunique(), "images": grouped.size()})


def _cross(frame: pd.DataFrame, rows: str, columns: str) -> pd.DataFrame:
    """The number of distinct units per pair of values. The column ``all`` counts the distinct units of a row."""
    frame = frame.explode(rows) if rows == "body_site" else frame  # an image of two body sites counts for both
    keys = [_with_missing(frame[name]).rename(name) for name in (rows, columns)]
    table = frame.groupby(keys, observed=False)["unit"].nunique().unstack(fill_value=0)
    table.columns = pd.Index([str(name) for name in table.columns], name=columns)
    return table.assign(all=frame.groupby(keys[0], observed=False)["unit"].nunique())


def _spread(values: pd.Series, name: str) -> pd.DataFrame:
    """Minimum, quartiles, maximum, mean and number of the values that are known."""
    known = values.dropna().astype(float)
    numbers = {"min": known.min(), "25%": known.quantile(0.25), "median": known.median(), "75%": known.quantile(0.75)}
    numbers |= {"max": known.max(), "mean": round(known.mean(), 2), "known": len(known)}
    return pd.DataFrame(numbers, index=pd.Index([name], name=""))


def _missing(frame: pd.DataFrame) -> pd.DataFrame:
    """The number and share of images without a value, for all columns but `TECHNICAL`."""
    columns = [name for name in frame.columns if name not in TECHNICAL]
    without = frame[columns].isna().sum()
    table = pd.DataFrame({"images without": without, "share": (without / len(frame)).round(3)})
    return table[without > 0].rename_axis("column").sort_values("images without", ascending=False, kind="stable")
