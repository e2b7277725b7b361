"""A review: the ranked pairs or images of an audit, the decisions about them, and the next one to decide."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from dermeval.features.alignment import SHORT_SIDE, grey_size
from dermeval.leaks import decisions
from dermeval.leaks.decisions import STOP_AFTER, decided, keys_of
from dermeval.leaks.earlier import RANKING, VERSION, changed_since
from dermeval.leaks.pairs import read_ranking
from dermeval.leaks.pictures import content, pixels
from dermeval.leaks.records import AuditedImages, open_audited
from dermeval.leaks.report import facts, write_report
from dermeval.leaks.summary import MAKER, next_steps, read_summary, summary_terms
from dermssl.errors import InputError, counted
from dermssl.files import read_json, reading, require_unchanged, write_csv, write_json
from dermssl.page import shown_label
from dermssl.paths import inside


class ReviewSession:
    """Decisions about the rows of a ranked ``table``, first row first, each saved at once in the file ``path``.

    ``columns`` of that file: those that identify a row of the table, then ``decision``.
    """

    title = ""
    """The name of accepted rows."""
    ends: tuple[str, ...] = ("a", "b")
    """Columns of the table that hold rows of `AuditedImages`."""

    def __init__(self, path: Path, images: AuditedImages, table: pd.DataFrame, columns: list[str]) -> None:
        self.path, self.images, self.table, self.columns = path, images, table, columns
        self.keys, saved = keys_of(table, columns[:-1]), decisions.read_decisions(path, columns)
        # By the key of the row its ids and the decision, the latest decision last.
        self.taken = dict(zip(keys_of(saved, columns[:-1]), saved.to_numpy().tolist(), strict=True))
        self.gone = len(set(self.taken) - set(self.keys))

    @property
    def decisions(self) -> pd.DataFrame:
        """All decisions, as in the file."""
        return pd.DataFrame(list(self.taken.values()), columns=self.columns, dtype=object)

    def verdict(self, row: int) -> str | None:
        """The decision about a row; None if there is none."""
        return self.taken[self.keys[row]][-1] if self.keys[row] in self.taken else None

    def waiting(self) -> list[int]:
        """The undecided rows, first row first."""
        return [row for row, key in enumerate(self.keys) if key not in self.taken]

    def enough(self) -> bool:
        """Whether the `STOP_AFTER` rows before the first undecided one were all rejected.

        Rejections of an earlier audit say nothing about rows that rank before them in this one.
        """
        verdicts = [*map(self.verdict, range(len(self.keys))), None]
        first = verdicts.index(None)
        last = verdicts[max(0, first - STOP_AFTER) : first]
        return len(last) == STOP_AFTER and set(last) == {decisions.REJECT}

    def decide(self, row: int, decision: str) -> None:
        """Save a decision about one row; it replaces an earlier decision about that row."""
        others = {key: taken for key, taken in self.taken.items() if key != self.keys[row]}
        self._save(others | {self.keys[row]: [*self.table.loc[row, self.columns[:-1]], decision]})

    def _save(self, changed: dict[tuple[str, ...], list[str]]) -> None:
        """Write the decisions; if that fails, those of the file stand."""
        write_csv(self.path, pd.DataFrame(list(changed.values()), columns=self.columns, dtype=object))
        self.taken = changed

    def undo(self) -> int | None:
        """Take the last decision back; returns its row, or None if it has none."""
        if not self.taken:
            return None
        *others, last = self.taken
        self._save({key: self.taken[key] for key in others})
        return self.keys.index(last) if last in self.keys else None

    def counts(self) -> dict[str, int]:
        """How often each decision was taken."""
        return {name: sum(taken[-1] == name for taken in self.taken.values()) for name in decisions.DECISIONS}

    def rows_of(self, row: int) -> list[int]:
        """The images of a row of the table, as rows of `AuditedImages`."""
        return [int(self.table.at[row, end]) for end in self.ends]

    def told(self, row: int) -> tuple[str, list[str]]:
        """The question about a row, and what was measured, in words."""
        raise NotImplementedError

    def pictures(self, row: int) -> list[np.ndarray]:
        """The pictures of a row, ``(H, W, 3)`` uint8 each."""
        return [pixels(self.images.pictures[image]) for image in self.rows_of(row)]

    def write(self) -> str:
        """Write the results of the decisions; returns a sentence that says what was written."""
        raise NotImplementedError


class PairReview(ReviewSession):
    """The pairs of a leaks folder: the confirmed pairs first, then those below the threshold."""

    title = "near-duplicates"

    def __init__(self, folder: Path) -> None:
        self.folder, self.summary = folder, read_summary(folder)
        again = "give the command that made it again, with --overwrite"
        if self.summary.get("version") != VERSION:  # its maps may be between pictures that are cut otherwise now
            raise InputError(f"{folder} was made by another version: {again}; the decisions are kept")
        require_unchanged(inside(folder, RANKING), self.summary["sha256"], MAKER)
        images = open_audited([one["path"] for one in self.summary["datasets"]], self.summary["every_image"])
        changed = changed_since(folder, images)
        if len(changed):
            raise InputError(f"{folder} was made from other pixels: {changed.iloc[0]} has changed since; {again}")
        super().__init__(folder / decisions.FILE, images, read_ranking(folder, images), decisions.COLUMNS)

    def told(self, row: int) -> tuple[str, list[str]]:
        """The kind of the pair (a guess if it is not confirmed), and its evidence."""
        pair: dict[Any, Any] = self.table.loc[row].to_dict()
        unsure = "" if pair["confirmed"] else "not confirmed; if they are near-duplicates: "
        return unsure + pair["kind"], facts(pair)

    def pictures(self, row: int) -> list[np.ndarray]:
        """The first picture, the second one, and the second one laid on the first, all without even frames."""
        first, second = (content(self.images.pictures[image]) for image in self.rows_of(row))
        given, mirrored = self.table.at[row, "matrix"], self.table.at[row, "mirrored"]
        size = first.shape[1::-1]
        if given is None:
            return [first, second, cv2.resize(second, size, interpolation=cv2.INTER_AREA)]
        ours, theirs = (picture.shape[1] / grey_size(picture, SHORT_SIDE)[0] for picture in (first, second))
        matrix = np.asarray(given, np.float64).reshape(2, 3) * theirs
        matrix[:, :2] /= ours
        moving = np.ascontiguousarray(second[:, ::-1]) if mirrored else second
        laid = cv2.warpAffine(moving, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return [first, second, laid]

    def write(self) -> str:
        """Write all results. In summary.json the audit's counts stay; ``reviewed`` has those that have changed."""
        kept = decisions.kept_pairs(self.table, self.decisions)
        counted_now = decisions.write_results(self.folder, self.images, kept)
        counted_now["notes"] = list(dict.fromkeys([*counted_now["notes"], *self.summary["notes"]]))
        now = self.summary | counted_now
        changed = {name: value for name, value in counted_now.items() if value != self.summary.get(name)}
        reviewed = {"decisions": self.counts(), "reviewed": changed}
        write_json(self.folder / "summary.json", self.summary | reviewed)
        terms = summary_terms(now)
        if self.taken:
            told = "{accept} accepted, {reject} rejected, {unsure} unsure".format(**self.counts())
            rest = "this page follows them; its threshold, background, planted copies and false matches are the audit's"
            terms["decisions"] = f"{told}: {rest}"
        write_report(self.folder, self.images, kept, now, terms, next_steps(now, self.folder))
        counts = f"{counted(len(kept), 'pair')}, {counted(now['leak_groups'], 'leak group')}"
        written = "pairs.parquet, groups.csv, split_repaired.csv and report.html follow the decisions"
        return f"{counts}: {written}; summary.json has the changed counts under `reviewed`"


