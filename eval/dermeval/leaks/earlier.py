"""``--since``: an earlier audit, whose results are taken over for all pairs without a new image."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dermeval.leaks.records import AuditedImages, closed_sets
from dermssl.errors import InputError
from dermssl.files import read_json, read_npy, read_parquet, reading, require_unchanged
from dermssl.paths import require_folder

VERSION = 12
"""Version of the leaks folder; the results of another version are neither taken over nor reviewed."""
FILE, RANKING, BACKGROUND = HASHED = ("images.parquet", "ranking.parquet", "background.npy")
"""Files that later commands read; ``summary.json`` holds their hashes."""
IDENTITY = ["image_id", "group_id", "pixel_sha256"]
TAKEN_OVER = ["score", "kind", "evidence", "hash_bits", "inliers", "matches", "correlation", "overlap", "degrees"]
TAKEN_OVER += ["scale", "mirrored", "matrix", "false_discovery_rate"]


class EarlierAudit(NamedTuple):
    """The results of an earlier audit for the images of this one; by default there are none.

    ``known`` (N,): images that it compared with each other. ``pairs``: its ranked pairs of these, as rows ``a``, ``b``.
    ``background``: the scores of its mirrored pairs. ``hidden``: how much overlays hid in it
    (`find.ScoredPairs.hidden`).
    """

    known: np.ndarray
    pairs: pd.DataFrame = pd.DataFrame(columns=["a", "b", *TAKEN_OVER])
    background: np.ndarray = np.zeros(0)
    hidden: dict[str, Any] | None = None

    def compared(self, pairs: pd.DataFrame | np.ndarray) -> np.ndarray:
        """Which pairs ``(P, 2)`` of rows the earlier audit compared."""
        return np.all(self.known[np.asarray(pairs, np.int64)], axis=1)

    def likely(self, rate: float) -> np.ndarray:
        """The ranked pairs ``(L, 2)`` of which at most this share (``rate``) was expected to be false."""
        return self.pairs.loc[self.pairs["false_discovery_rate"] <= rate, ["a", "b"]].to_numpy(np.int64)


def open_earlier(since: str | None, images: AuditedImages, every_image: bool) -> EarlierAudit:
    """Open the leaks folder of an earlier audit; InputError if its version, --every-image or a licence differs.

    An image is known if its id, its pixels and its record have not changed.
    """
    if since is None:
        return EarlierAudit(np.zeros(len(images.frame), bool))
    folder = Path(since)
    summary = read_json(require_folder(folder, "summary.json", "dermeval leaks") / "summary.json", "dermeval leaks")
    if summary.get("version") != VERSION:
        raise InputError(f"--since {folder} was made by another version: audit all images, without --since")
    if summary.get("every_image") != every_image:
        raise InputError(f"--since {folder} was made with another --every-image: give the same, or no --since")
    with reading(folder / "summary.json", "dermeval leaks"):
        for name in HASHED:
            require_unchanged(folder / name, summary["sha256"], "dermeval leaks")
        both = {one["name"] for one in images.datasets} & {one["name"] for one in summary["datasets"]}
        now, then = (closed_sets(licences) for licences in (images.licences, summary["licences"]))
    for name in sorted((now ^ then) & both):
        raise InputError(f"--since {folder}: {name} had another licence then: audit all images, without --since")
    before = read_parquet(folder / FILE, "dermeval leaks", IDENTITY).to_pandas()
    known = pd.MultiIndex.from_frame(images.frame[IDENTITY]).isin(pd.MultiIndex.from_frame(before[IDENTITY]))
    names = ["image_id_a", "image_id_b", *TAKEN_OVER]
    ranking = read_parquet(folder / RANKING, "dermeval leaks", names).to_pandas()
    kept = ranking["evidence"].map(lambda names: not {"file", "pixels"} & set(names)).to_numpy(bool)
    for end in ("a", "b"):
        ranking[end] = images.rows_of(ranking[f"image_id_{end}"])
        kept = kept & (ranking[end] >= 0).to_numpy() & known[ranking[end]]
    return EarlierAudit(
        known,
        ranking.loc[kept, ["a", "b", *TAKEN_OVER]],
        np.array(read_npy(folder / BACKGROUND, "dermeval leaks"), np.float64),
        summary.get("hidden"),
    )


def changed_since(folder: Path, images: AuditedImages) -> pd.Series:
    """The ids of ``images`` that had other pixels when the audit in the leaks folder ``folder`` was made."""
    audited = read_parquet(folder / FILE, "dermeval leaks", IDENTITY).to_pandas()
    now = images.frame.set_index("image_id")["pixel_sha256"].reindex(audited["image_id"])
    return audited["image_id"][now.notna().to_numpy() & (now.to_numpy() != audited["pixel_sha256"].to_numpy())]
