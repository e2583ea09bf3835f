"""Browsers: which origins may call, and what their pages may read of an answer (Fetch standard, CORS protocol).

An answer names exactly the origin that asked, never ``*``, and there is no credentials mode: cookies mean nothing here.
Whether the *application* of a request lists its origin is decided at the gate, once the token is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import BadRequest, OriginNotAllowed

ALLOWED_HEADERS: Final = "Authorization, Accept, Content-Type, Last-Event-ID, X-Correlation-Id"
ALLOWED_METHODS: Final = "GET, POST, PUT, DELETE"
EXPOSED_HEADERS: Final = (
    "Gateway-Session, Gateway-Start-Cursor, Gateway-Complete-Until, Link, RateLimit, RateLimit-Policy, Retry-After, "
    "X-Correlation-Id, Deprecation, Sunset, WWW-Authenticate"
)
PREFLIGHT_SECONDS: Final = 600


class OriginNaming:
    """The outermost layer: names a known origin on every HTTP answer, so that pages can read problems too."""

    def __init__(self, app: ASGIApp, *, origins: Callable[[], Collection[str]]) -> None:
        """``origins``: all that any application lists, and our own."""
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = _origins(scope) if scope["type"] == "http" else []
        if not sent:
            await self._app(scope, receive, send)
            return
        headers = _headers(sent[0], known=len(sent) == 1 and sent[0] in self._origins())

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await self._app(scope, receive, named)


class Preflights:
    """Answers the question before a request: may a page of this origin ask? Any application's origin may."""

    def __init__(self, app: ASGIApp, *, origins: Callable[[], Collection[str]]) -> None:
        self._app = app
        self._origins = origins

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine for what only passes on: its frame would stay for as long as a stream does.
        if scope["type"] != "http" or not _is_preflight(scope):
            return self._app(scope, receive, send)
        if origin_of(scope) not in self._origins():
            raise OriginNotAllowed("No application lists this origin.")
        return _answer(send)


def origin_of(scope: Scope) -> str | None:
    """The request's Origin, None without one. Raises BadRequest for several."""
    sent = _origins(scope)
    if len(sent) > 1:
        raise BadRequest("The request holds more than one Origin header.")
    return sent[0] if sent else None


def own_origin(public_url: str) -> str:
    """The origin of our own pages (RFC 6454 §6.2)."""
    parts = urlsplit(public_url)
    return f"{parts.scheme}://{parts.netloc}"


def _origins(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]


def _is_preflight(scope: Scope) -> bool:
    asked = {name for name, _ in scope["headers"]}
    return scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= asked


async def _answer(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": _PREFLIGHT})
    await send({"type": "http.response.body", "body": b""})


_PREFLIGHT: Final = [
    (b"access-control-allow-methods", ALLOWED_METHODS.encode("ascii")),
    (b"access-control-allow-headers", ALLOWED_HEADERS.encode("ascii")),
    (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
]


def _headers(origin: str, *, known: bool) -> list[tuple[bytes, bytes]]:
    vary = (b"vary", b"Origin")
    if not known:
        return [vary]
    return [
        vary,
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED_HEADERS.encode("ascii")),
    ]
