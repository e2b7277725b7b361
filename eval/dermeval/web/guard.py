"""The checks that every request passes first (Host header, token), and security headers for the browser."""

import ipaddress
import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "dermeval"
MAX_URL = 8192
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """ASGI middleware. Without a token only requests to this machine's own names pass; with one, requests with it."""

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, send_bound)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The refusal of a request, or None if it passes."""
        request = Request(scope)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL:
            return PlainTextResponse("the address is too long", 422)
        if self.token is None:
            # Under another name that resolves to this machine (DNS rebinding), another site could read the images.
            if is_loopback(request.headers.get("host", "")):
                return None
            return PlainTextResponse("open this page at localhost or 127.0.0.1", 403)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(bearer) or self._is_token(request.cookies.get(COOKIE, "")):
            return None
        given = request.query_params.get("token", "")
        if self._is_token(given):
            answer = RedirectResponse(scope["path"] or "/", 303)
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict")
            return answer
        return PlainTextResponse("open the address with the token that `dermeval serve` printed", 401)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self.token or "").encode())


def is_loopback(host: str) -> bool:
    """Whether a Host header, of any port, names this machine: localhost, 127.0.0.0/8 or [::1]."""
    name = re.sub(r":\d{0,5}$", "", host) if not host.endswith("]") else host
    name = name.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
