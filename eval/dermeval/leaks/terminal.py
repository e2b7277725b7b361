"""A review in the terminal: one key for each pair or image, whose picture is shown in a file."""

import sys
from pathlib import Path

import cv2
import numpy as np

from dermeval.leaks.decisions import ACCEPT, REJECT, STOP_AFTER, UNSURE
from dermeval.leaks.report import side_of
from dermeval.leaks.session import ReviewSession

KEYS = {"a": ACCEPT, "r": REJECT, "u": UNSURE}
UNDO, QUIT = "z", "q"
HELP = "a accept, r reject, u unsure, z undo, q end of this part"
PICTURE = "review.png"


def review_in_terminal(session: ReviewSession) -> None:
    """Ask about the undecided rows until all are decided, enough in a row are rejected, or the person quits."""
    picture = session.path.parent / PICTURE
    print(f"\n{session.title}: {len(session.waiting())} to decide, the most likely first")
    try:
        while (waiting := session.waiting()) and not session.enough():
            _show(session, waiting[0], len(waiting), picture)
            pressed = read_key()
            if pressed == QUIT:
                break
            if pressed in KEYS:
                session.decide(waiting[0], KEYS[pressed])
            elif pressed != UNDO:
                print(f"\n  no such key: {HELP}")
            elif not session.taken:
                print("\n  there is no decision to undo")
            else:
                session.undo()
    finally:
        picture.unlink(missing_ok=True)
    if session.enough():
        print(f"{STOP_AFTER} rejections in a row: with 95% confidence fewer than 5% of the rest are {session.title}.")


def _show(session: ReviewSession, row: int, waiting: int, picture: Path) -> None:
    first, *others = session.pictures(row)
    both = np.hstack([first, others[1], cv2.addWeighted(first, 0.5, others[1], 0.5, 0)]) if others else first
    cv2.imwrite(str(picture), both[:, :, ::-1])
    asked, measured = session.told(row)
    sides = [side_of(session.images, image) for image in session.rows_of(row)]
    ends = "".join(f"  {side['image']} (record {side['group']})\n" for side in sides)
    print(f"\n{waiting} left: {asked}\n{ends}" + "".join(f"  {fact}\n" for fact in measured) + f"  picture: {picture}")
    print(f"  {HELP}: ", end="", flush=True)


def read_key() -> str:
    """One key from a terminal, or the first letter of a line from other input; the end of the input quits."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip().lower()[:1] if line else QUIT
    import termios
    import tty

    stream = sys.stdin.fileno()
    before = termios.tcgetattr(stream)
    try:
        tty.setcbreak(stream)
        return (sys.stdin.read(1) or QUIT).lower()
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)
        print()
