"""A guarded app, and the server that runs it in one process, on this machine only unless the user says otherwise."""

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import socket
from collections.abc import Sequence
from importlib import resources
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match
from uvicorn.protocols.http.h11_impl import H11Protocol

from dermeval.web.guard import Guard
from dermeval.web.workers import QueueFull
from dermssl import licences
from dermssl.errors import InputError, did_you_mean, shortened
from dermssl.page import render

REQUEST_SECONDS = 30
"""Time in which a client must send its request."""
log = logging.getLogger("dermssl")


def make_app(title: str, script: str, token: str | None = None) -> FastAPI:
    """An app with the guard and the script of its pages. Its errors are pages or, under ``/api``, JSON."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.add_middleware(Guard, token=token)

    async def on_error(request: Request, error: Any) -> Response:
        match error:
            case InputError():
                return error_answer(request, 422, str(error))
            case QueueFull():
                told = "too many searches at once: try again in a moment"
                return error_answer(request, 503, told, {"retry-after": "2"})
            case RequestValidationError():
                first = error.errors()[0]
                return error_answer(request, 422, f"{first['loc'][:2][-1]}: {first['msg']}")
        headers = error.headers
        if error.status_code == 405:  # Starlette lists only the methods of the first route of this path
            fitting = (route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE)
            headers = {
                "allow": ", ".join(sorted({method for route in fitting for method in getattr(route, "methods", ())}))
            }
        return error_answer(request, error.status_code, str(error.detail), headers)

    @app.get(f"/{script}", include_in_schema=False)
    async def script_file() -> Response:
        source = resources.files("dermeval.web").joinpath(script).read_bytes()
        return Response(source, media_type="text/javascript; charset=utf-8")

    for kind in (HTTPException, RequestValidationError, InputError, QueueFull):
        app.add_exception_handler(kind, on_error)
    return app


def takes_only(*names: str) -> Any:
    """A check that a request has no other parameters, since a misspelt one would be ignored."""

    def check(request: Request) -> None:
        unknown = [name for name in request.query_params if name not in names]
        if unknown:
            hint = did_you_mean(unknown[0], names) if names else "there are none here"
            raise HTTPException(422, f"no parameter '{shortened(unknown[0], 100)}': {hint}")

    return [Depends(check)]


def error_answer(request: Request, status: int, detail: str, headers: Any = None) -> Response:
    """An error in one sentence, as JSON for programs or as a page."""
    detail = in_a_browser(detail)
    if request.url.path.startswith("/api") or request.headers.get("x-fragment"):
        return JSONResponse({"detail": detail}, status, headers)
    page = render("dermeval/web/error.html", title="This did not work", detail=detail)
    return HTMLResponse(page, status, headers)


def in_a_browser(message: str) -> str:
    """A message of the command with the words of the form."""
    return message.replace("--where", "the filter", 1)


def choose_token(host: str, notices: Sequence[dict[str, Any]], token: str | None) -> str | None:
    """The token, if one is given; otherwise a new one if other machines can reach ``host``, else None.

    Raises InputError if ``host`` is no address, or other machines could see data that may not be passed on.
    """
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError, ValueError):
        raise InputError(f"--host {host[:100]} is no address of this machine: leave it out for 127.0.0.1") from None
    if all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in addresses):
        return token
    closed = licences.restricted(notices)
    if closed:
        raise InputError(
            f"--host {host} would show images of {', '.join(closed)} to other machines, which their licence forbids"
            f"{licences.unrecorded(notices)}: leave --host out, and let each user serve their own copy of the data"
        )
    log.warning("warning: everybody who can reach %s and knows the token can see the images and their labels", host)
    return token or secrets.token_urlsafe(24)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises InputError if the port is taken or impossible."""
    try:
        sock = socket.create_server((host, port), family=socket.getaddrinfo(host, None)[0][0], backlog=512)
        # Inherited by connections: the last packet of an answer does not wait until the client acknowledges another.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {host}:{port} ({reason}): give another --port") from None


def address_of(sock: socket.socket, host: str, token: str | None) -> str:
    """The address to open in a browser."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{sock.getsockname()[1]}/" + (f"?token={token}" if token else "")


class PromptProtocol(H11Protocol):
    """HTTP that closes a connection without a request in time; uvicorn alone would wait for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._prompt = self.loop.call_later(REQUEST_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._prompt.cancel()
        super().connection_lost(exc)


def make_server(app: FastAPI) -> uvicorn.Server:
    """A server that does not log requests, since they hold image ids."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=PromptProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="critical",
            server_header=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=32_768,
        )
    )


def run_app(app: FastAPI, sock: socket.socket) -> None:
    """Serve until interrupted (Ctrl-C)."""
    with contextlib.suppress(KeyboardInterrupt):
        make_server(app).run(sockets=[sock])
