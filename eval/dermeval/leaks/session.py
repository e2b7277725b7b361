"""A review under way: the ranked pairs of an audit, what was decided about them, and which pair comes next."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from dermeval.leaks.alignment import SHORT_SIDE
from dermeval.leaks.decisions import (
    COLUMNS,
    DECISIONS,
    REJECT,
    STOP_AFTER,
    decided,
    kept_pairs,
    read_decisions,
    write_decisions,
    write_results,
)
from dermeval.leaks.pairs import read_ranking
from dermeval.leaks.pictures import grey_size, pixels
from dermeval.leaks.records import open_audited
from dermssl.errors import InputError
from dermssl.files import read_json, write_json
from dermssl.paths import inside, require_folder


class ReviewSession:
    """Asks about the pairs of a leaks folder, the strongest first, and saves each decision at once.

    Pairs below the threshold are asked about too, after the confirmed ones, until enough in a row were rejected.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = require_folder(folder, "summary.json", "dermeval leaks")
        self.summary = read_json(inside(folder, "summary.json"), "dermeval leaks")
        if not (folder / "ranking.parquet").is_file():
            raise InputError(f"{folder} is of an older version: audit again with `dermeval leaks`")
        self.images = open_audited([one["path"] for one in self.summary["datasets"]], self.summary["every_image"])
        self.pairs = read_ranking(folder, self.images)
        self.decisions = read_decisions(folder)
        self.gone = len(self.decisions) - int(decided(self.pairs, self.decisions).notna().sum())

    def waiting(self) -> list[int]:
        """The pairs that nobody has decided about, in the order in which they are asked."""
        return np.flatnonzero(decided(self.pairs, self.decisions).isna()).tolist()

    def enough(self) -> bool:
        """Whether the last decisions were `STOP_AFTER` rejections."""
        return len(self.decisions) >= STOP_AFTER and bool((self.decisions["decision"][-STOP_AFTER:] == REJECT).all())

    def decide(self, pair: int, decision: str) -> None:
        """Save a decision about one pair; it takes the place of an earlier one."""
        ids = self.pairs.loc[pair, COLUMNS[:2]].tolist()
        others = self.decisions[(self.decisions[COLUMNS[:2]] != ids).any(axis=1)]
        row = pd.DataFrame([[*ids, decision]], columns=COLUMNS)
        self.decisions = pd.concat([others, row], ignore_index=True) if len(others) else row
        write_decisions(self.folder, self.decisions)

    def undo(self) -> int | None:
        """Take the last decision back; returns its pair."""
        if not len(self.decisions):
            return None
        ids = self.decisions.iloc[-1][COLUMNS[:2]].tolist()
        self.decisions = self.decisions.iloc[:-1]
        write_decisions(self.folder, self.decisions)
        found = np.flatnonzero((self.pairs[COLUMNS[:2]] == ids).all(axis=1))
        return int(found[0]) if len(found) else None

    def counts(self) -> dict[str, int]:
        """How often each decision was taken."""
        return {name: int((self.decisions["decision"] == name).sum()) for name in DECISIONS}

    def write(self) -> int:
        """Write what follows: pairs.parquet, groups.csv, split_repaired.csv; returns the number of leak groups."""
        groups, _ = write_results(self.folder, self.images, kept_pairs(self.pairs, self.decisions))
        write_json(self.folder / "summary.json", self.summary | {"decisions": self.counts()})
        return int(groups.max(initial=0))

    def pictures(self, pair: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first picture, the second one, and the second one laid on the first, ``(H, W, 3)`` uint8 each."""
        row: dict[Any, Any] = self.pairs.loc[pair].to_dict()
        first, second = (pixels(self.images.pictures[row[end]]) for end in ("a", "b"))
        size = first.shape[1::-1]
        if row["matrix"] is None:
            return first, second, cv2.resize(second, size, interpolation=cv2.INTER_AREA)
        ours, theirs = (picture.shape[1] / grey_size(picture, SHORT_SIDE)[0] for picture in (first, second))
        matrix = np.asarray(row["matrix"], np.float64).reshape(2, 3) * theirs
        matrix[:, :2] /= ours
        moving = np.ascontiguousarray(second[:, ::-1]) if row["mirrored"] else second
        laid = cv2.warpAffine(moving, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return first, second, laid
