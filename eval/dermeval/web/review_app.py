"""The review page: two pictures aligned, one key a decision. The session saves each decision at once."""

from importlib import resources
from threading import Lock
from typing import Annotated, Any, Literal

import cv2
from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from dermeval.leaks.decisions import STOP_AFTER, decided
from dermeval.leaks.report import facts, side_of
from dermeval.leaks.session import ReviewSession
from dermeval.web.server import make_app
from dermssl import licences
from dermssl.page import render

PARTS = {"first": 0, "second": 1, "laid": 2}


class Decision(BaseModel):
    """What a person decided about the pair of one row of the ranking."""

    pair: int
    decision: Literal["accept", "reject", "unsure"]


class PairShown(BaseModel):
    """What the page shows. ``pair`` is None when every pair is decided."""

    pair: int | None
    rank: int = 0
    waiting: int
    ranked: int
    counts: dict[str, int]
    enough: bool
    kind: str = ""
    confirmed: bool = False
    decision: str | None = None
    facts: list[str] = []
    sides: list[dict[str, str]] = []


def review_app(session: ReviewSession) -> FastAPI:
    """The app of one session; requests take turns."""
    title = f"Review of {session.folder.name}"
    app, turn = make_app(title), Lock()

    def shown(pair: int | None) -> PairShown:
        waiting = session.waiting()
        pair = waiting[0] if pair is None and waiting else pair
        state: dict[str, Any] = {"waiting": len(waiting), "ranked": len(session.pairs), "counts": session.counts()}
        state["enough"] = session.enough()
        if pair is None:
            return PairShown(pair=None, **state)
        if not 0 <= pair < len(session.pairs):
            raise HTTPException(404, "this audit has no pair of that number")
        row: dict[Any, Any] = session.pairs.loc[pair].to_dict()
        verdict = decided(session.pairs.loc[[pair]], session.decisions).iloc[0]
        sides = [side_of(session.images, row[end]) for end in ("a", "b")]
        state |= {"kind": row["kind"], "confirmed": row["confirmed"], "facts": facts(row), "sides": sides}
        return PairShown(pair=pair, rank=pair + 1, decision=verdict if isinstance(verdict, str) else None, **state)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        notices = licences.notice_lines(session.images.licences)
        return render("dermeval/web/review.html", title=title, stop_after=STOP_AFTER, licences=notices)

    @app.get("/review.js", include_in_schema=False)
    def script() -> Response:
        source = resources.files("dermeval.web").joinpath("review.js").read_bytes()
        return Response(source, media_type="text/javascript; charset=utf-8")

    @app.get("/picture", include_in_schema=False)
    def picture(pair: int, part: Annotated[str, Query(pattern="^(first|second|laid)$")]) -> Response:
        if not 0 <= pair < len(session.pairs):
            raise HTTPException(404, "this audit has no pair of that number")
        with turn:
            rgb = session.pictures(pair)[PARTS[part]]
        _, data = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        return Response(data.tobytes(), media_type="image/jpeg")

    @app.get("/api/pair")
    def pair_shown(pair: int | None = None) -> PairShown:
        """One pair of the ranking; without a number the next one that waits."""
        with turn:
            return shown(pair)

    @app.post("/api/decide")
    def decide(given: Decision) -> PairShown:
        """Save one decision; answers with the next pair that waits."""
        with turn:
            shown(given.pair)
            session.decide(given.pair, given.decision)
            return shown(None)

    @app.post("/api/undo")
    def undo(given: dict[str, str]) -> PairShown:
        """Take the last decision back; answers with its pair. The JSON body keeps forms of other sites out."""
        with turn:
            return shown(session.undo())

    return app
