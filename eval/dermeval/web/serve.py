"""``dermeval serve``: similar-case search in the browser. It keeps nothing that it is given."""

import logging

from dermeval.retrieval.index_folder import SearchIndex, open_index
from dermeval.retrieval.photo import Encoder, open_photo_encoder
from dermeval.web.collection import Collection
from dermeval.web.options import MAX_CASES, ServeOptions
from dermeval.web.search_app import search_app
from dermeval.web.server import address_of, choose_token, listen, run_app
from dermssl.commandline import Report
from dermssl.errors import InputError

log = logging.getLogger("dermssl")


def serve(options: ServeOptions) -> Report:
    """Answer searches until interrupted (Ctrl-C); see `ServeOptions`.

    Raises:
        InputError: no such index, images out of reach, a port that is taken, or an address that others can reach
            for data that may not be passed on.
    """
    index = open_index(options.index)
    missing = sorted({entry["name"] for entry in index.info["datasets"]} - set(index.datasets))
    if missing:
        raise InputError(f"{index.folder}: the images of {', '.join(missing)} are out of reach: put them back")
    if options.k > MAX_CASES:
        raise InputError(f"--k {options.k}: at most {MAX_CASES}")
    token = choose_token(options.host, index.notices, options.token)
    collection = Collection(index, options.k, options.where)
    with listen(options.host, options.port) as sock:
        app = search_app(collection, *_encoder(index, options.encoder), token)
        log.info("similar cases of %s: open %s (Ctrl-C ends it)", options.index, address_of(sock, options.host, token))
        run_app(app, sock)
    return Report(f"stopped serving {options.index}", {"index": options.index})


def _encoder(index: SearchIndex, path: str | None) -> tuple[Encoder | None, str]:
    """The encoder of photos, or None and why there is none. Indexed images can be searched from without it."""
    try:
        return open_photo_encoder(index.encoder, path), ""
    except InputError as error:
        log.warning("warning: photos cannot be searched for: %s", error)
        return None, "The encoder that made this index is out of reach, so photos cannot be searched for."
