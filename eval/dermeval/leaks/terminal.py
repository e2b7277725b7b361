"""A review in the terminal: one key a pair, with a picture of the two beside each other in a file."""

import sys
from collections.abc import Callable

import cv2
import numpy as np

from dermeval.leaks.decisions import ACCEPT, REJECT, STOP_AFTER, UNSURE
from dermeval.leaks.report import facts
from dermeval.leaks.session import ReviewSession

KEYS = {"a": ACCEPT, "r": REJECT, "u": UNSURE}
UNDO, QUIT = "z", "q"
PICTURE = "review.png"


def review_in_terminal(session: ReviewSession, key: Callable[[], str] | None = None) -> None:
    """Ask about the waiting pairs until all are decided, enough in a row are rejected, or the person quits."""
    key = key or read_key
    while (waiting := session.waiting()) and not session.enough():
        _show(session, waiting[0], len(waiting))
        pressed = key()
        if pressed == QUIT:
            break
        if pressed == UNDO:
            session.undo()
        elif pressed in KEYS:
            session.decide(waiting[0], KEYS[pressed])
    if session.enough():
        print(f"{STOP_AFTER} rejections in a row: 95% sure that fewer than 5% of the rest are near-duplicates.")
    (session.folder / PICTURE).unlink(missing_ok=True)


def _show(session: ReviewSession, pair: int, waiting: int) -> None:
    first, _, laid = session.pictures(pair)
    both = np.hstack([first, laid, cv2.addWeighted(first, 0.5, laid, 0.5, 0)])
    cv2.imwrite(str(session.folder / PICTURE), both[:, :, ::-1])
    row = session.pairs.loc[pair].to_dict()
    ends = [f"{row[f'image_id_{end}']} (record {row[f'group_id_{end}']})" for end in ("a", "b")]
    print(f"\n{waiting} left: {row['kind']}\n  {ends[0]}\n  {ends[1]}")
    print("".join(f"  {fact}\n" for fact in facts(row)) + f"  picture: {session.folder / PICTURE}")
    print("  a accept, r reject, u unsure, z undo, q quit: ", end="", flush=True)


def read_key() -> str:
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
