"""``dermeval review``: a person decides about the pairs of an audit, in the browser or in the terminal."""

import logging
from pathlib import Path

from dermeval.leaks.options import ReviewOptions
from dermeval.leaks.session import ReviewSession
from dermeval.leaks.terminal import review_in_terminal
from dermeval.web.review_app import review_app
from dermeval.web.server import address_of, listen, run_app
from dermssl.atomic import locked
from dermssl.commandline import Report

HOST = "127.0.0.1"
log = logging.getLogger("dermssl")


def review(options: ReviewOptions) -> Report:
    """Decide about the pairs of a leaks folder until all are decided or the person ends it; see `ReviewOptions`."""
    folder = Path(options.folder)
    with locked(folder):
        session = ReviewSession(folder)
        if options.terminal:
            review_in_terminal(session)
        else:
            with listen(HOST, options.port) as sock:
                log.info("review of %s: open %s (Ctrl-C ends it)", folder, address_of(sock, HOST, None))
                run_app(review_app(session), sock)
        groups, counts = session.write(), session.counts()
    text = [f"{folder}: {', '.join(f'{count} {name}' for name, count in counts.items())}"]
    text.append(f"  {groups} leak groups; pairs.parquet, groups.csv and split_repaired.csv are written anew")
    if session.gone:
        text.append(f"  {session.gone} decisions are about pairs that this audit does not have; they have no effect")
    return Report("\n".join(text), {"folder": str(folder), "decisions": counts, "without_pair": session.gone})
