"""``dermeval review``: a person decides about the pairs and images that an audit ranked, in browser or terminal."""

import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import cv2
import pandas as pd
from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from dermeval.leaks.audit import draw_audit
from dermeval.leaks.decisions import STOP_AFTER
from dermeval.leaks.report import side_of
from dermeval.leaks.session import ReviewSession, open_review
from dermeval.leaks.terminal import review_in_terminal
from dermeval.web.options import ReviewOptions
from dermeval.web.server import address_of, listen, make_app, run_app, takes_only
from dermssl import licences
from dermssl.atomic import locked
from dermssl.commandline import Report
from dermssl.errors import counted
from dermssl.files import read_json
from dermssl.page import render

PICTURES = ("first", "second", "laid")
HOST = "127.0.0.1"
log = logging.getLogger("dermssl")


class Decision(BaseModel, extra="forbid"):
    """A decision about the row ``pair`` of the table of a ``part`` of the review."""

    part: int = 0
    pair: int
    decision: Literal["accept", "reject", "unsure"]


class Undo(BaseModel, extra="forbid"):
    """The part whose last decision is taken back."""

    part: int = 0


class RowShown(BaseModel):
    """The state of the page. ``pair`` is None if all rows of the part are decided; ``parts`` are all titles.

    Of the ``ranked`` rows ``ranked_confirmed`` are above the threshold (images have none, so all of them are).
    """

    part: int
    parts: list[str]
    pair: int | None
    rank: int = 0
    waiting: int
    ranked: int
    ranked_confirmed: int
    counts: dict[str, int]
    enough: bool
    kind: str = ""
    confirmed: bool = False
    decision: str | None = None
    facts: list[str] = []
    sides: list[dict[str, str]] = []


def session_of(sessions: Sequence[ReviewSession], part: int, row: int | None = None) -> ReviewSession:
    """The session of a part; 404 if there is no such part or row."""
    if not 0 <= part < len(sessions) or (row is not None and not 0 <= row < len(sessions[part].table)):
        raise HTTPException(404, "this audit has no part or no row of that number")
    return sessions[part]


def row_shown(sessions: Sequence[ReviewSession], part: int, row: int | None) -> RowShown:
    """The state of the page for a row, or without a number for the next undecided row."""
    session = session_of(sessions, part, row)
    waiting = session.waiting()
    row = waiting[0] if row is None and waiting else row
    state: dict[str, Any] = {"part": part, "parts": [one.title for one in sessions], "enough": session.enough()}
    confirmed = session.table.get("confirmed", pd.Series(True, session.table.index))
    state |= {"waiting": len(waiting), "ranked": len(session.table), "counts": session.counts()}
    state |= {"ranked_confirmed": int(confirmed.sum())}
    if row is None:
        return RowShown(pair=None, **state)
    asked, measured = session.told(row)
    sides = [side_of(session.images, image) for image in session.rows_of(row)]
    state |= {"kind": asked, "confirmed": bool(confirmed[row])}
    state |= {"facts": measured, "sides": sides, "decision": session.verdict(row)}
    return RowShown(pair=row, rank=row + 1, **state)


def review_app(name: str, sessions: Sequence[ReviewSession]) -> FastAPI:
    """The app of the sessions of one folder, one for each part; requests take turns."""
    title = f"Review of {name}"
    app, turn = make_app(title, "review.js"), Lock()

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        foot = licences.notice_lines(sessions[0].images.licences)
        return render("dermeval/web/review.html", title=title, stop_after=STOP_AFTER, foot=foot)

    @app.get("/picture", include_in_schema=False)
    def picture(pair: int, which: Literal["first", "second", "laid"], part: int = 0) -> Response:
        with turn:
            pictures = session_of(sessions, part, pair).pictures(pair)
        rgb = dict(zip(PICTURES, pictures, strict=False)).get(which)
        if rgb is None:
            raise HTTPException(404, "this row has one picture only")
        _, data = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        return Response(data.tobytes(), media_type="image/jpeg")

    @app.get("/api/pair", dependencies=takes_only("pair", "part"))
    def pair_shown(pair: int | None = None, part: int = 0) -> RowShown:
        """Give one row, or without a number the next undecided row."""
        with turn:
            return row_shown(sessions, part, pair)

    @app.post("/api/decide")
    def decide(given: Decision) -> RowShown:
        """Save one decision; answers with the next undecided row."""
        with turn:
            session_of(sessions, given.part, given.pair).decide(given.pair, given.decision)
            return row_shown(sessions, given.part, None)

    @app.post("/api/undo")
    def undo(given: Undo) -> RowShown:
        """Take the last decision back; answers with its row. Forms of other sites cannot send a JSON body."""
        with turn:
            return row_shown(sessions, given.part, session_of(sessions, given.part).undo())

    return app


def review(options: ReviewOptions) -> Report:
    """Review until all rows are decided or the person ends the command; see `ReviewOptions`."""
    folder = Path(options.folder)
    # The pairs of an audit are in its folder leaks, which can also be reviewed by itself.
    inner = folder / "leaks" if (folder / "audit.json").is_file() else folder
    with locked(folder), locked(inner):
        sessions = open_review(folder)
        if options.terminal:
            for session in sessions:
                review_in_terminal(session)
        else:
            with listen(HOST, options.port) as sock:
                log.info("review of %s: open %s (Ctrl-C ends it)", folder, address_of(sock, HOST, None))
                run_app(review_app(folder.name, sessions), sock)
        written = [session.write() for session in sessions]
        if inner != folder:
            audited = read_json(folder / "audit.json", "dermeval audit")
            audited["leaks"] = read_json(inner / "summary.json", "dermeval leaks")
            draw_audit(folder, sessions[0].images, audited)
    text = [str(folder)]
    for session, line in zip(sessions, written, strict=True):
        text.append(f"  {session.title}: {', '.join(f'{count} {name}' for name, count in session.counts().items())}")
        text.append(f"    {line}")
        if session.gone:
            text.append(f"    {counted(session.gone, 'decision')} without effect: this audit does not have their rows")
    data = {"folder": str(folder), "decisions": sessions[0].counts(), "without_pair": sessions[0].gone}
    return Report("\n".join(text), data | {"images": {one.title: one.counts() for one in sessions[1:]}})
