"""``dermeval review``: a person decides about the pairs of an audit, one key each, in the terminal.

Every decision is saved at once. Groups and the repaired split follow when the review ends.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from dermeval.leaks.alignment import SHORT_SIDE
from dermeval.leaks.decisions import (
    ACCEPT,
    REJECT,
    STOP_AFTER,
    UNSURE,
    decided,
    kept_pairs,
    read_decisions,
    rejected_in_a_row,
    write_decisions,
    write_groups,
)
from dermeval.leaks.options import ReviewOptions
from dermeval.leaks.pictures import grey_picture, pixels
from dermeval.leaks.records import Records, open_records
from dermeval.leaks.report import facts
from dermssl.atomic import locked
from dermssl.commandline import Report
from dermssl.errors import InputError
from dermssl.files import read_json, read_parquet, write_json
from dermssl.paths import require_folder

KEYS = {"a": ACCEPT, "r": REJECT, "u": UNSURE}
UNDO, QUIT = "z", "q"
PICTURE = "review.png"


def review(options: ReviewOptions) -> Report:
    """Decide about the pairs of a leaks folder; see `ReviewOptions`."""
    folder = require_folder(Path(options.folder), "summary.json", "dermeval leaks")
    summary = read_json(folder / "summary.json", "dermeval leaks")
    if "every_image" not in summary:
        raise InputError(f"{folder} is of an older version: audit again with `dermeval leaks`")
    records = open_records([entry["path"] for entry in summary["datasets"]], summary["every_image"])
    pairs = audited_pairs(folder, records)
    with locked(folder):
        decisions = read_decisions(folder)
        gone = len(decisions) - int(decided(pairs, decisions).notna().sum())
        decisions = ask(folder, records, pairs, decisions, _read_key)
        groups = write_groups(folder, records, kept_pairs(pairs, decisions))
        counts = {name: int((decisions["decision"] == name).sum()) for name in KEYS.values()}
        write_json(folder / "summary.json", summary | {"decisions": counts})
        (folder / PICTURE).unlink(missing_ok=True)
    text = [f"{folder}: {', '.join(f'{count} {name}' for name, count in counts.items())}"]
    text.append(f"  {int(groups.max(initial=0))} leak groups; groups.csv and split_repaired.csv are written anew")
    if gone:
        text.append(f"  {gone} decisions are about pairs that this audit does not have; they are kept, without effect")
    return Report("\n".join(text), {"folder": str(folder), "decisions": counts, "without_pair": gone})


def audited_pairs(folder: Path, records: Records) -> pd.DataFrame:
    """``pairs.parquet`` with the rows ``a`` and ``b`` of both images.

    Raises:
        InputError: an image is no longer in its data set.
    """
    pairs = read_parquet(folder / "pairs.parquet", "dermeval leaks").to_pandas()
    rows = pd.Series(records.frame.index, index=records.frame["image_id"])
    for end in ("a", "b"):
        found = rows.reindex(pairs[f"image_id_{end}"])
        if found.isna().any():
            lost = pairs.loc[found.isna().to_numpy(), f"image_id_{end}"].iloc[0]
            raise InputError(f"{folder}: image {lost} is no longer in its data set: audit again with `dermeval leaks`")
        pairs[end] = found.to_numpy(np.int64)
    return pairs


def ask(
    folder: Path, records: Records, pairs: pd.DataFrame, decisions: pd.DataFrame, key: Callable[[], str]
) -> pd.DataFrame:
    """Show the undecided pairs, the strongest first, and save each decision; returns all decisions."""
    waiting = pairs.index[decided(pairs, decisions).isna()].tolist()
    position = 0
    given: list[str] = []
    while position < len(waiting):
        pair = pairs.loc[waiting[position]]
        _show(folder, records, pair.to_dict(), f"{position + 1} of {len(waiting)}")
        pressed = key()
        if pressed == QUIT:
            break
        if pressed == UNDO and position:
            position -= 1
            given.pop()
            decisions = decisions.iloc[:-1]
        elif pressed in KEYS:
            row = [pair["image_id_a"], pair["image_id_b"], KEYS[pressed]]
            decisions = pd.concat([decisions, pd.DataFrame([row], columns=decisions.columns)], ignore_index=True)
            given.append(KEYS[pressed])
            position += 1
        write_decisions(folder, decisions)
        if rejected_in_a_row(given) >= STOP_AFTER:
            print(f"{STOP_AFTER} rejections in a row: 95% sure that fewer than 5% of the rest are near-duplicates.")
            break
    return decisions


def _show(folder: Path, records: Records, pair: dict[Any, Any], place: str) -> None:
    cv2.imwrite(str(folder / PICTURE), side_by_side(records, pair)[:, :, ::-1])
    ends = [f"{pair[f'image_id_{end}']} (record {pair[f'group_id_{end}']})" for end in ("a", "b")]
    print(f"\n{place}: {pair['kind']}\n  {ends[0]}\n  {ends[1]}")
    print("".join(f"  {fact}\n" for fact in facts(pair)) + f"  picture: {folder / PICTURE}")
    print("  a accept, r reject, u unsure, z undo, q quit: ", end="", flush=True)


def side_by_side(records: Records, pair: dict[Any, Any]) -> np.ndarray:
    """The first picture, the second one laid on it, and both mixed, ``(H, W, 3)`` uint8."""
    first, second = (pixels(records.pictures[pair[end]]) for end in ("a", "b"))
    size = grey_picture(first, SHORT_SIDE).shape[::-1]
    other = grey_picture(second, SHORT_SIDE).shape[::-1]
    first, second = (
        cv2.resize(picture, goal, interpolation=cv2.INTER_AREA) for picture, goal in ((first, size), (second, other))
    )
    if pair["matrix"] is None:
        laid = cv2.resize(second, size)
    else:
        second = np.ascontiguousarray(second[:, ::-1]) if pair["mirrored"] else second
        matrix = np.asarray(pair["matrix"], np.float32).reshape(2, 3)
        laid = cv2.warpAffine(second, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    mixed = cv2.addWeighted(first, 0.5, laid, 0.5, 0)
    return cv2.resize(np.hstack([first, laid, mixed]), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)


def _read_key() -> str:
    """One key from a terminal, else one line of the input; the end of the input quits."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip().lower()[:1] if line else QUIT
    import termios
    import tty

    stream = sys.stdin.fileno()
    before = termios.tcgetattr(stream)
    try:
        tty.setcbreak(stream)
        return sys.stdin.read(1).lower()
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)
        print()
