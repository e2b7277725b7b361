"""``dermeval serve``: the search page in the browser. It listens on this machine, and keeps nothing it is given."""

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable
from email import message_from_bytes, policy
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dermeval.retrieval.index_folder import SearchIndex, open_index
from dermeval.retrieval.options import ServeOptions
from dermeval.retrieval.site import Site
from dermssl import licences
from dermssl.commandline import Report
from dermssl.errors import InputError

log = logging.getLogger("dermssl")

MAX_UPLOAD_BYTES = 64 * 2**20
PAGE, PLAIN = "text/html; charset=utf-8", "text/plain; charset=utf-8"
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; form-action 'self'"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """A web server that holds the site, and knows by which names it may be called (None: any)."""

    def __init__(self, host: str, port: int, site: Site, local: bool) -> None:
        super().__init__((host, port), Handler)
        self.site = site
        self.port = int(self.server_address[1])
        self.url = f"http://{host}:{self.port}/"
        self.names = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost", host)} if local else None


def serve(options: ServeOptions) -> Report:
    """Answer searches until interrupted (Ctrl-C); see `ServeOptions`."""
    with make_server(options) as server:
        log.info("similar cases of %s: open %s (Ctrl-C ends it)", options.index, server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
        return Report(f"stopped serving {options.index}", {"index": options.index})


def make_server(options: ServeOptions) -> Server:
    """The server, bound to its port but not yet answering.

    Raises:
        InputError: no such index, images out of reach, a port that is taken, or an address that others can reach
            for data that may not be passed on.
    """
    index = open_index(options.index)
    missing = sorted({entry["name"] for entry in index.info["datasets"]} - set(index.datasets))
    if missing:
        raise InputError(f"{index.folder}: the images of {', '.join(missing)} are out of reach: put them back")
    local = _check_host(options.host, index)
    try:
        return Server(options.host, options.port, Site(index, options.k), local)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {options.host}:{options.port} ({error}): give another --port") from None


def _check_host(host: str, index: SearchIndex) -> bool:
    """True where only this machine can reach ``host``; raises InputError where others can and must not."""
    try:
        local = ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except OSError:
        raise InputError(f"--host {host} is no address of this machine: leave it out for 127.0.0.1") from None
    if local:
        return True
    closed = licences.restricted(index.licences)
    if closed:
        raise InputError(
            f"--host {host} would show images of {', '.join(closed)} to others, which their licence forbids: "
            "leave --host out, and let each user run their own copy of the data"
        )
    log.warning("warning: whoever can reach %s sees the indexed images and their labels", host)
    return False


class Handler(BaseHTTPRequestHandler):
    """GET ``/``, ``/similar?id=``, ``/image?id=`` and POST ``/photo`` (a form with one file)."""

    server: Server
    server_version = "dermeval"
    sys_version = ""

    def do_GET(self) -> None:
        """A page or a picture."""
        site, place = self.server.site, urlsplit(self.path)
        image_id = parse_qs(place.query).get("id", [""])[0]
        if not self._called_by_name():
            return
        if place.path == "/":
            self._answer(lambda: site.front().encode(), PAGE)
        elif place.path == "/similar":
            self._answer(lambda: site.of_image(image_id).encode(), PAGE)
        elif place.path == "/image":
            self._answer(lambda: site.picture(image_id), "image/jpeg")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"no such page", PLAIN)

    def do_POST(self) -> None:
        """A photo to search for."""
        length = self.headers.get("Content-Length", "")
        if not self._called_by_name():
            return
        if self.path != "/photo" or not length.isdigit() or int(length) > MAX_UPLOAD_BYTES:
            self.close_connection = True  # what is left of the upload is not read
            message = f"POST one file of at most {MAX_UPLOAD_BYTES // 2**20} MiB to /photo"
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message.encode(), PLAIN)
            return
        name, content = _uploaded(self.headers.get("Content-Type", ""), self.rfile.read(int(length)))
        self._answer(lambda: self.server.site.of_photo(name, content).encode(), PAGE)

    def _called_by_name(self) -> bool:
        # Another site's name that resolves to this machine (DNS rebinding) must not read the images.
        allowed = self.server.names is None or self.headers.get("Host") in self.server.names
        if not allowed:
            self.close_connection = True
            self._send(HTTPStatus.FORBIDDEN, f"open this page as {self.server.url}".encode(), PLAIN)
        return allowed

    def _answer(self, make: Callable[[], bytes], kind: str) -> None:
        try:
            self._send(HTTPStatus.OK, make(), kind)
        except InputError as error:
            self._send(HTTPStatus.BAD_REQUEST, str(error).encode(), PLAIN)

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests hold image ids: they are not logged."""


def _uploaded(kind: str, body: bytes) -> tuple[str, bytes]:
    """Name and content of the file in a ``multipart/form-data`` body; empty where there is none."""
    message = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body, policy=policy.HTTP)
    for part in message.iter_parts() if message.is_multipart() else ():
        name, content = part.get_filename(), part.get_payload(decode=True)
        if name and isinstance(content, bytes):
            return Path(name).name, content
    return "", b""
