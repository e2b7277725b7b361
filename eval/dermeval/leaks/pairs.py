"""The ranking of pairs of images by score, with their evidence, and the files that hold it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dermeval.features.alignment import SCENE_CORRELATION
from dermeval.leaks import certainty
from dermeval.leaks.earlier import RANKING, EarlierAudit
from dermeval.leaks.find import ScoredPairs
from dermeval.leaks.groups import side
from dermeval.leaks.records import AuditedImages
from dermssl.errors import InputError
from dermssl.files import read_parquet, write_csv, write_parquet
from dermssl.paths import inside

IDENTICAL_SCORE = 20.0
SCENE, LESION = "same scene", "same lesion, other photograph"
SCHEMA = pa.schema(
    [
        *[(f"{name}_{end}", pa.string()) for name in ("image_id", "group_id", "dataset", "split") for end in "ab"],
        *[("kind", pa.string()), ("evidence", pa.list_(pa.string()))],
        *[(name, pa.float64()) for name in ("score", "expected_false", "false_discovery_rate")],
        *[(name, pa.int64()) for name in ("hash_bits", "inliers", "matches")],
        *[(name, pa.float64()) for name in ("correlation", "overlap", "degrees", "scale")],
        *[("mirrored", pa.bool_()), ("matrix", pa.list_(pa.float64()))],
        *[(name, pa.bool_()) for name in ("across_splits", "across_datasets", "labels_agree")],
        *[("leak_group", pa.int64()), ("confirmed", pa.bool_())],
    ]
)
"""Schema of ``pairs.parquet`` and ``ranking.parquet``. ``matrix`` (2 x 3, row by row) maps pixels of the first picture
to the second, which is mirrored first if ``mirrored``; both are without a frame and have a short side of 128 pixels."""


def rank_pairs(found: ScoredPairs, least: int, images: AuditedImages, earlier: EarlierAudit) -> pd.DataFrame:
    """The strongest pairs with their evidence, highest score first; ``a`` and ``b`` are rows of the images.

    These are at least ``least`` pairs, if so many score above 0, and all with a false-discovery rate up to 0.5. The
    ranked pairs of the ``earlier`` audit are added.
    """
    count = max(least - len(found.identical), int((found.candidates["false_discovery_rate"] <= 0.5).sum()))
    chosen = found.candidates.sort_values(["score", "a", "b"], ascending=[False, True, True]).head(count)
    sure = {"expected_false": 0.0, "most_false": 0.0, "false_discovery_rate": 0.0}
    identical = found.identical.assign(score=IDENTICAL_SCORE, kind=SCENE, **sure)
    identical["evidence"] = _named(found.identical, ["file", "pixels"])
    compared = _compared(found, chosen[chosen["score"] > 0])
    if len(earlier.pairs):
        compared = pd.concat([compared, earlier.pairs], ignore_index=True)
    scores = compared["score"].to_numpy(float)
    compared["expected_false"] = found.background.expected_false(scores)
    compared["most_false"] = found.background.most_false(scores)
    compared["false_discovery_rate"] = certainty.false_discovery_rate(scores, compared["most_false"].to_numpy())
    table = pd.concat([identical, compared], ignore_index=True)
    table = table.sort_values(["score", "a", "b"], ascending=[False, True, True], kind="stable", ignore_index=True)
    return _with_records(table, images)


def _named(table: pd.DataFrame, columns: list[str]) -> list[list[str]]:
    """For each row the names of the columns that are true."""
    rows = table[columns].to_numpy(bool)
    return [[name for name, present in zip(columns, row, strict=True) if present] for row in rows]


def _compared(found: ScoredPairs, chosen: pd.DataFrame) -> pd.DataFrame:
    world, take = chosen["world"].to_numpy(np.int64), np.arange(len(chosen))
    evidence = found.evidence[chosen.index.to_numpy()]
    matrix = evidence["matrix"][take, world].astype(np.float64)
    linear = matrix[:, :, :2]
    known = np.abs(linear).sum(axis=(1, 2)) > 0
    turn = np.arctan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1])
    table = chosen[["a", "b", "score", "hash_bits"]].reset_index(drop=True)
    for name in ("inliers", "matches", "correlation", "overlap"):
        table[name] = evidence[name][take, world]
    return table.assign(
        degrees=np.where(known, np.rad2deg(turn), np.nan),
        scale=np.where(known, np.sqrt(np.abs(np.linalg.det(linear))), np.nan),
        mirrored=world == 1,
        matrix=[part.ravel().tolist() if there else None for part, there in zip(matrix, known, strict=True)],
        kind=np.where(table["correlation"] >= SCENE_CORRELATION, SCENE, LESION),
        evidence=_named(chosen, found.sources),
    )


def _with_records(pairs: pd.DataFrame, images: AuditedImages) -> pd.DataFrame:
    """Add ids, data sets and splits of both images, and whether splits, data sets and labels differ."""
    table = pairs.assign(a=pairs["a"].astype(int), b=pairs["b"].astype(int))
    for name in ("image_id", "group_id", "dataset", "split"):
        for end in ("a", "b"):
            table[f"{name}_{end}"] = images.frame[name].to_numpy()[table[end]]
    table["across_splits"] = side(table["split_a"]) != side(table["split_b"])
    table["across_datasets"] = table["dataset_a"] != table["dataset_b"]
    table["labels_agree"] = _labels_agree(table, images)
    return table


def _labels_agree(table: pd.DataFrame, images: AuditedImages) -> pd.Series:
    """Whether all labels that both images have are equal; null if no label is known for both."""
    shared, equal = np.zeros(len(table), dtype=bool), np.ones(len(table), dtype=bool)
    for column in images.labels:
        a, b = (images.frame[column].iloc[table[end]].reset_index(drop=True) for end in ("a", "b"))
        both = (a.notna() & b.notna()).to_numpy()
        shared |= both
        equal &= ~both | (a == b).to_numpy()
    return pd.Series(equal, index=table.index).astype("boolean").mask(~shared)


def write_pairs(path: Path, pairs: pd.DataFrame) -> None:
    """Write ``pairs.parquet`` or ``ranking.parquet``."""
    kinds: dict[str, Any] = {"hash_bits": "Int64", "inliers": "Int64", "matches": "Int64", "leak_group": "Int64"}
    kinds |= {"mirrored": "boolean", "evidence": object, "matrix": object}
    table = pairs.reindex(columns=SCHEMA.names).astype(kinds)
    table["matrix"] = table["matrix"].where(table["matrix"].notna(), None)
    write_parquet(path, pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False))


def write_ranking(folder: Path, ranking: pd.DataFrame) -> None:
    """Write ``ranking.parquet``, and ``ranking.csv`` with the same pairs."""
    write_pairs(folder / RANKING, ranking)
    shown = ranking.assign(rank=range(1, len(ranking) + 1), evidence=ranking["evidence"].map(" + ".join))
    columns = ["rank", *[name for name in SCHEMA.names if name not in ("matrix", "leak_group") and name in shown]]
    write_csv(folder / "ranking.csv", shown[columns].round(5))


def read_ranking(folder: Path, images: AuditedImages) -> pd.DataFrame:
    """``ranking.parquet`` with the rows ``a``, ``b`` of the images, and their present records, splits and labels.

    Raises InputError: an image is not in its data set.
    """
    pairs = read_parquet(inside(folder, RANKING), "dermeval leaks", SCHEMA.names).to_pandas()
    for end in ("a", "b"):
        pairs[end] = images.rows_of(pairs[f"image_id_{end}"])
        for lost in pairs.loc[pairs[end] < 0, f"image_id_{end}"]:
            raise InputError(f"{folder}: image {lost} is no longer in its data set: audit again with `dermeval leaks`")
    return _with_records(pairs, images)
