"""``dermeval review``: a person decides about what an audit ranks, in the browser or in the terminal."""

import logging
from pathlib import Path

from dermeval.leaks.session import open_review
from dermeval.leaks.terminal import review_in_terminal
from dermeval.web.options import ReviewOptions
from dermeval.web.review_app import review_app
from dermeval.web.server import address_of, listen, run_app
from dermssl.atomic import locked
from dermssl.commandline import Report

HOST = "127.0.0.1"
log = logging.getLogger("dermssl")


def review(options: ReviewOptions) -> Report:
    """Decide about what an audit ranks until all is decided or the person ends it; see `ReviewOptions`."""
    folder = Path(options.folder)
    # The pairs of an audit lie in a leaks folder of its own, which can be reviewed by itself.
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
    text = [str(folder)]
    for session, line in zip(sessions, written, strict=True):
        text.append(f"  {session.title}: {', '.join(f'{count} {name}' for name, count in session.counts().items())}")
        text.append(f"    {line}")
        if session.gone:
            text.append(
                f"    {session.gone} decisions are about rows that this audit does not have: they have no effect"
            )
    data = {"folder": str(folder), "decisions": sessions[0].counts(), "without_pair": sessions[0].gone}
    return Report("\n".join(text), data | {"images": {one.title: one.counts() for one in sessions[1:]}})