class ImageReview(ReviewSession):
    """The ranked images of one table of an audit folder: ``off_topic.csv`` or ``label_errors.csv``."""

    ends = ("row",)

    def __init__(self, folder: Path, name: str, images: AuditedImages, target: str | None = None) -> None:
        self.target = target or ""
        self.file = inside(folder, f"{name}.csv")
        self.title = {"off_topic": "off-topic images", "label_errors": "label errors"}[name]
        table = _read_ranks(self.file)
        table["row"] = images.rows_of(table["image_id"])
        for lost in table.loc[table["row"] < 0, "image_id"]:
            raise InputError(f"{self.file}: image {lost} is not in the data set: audit again with `dermeval audit`")
        super().__init__(inside(folder, f"{name}_decisions.csv"), images, table, decisions.OF_IMAGES)

    def told(self, row: int) -> tuple[str, list[str]]:
        """The question, and the reason for the rank."""
        image = self.table.loc[row]
        if "likelier" not in image:
            return "Is this image off-topic?", [f"distance from the other images: {image['score']}"]
        nearby = f"labels of the nearest images of other groups: {image['nearby']}"
        label = shown_label(image["label"], self.target) if self.target else image["label"]
        return f"Is the label {label} wrong?", [f"more likely: {image['likelier']}", nearby]

    def write(self) -> str:
        """Write the decisions into the file of the table."""
        table = self.table.drop(columns="row").assign(decision=decided(self.table, self.decisions))
        write_csv(self.file, table)
        return f"{self.file.name} now holds the decisions"


def _read_ranks(path: Path) -> pd.DataFrame:
    """A table of ranked images as text. Labels such as ``unknown`` and ``UNK`` stay as they are."""
    with reading(path, "dermeval audit"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    lacking = [name for name in ("rank", "image_id", "score") if name not in table]
    if lacking or not len(table):
        what = f"column '{lacking[0]}'" if lacking else "rows"
        raise InputError(f"{path} has no {what}: audit again with `dermeval audit`")
    return table


def open_review(folder: Path) -> list[ReviewSession]:
    """The sessions of a leaks folder (pairs) or of an audit folder (pairs, off-topic images, label errors)."""
    if not (folder / "audit.json").is_file():
        return [PairReview(folder)]
    audited = read_json(inside(folder, "audit.json"), "dermeval audit")
    if not audited.get("finished"):
        raise InputError(f"{folder} is not finished: give `dermeval audit` the same command again")
    names = ("off_topic", "label_errors")
    with reading(folder / "audit.json", "dermeval audit --overwrite"):  # the page needs these after the review
        _ = audited["why_no_label_errors"], [card["rank"] for name in names for card in audited[name] or ()]
    if not (inside(folder, "leaks") / "summary.json").is_file():
        raise InputError(f"{folder} lacks its folder leaks: make it again with `dermeval audit --overwrite`")
    pairs = PairReview(folder / "leaks")
    tables = [name for name in names if (folder / f"{name}.csv").is_file()]
    return [pairs, *(ImageReview(folder, name, pairs.images, audited.get("target")) for name in tables)]
