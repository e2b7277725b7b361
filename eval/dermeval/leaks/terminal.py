"""A review in the terminal: one key a pair or image, with its picture in a file."""

import sys
from collections.abc import Callable

import cv2
import numpy as np

from dermeval.leaks.decisions import ACCEPT, REJECT, STOP_AFTER, UNSURE
from dermeval.leaks.report import side_of
from dermeval.leaks.session import ReviewSession

KEYS = {"a": ACCEPT, "r": REJECT, "u": UNSURE}
UNDO, QUIT = "z", "q"
PICTURE = "review.png"


def review_in_terminal(session: ReviewSession, key: Callable[[], str] | None = None) -> None:
    """Ask about the waiting rows until all are decided, enough in a row are rejected, or the person quits."""
    key = key or read_key
    print(f"\n{session.title}: {len(session.waiting())} to decide")
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
        print(f"{STOP_AFTER} rejections in a row: 95% sure that fewer than 5% of the rest are {session.title}.")
    (session.path.parent / PICTURE).unlink(missing_ok=True)


def _show(session: ReviewSession, row: int, waiting: int) -> None:
    first, *others = session.pictures(row)
    both = np.hstack([first, others[1], cv2.addWeighted(first, 0.5, others[1], 0.5, 0)]) if others else first
    picture = session.path.parent / PICTURE
    cv2.imwrite(str(picture), both[:, :, ::-1])
    asked, measured = session.told(row)
    sides = [side_of(session.images, image) for image in session.rows_of(row)]
    ends = "".join(f"  {side['image']} (record {side['group']})\n" for side in sides)
    print(f"\n{waiting} left: {asked}\n{ends}" + "".join(f"  {fact}\n" for fact in measured) + f"  picture: {picture}")
    print("  a accept, r reject, u unsure, z undo, q end of this part: ", end="", flush=True)


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
