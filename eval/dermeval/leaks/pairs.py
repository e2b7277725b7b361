"""The table of confirmed pairs of images: ``pairs.parquet``."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dermeval.leaks.certainty import SCENE_CORRELATION
from dermeval.leaks.find import Found
from dermeval.leaks.groups import side
from dermeval.leaks.records import Records

IDENTICAL_SCORE = 20.0
SCENE, LESION = "same scene", "same lesion, other photograph"
SCHEMA = pa.schema(
    [
        *[(f"{name}_{end}", pa.string()) for name in ("image_id", "group_id", "dataset", "split") for end in "ab"],
        ("kind", pa.string()),
        ("evidence", pa.list_(pa.string())),
        ("score", pa.float64()),
        ("expected_false", pa.float64()),
        ("false_discovery_rate", pa.float64()),
        ("hash_bits", pa.int64()),
        ("inliers", pa.int64()),
        ("matches", pa.int64()),
        ("correlation", pa.float64()),
        ("overlap", pa.float64()),
        ("degrees", pa.float64()),
        ("scale", pa.float64()),
        ("mirrored", pa.bool_()),
        ("matrix", pa.list_(pa.float64())),
        ("across_splits", pa.bool_()),
        ("across_datasets", pa.bool_()),
        ("labels_agree", pa.bool_()),
        ("leak_group", pa.int64()),
    ]
)
"""Schema of ``pairs.parquet``. ``matrix`` (2 x 3, row by row) maps pixels of the first picture, its short side 128
pixels, to the second one (mirrored first where ``mirrored``)."""


def describe_pairs(found: Found, chosen: pd.DataFrame, records: Records) -> pd.DataFrame:
    """Confirmed pairs with their evidence in words and numbers, the strongest first; ``a`` and ``b`` are rows.

    Args:
        found: all scored candidates.
        chosen: the confirmed ones among ``found.candidates``.
        records: the images.
    """
    compared = _compared(found, chosen)
    identical = found.identical.assign(score=IDENTICAL_SCORE, expected_false=0.0, false_discovery_rate=0.0, kind=SCENE)
    identical["evidence"] = [
        [name for name, present in zip(("file", "pixels"), row, strict=True) if present]
        for row in identical[["file", "pixels"]].to_numpy()
    ]
    table = pd.concat([identical, compared], ignore_index=True)
    table = table.sort_values(["score", "a", "b"], ascending=[False, True, True], kind="stable", ignore_index=True)
    return with_records(table, records)


def _compared(found: Found, chosen: pd.DataFrame) -> pd.DataFrame:
    rows = chosen.index.to_numpy()
    evidence, world = found.evidence[rows], chosen["world"].to_numpy(np.int64)
    take = np.arange(len(rows))
    matrix = evidence["matrix"][take, world].astype(np.float64)
    linear = matrix[:, :, :2]
    known = np.abs(linear).sum(axis=(1, 2)) > 0
    table = chosen[["a", "b", "score", "expected_false", "false_discovery_rate", "hash_bits"]].reset_index(drop=True)
    for name in ("inliers", "matches", "correlation", "overlap"):
        table[name] = evidence[name][take, world]
    table["degrees"] = np.where(
        known, np.rad2deg(np.arctan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1])), np.nan
    )
    table["scale"] = np.where(known, np.sqrt(np.abs(np.linalg.det(linear))), np.nan)
    table["mirrored"] = world == 1
    table["matrix"] = [part.ravel().tolist() if there else None for part, there in zip(matrix, known, strict=True)]
    scene = table["correlation"] >= SCENE_CORRELATION
    table["kind"] = np.where(scene, SCENE, LESION)
    sources = chosen[found.sources].to_numpy(bool)
    table["evidence"] = [[name for name, present in zip(found.sources, row, strict=True) if present] for row in sources]
    return table


def with_records(pairs: pd.DataFrame, records: Records) -> pd.DataFrame:
    """Add what the records of both images are, and what differs between them."""
    table = pairs.assign(a=pairs["a"].astype(int), b=pairs["b"].astype(int))
    for name in ("image_id", "group_id", "dataset", "split"):
        for end in ("a", "b"):
            table[f"{name}_{end}"] = records.frame[name].to_numpy()[table[end]]
    table["across_splits"] = side(table["split_a"]) != side(table["split_b"])
    table["across_datasets"] = table["dataset_a"] != table["dataset_b"]
    table["labels_agree"] = _labels_agree(table, records)
    return table


def _labels_agree(table: pd.DataFrame, records: Records) -> pd.Series:
    """Whether all labels that both images have are equal; null where they share none."""
    shared = np.zeros(len(table), dtype=bool)
    equal = np.ones(len(table), dtype=bool)
    for column in records.labels:
        values = records.frame[column].reset_index(drop=True)
        a, b = (values[table[end]].reset_index(drop=True) for end in ("a", "b"))
        both = (a.notna() & b.notna()).to_numpy()
        shared |= both
        equal &= ~both | (a == b).to_numpy()
    return pd.Series(equal, index=table.index).astype("boolean").mask(~shared)


def to_arrow(pairs: pd.DataFrame) -> pa.Table:
    """The table as it is stored."""
    kinds: dict[str, Any] = {"hash_bits": "Int64", "inliers": "Int64", "matches": "Int64", "mirrored": "boolean"}
    kinds |= {"evidence": object, "matrix": object}
    table = pairs.reindex(columns=SCHEMA.names).astype(kinds)
    table["matrix"] = table["matrix"].where(table["matrix"].notna(), None)
    return pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False)
