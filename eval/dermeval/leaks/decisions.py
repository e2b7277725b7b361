"""A person's decisions about pairs (``decisions.csv``), and the groups and the split that follow from them."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dermeval.leaks.earlier import FILE as AUDITED
from dermeval.leaks.earlier import changed_since
from dermeval.leaks.groups import group_table, leak_groups, repaired, strata
from dermeval.leaks.pairs import write_pairs
from dermeval.leaks.records import AuditedImages
from dermeval.leaks.summary import summary_of
from dermssl.errors import InputError, counted
from dermssl.files import write_csv
from dermssl.paths import json_object

FILE = "decisions.csv"
ACCEPT, REJECT, UNSURE = DECISIONS = ("accept", "reject", "unsure")
COLUMNS, OF_IMAGES = ["image_id_a", "image_id_b", "decision"], ["image_id", "decision"]
STOP_AFTER = 58
"""After so many rejections in a row, fewer than 5% of the rest are true with 95% confidence (0.95^58 is 5.1%)."""
log = logging.getLogger("dermssl")


def read_decisions(path: Path, columns: list[str] = COLUMNS) -> pd.DataFrame:
    """The last decision in a file about each pair or image; empty without a file. InputError if it is damaged."""
    if not path.is_file():
        return pd.DataFrame(columns=columns, dtype=object)
    try:
        table = pd.read_csv(path, dtype=str)[columns]
    except (KeyError, ValueError, UnicodeDecodeError):
        raise InputError(f"{path} is damaged: it needs the columns {', '.join(columns)}; mend or remove it") from None
    wrong = np.flatnonzero(~table["decision"].isin(DECISIONS))
    if len(wrong):
        raise InputError(f"{path}, row {wrong[0] + 2}: a decision is one of {', '.join(DECISIONS)}: mend or remove it")
    return _last(table)


def _last(table: pd.DataFrame) -> pd.DataFrame:
    """The last decision about each pair or image."""
    earlier = pd.Series(keys_of(table, list(table.columns[:-1])), dtype=object).duplicated(keep="last")
    return table[~earlier.to_numpy(bool)].reset_index(drop=True)


def standing_decisions(folders: Sequence[Path], images: AuditedImages) -> pd.DataFrame:
    """The decisions in leaks folders that still hold (`about_same_pixels`); of two about a pair the later folder's."""
    return _last(pd.concat([about_same_pixels(read_decisions(folder / FILE), folder, images) for folder in folders]))


def about_same_pixels(decisions: pd.DataFrame, folder: Path, images: AuditedImages) -> pd.DataFrame:
    """``decisions`` without those about images that have other pixels than in the audit in the leaks folder."""
    if not len(decisions) or not (folder / AUDITED).is_file():
        return decisions
    old = decisions.drop(columns="decision").isin(changed_since(folder, images).tolist()).any(axis=1)
    if old.any():
        log.warning("warning: %s dropped, since their images have changed", counted(int(old.sum()), "decision"))
    return decisions[~old].reset_index(drop=True)


def about_same_labels(decisions: pd.DataFrame, folder: Path, labels: pd.Series) -> pd.DataFrame:
    """``decisions`` about label errors without those about another label than the image has now, or another target.

    ``folder`` is that of the earlier audit, ``labels`` are the present ones by image_id, with the name of their target.
    """
    audited = json_object(folder / "audit.json")
    target = audited.get("target", labels.name)
    if len(decisions) and target != labels.name:  # whose label may be the same word, such as 'yes'
        told, now = counted(len(decisions), "decision"), labels.name
        log.warning("warning: %s about %s dropped, since labels of %s are checked now", told, target, now)
        return decisions[:0]
    before = pd.Series(audited.get("judged", {}), dtype=object)  # the labels of images that were decided on before
    with suppress(OSError, KeyError, ValueError):  # there is none, as without embeddings, or it is damaged
        table = pd.read_csv(folder / "label_errors.csv", dtype=str, keep_default_na=False)
        before = table.drop_duplicates("image_id").set_index("image_id")["label"].combine_first(before)
    # A spreadsheet would run some texts, which therefore begin with a quote there (`write_csv`).
    texts = (found.map(str).str.removeprefix("'").reindex(decisions["image_id"]) for found in (before, labels))
    then, now = (text.to_numpy(dtype=object) for text in texts)
    other = pd.notna(then) & pd.notna(now) & (then != now)
    if other.any():
        log.warning("warning: %s dropped, since their labels have changed", counted(int(other.sum()), "decision"))
    return decisions[~other].reset_index(drop=True)


def keys_of(table: pd.DataFrame, columns: list[str]) -> list[tuple[str, ...]]:
    """The key of each row: its image id, or the ids of its two images in order."""
    return [tuple(sorted(ids)) for ids in table[columns].to_numpy(str)]


def decided(table: pd.DataFrame, decisions: pd.DataFrame) -> pd.Series:
    """The decision about each pair, whichever of its images comes first, or each image, ``(P,)``; null without one."""
    names = [name for name in decisions if name != "decision"]
    known = dict(zip(keys_of(decisions, names), decisions["decision"], strict=True))
    return pd.Series([known.get(key) for key in keys_of(table, names)], index=table.index, dtype=object)


def kept_pairs(ranking: pd.DataFrame, decisions: pd.DataFrame) -> pd.DataFrame:
    """Accepted pairs, which count as strong, and confirmed pairs that were not rejected."""
    verdict = decided(ranking, decisions)
    kept = ranking.assign(expected_false=ranking["expected_false"].mask(verdict == ACCEPT, 0.0))
    return kept[(verdict == ACCEPT) | (ranking["confirmed"] & (verdict != REJECT))].reset_index(drop=True)


def write_results(folder: Path, images: AuditedImages, pairs: pd.DataFrame) -> dict[str, Any]:
    """Write ``pairs.parquet``, ``groups.csv`` and ``split_repaired.csv`` of the kept pairs; returns their `summary_of`.

    The leak group of a pair is 0 if the pair is too weak to join its two records (`groups.leak_groups`).
    """
    frame = images.frame
    groups = leak_groups(images.groups, pairs)
    split, table = repaired(groups, frame, strata(frame, images.labels)), group_table(frame, groups, images.labels)
    of_a, of_b = (groups[pairs[end].to_numpy(np.int64)] for end in ("a", "b"))
    write_pairs(folder / "pairs.parquet", pairs.assign(leak_group=np.where(of_a == of_b, of_a, 0)))
    write_csv(folder / "groups.csv", table)
    columns = {"image_id": frame["image_id"], "split": frame["split"], "split_repaired": split}
    write_csv(folder / "split_repaired.csv", pd.DataFrame(columns))
    return summary_of(images, pairs, table, split)
