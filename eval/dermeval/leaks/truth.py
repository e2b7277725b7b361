"""Scores of an audit against planted duplicates: ``truth.csv`` of ``dermssl synth``."""

from pathlib import Path
from typing import Any

import pandas as pd

from dermeval.leaks.records import AuditedImages
from dermssl.errors import InputError
from dermssl.prepare.tables import read_table


def score_against_truth(planted: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
    """Recall of the `planted_records`, in all and by kind, and precision of the pairs of records found."""
    found = {frozenset(pair) for pair in zip(pairs["group_id_a"], pairs["group_id_b"], strict=True)}
    planted = planted.assign(found=planted["pair"].isin(found))
    known = set(planted["pair"])
    return {
        "planted": len(planted),
        "found": int(planted["found"].sum()),
        "recall": float(planted["found"].mean()),
        "by_kind": planted.groupby("kind", sort=False)["found"].agg(["sum", "size"]).apply(list, axis=1).to_dict(),
        "record_pairs": len(found),
        "not_planted": len(found - known),
        "precision": len(found & known) / len(found) if found else None,
        "missed": [sorted(pair) for pair in planted.loc[~planted["found"], "pair"]],
    }


def planted_records(path: Path, images: AuditedImages) -> pd.DataFrame:
    """One row per planted pair of records: ``pair`` (frozenset of group_ids), ``kind``; InputError: it does not fit."""
    if not path.is_file():
        raise InputError(f"{path} is not a file: give the truth.csv of `dermssl synth` with --truth")
    table = read_table(path, ["subject_id", "duplicate_subject_id", "kind"])
    known = {group.split("/", 1)[1]: group for group in images.frame["group_id"].unique()}
    ends = table[["subject_id", "duplicate_subject_id"]].to_numpy()
    for subject in ends.ravel():
        if subject not in known:
            raise InputError(f"{path}: record {subject} is not among the audited ones: give the truth of this data set")
    pairs = [frozenset((known[a], known[b])) for a, b in ends]
    return pd.DataFrame({"pair": pairs, "kind": table["kind"]}).drop_duplicates("pair", ignore_index=True)
