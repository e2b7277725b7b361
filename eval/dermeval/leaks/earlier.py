"""``--since``: an earlier audit, of which only pairs with a new image are compared again."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from dermeval.leaks.records import AuditedImages
from dermssl.errors import InputError
from dermssl.files import read_json, read_npy, read_parquet, write_parquet
from dermssl.paths import require_folder

VERSION = 5
"""Of the leaks folder; 1 had no scores, 2 no ranking, 3 saw white letters as part of the picture, 4 fewer features."""
FILE = "images.parquet"
TAKEN_OVER = ["score", "kind", "evidence", "hash_bits", "inliers", "matches", "correlation", "overlap", "degrees"]
TAKEN_OVER += ["scale", "mirrored", "matrix"]


class EarlierAudit(NamedTuple):
    """What an earlier audit says about the images of this one.

    ``known`` (N,): images that it compared with each other. ``pairs``: its ranked pairs of these, by rows ``a``, ``b``.
    ``background``: scores of its mirrored pairs. ``layout_start``: see `certainty.layout_start_of`.
    """

    known: np.ndarray
    pairs: pd.DataFrame
    background: np.ndarray
    layout_start: float


def write_images(folder: Path, images: AuditedImages) -> None:
    """Write which images were audited."""
    table = images.frame[["image_id", "group_id", "pixel_sha256"]]
    write_parquet(folder / FILE, pa.Table.from_pandas(table, preserve_index=False))


def open_earlier(folder: Path, images: AuditedImages, every_image: bool) -> EarlierAudit:
    """Open the leaks folder of an earlier audit.

    An image is known if its id, its pixels and its record are the same as then.

    Raises:
        InputError: no leaks folder, one of another version, or one with other records.
    """
    summary = read_json(require_folder(folder, "summary.json", "dermeval leaks") / "summary.json", "dermeval leaks")
    if summary.get("version") != VERSION or not (folder / FILE).is_file():
        raise InputError(f"--since {folder}: it is of another version: audit all images, without --since")
    if summary.get("every_image") != every_image:
        raise InputError(f"--since {folder}: it was made with another --every-image: give the same, or no --since")
    before = read_parquet(folder / FILE, "dermeval leaks").to_pandas()
    columns = ["image_id", "group_id", "pixel_sha256"]
    known = pd.MultiIndex.from_frame(images.frame[columns]).isin(pd.MultiIndex.from_frame(before[columns]))
    ranking = read_parquet(folder / "ranking.parquet", "dermeval leaks").to_pandas()
    kept = ranking["evidence"].map(lambda names: not {"file", "pixels"} & set(names)).to_numpy(bool)
    for end in ("a", "b"):
        ranking[end] = images.rows_of(ranking[f"image_id_{end}"])
        kept = kept & (ranking[end] >= 0).to_numpy() & known[ranking[end]]
    start = summary["certainty"]["layout_start"]
    return EarlierAudit(
        known,
        ranking.loc[kept, ["a", "b", *TAKEN_OVER]],
        np.array(read_npy(folder / "background.npy", "dermeval leaks"), np.float64),
        float("inf") if start is None else start,
    )
