"""The partner's addresses."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from gateway.auth.policy import readable
from gateway.catalog.listing import partner_entry
from gateway.errors import MethodNotAllowed, NotFound, UpgradeRequired
from gateway.model import Transport
from gateway.subscription.request import parse_listing
from gateway.transport import limits, ndjson, oauth, pull, resource, sessions, sse, statements, tickets, usage, ws
from gateway.transport.credentials import check_address
from gateway.transport.documents import KINDS, DocumentStore, serve_document
from gateway.transport.gate import Gate
from gateway.transport.negotiate import SUFFIXES, demand, negotiate

Serve = Callable[[Gate, Scope, Receive, Send], Awaitable[None]]
_SERVE: dict[Transport, Serve] = {"sse": sse.serve, "ndjson": ndjson.serve, "pull": pull.serve}
_MEDIA: dict[Transport, str] = {"sse": sse.MEDIA_TYPE, "ndjson": ndjson.MEDIA_TYPE, "pull": pull.MEDIA_TYPE}


def routes(gate: Gate) -> list[BaseRoute]:
    """Everything on the public port.

    What only passes a request on is no coroutine: its frame would stay for as long as the stream does.
    """
    stream = "/v1/streams/{stream}"
    documents = DocumentStore()
    return [
        Route(resource.PATH, _Only(gate, resource.serve)),
        Route(oauth.METADATA_PATH, _Issuing(gate, oauth.metadata)),
        Route(oauth.JWKS_PATH, _Issuing(gate, oauth.jwks)),
        Route(oauth.TOKEN_PATH, _Issuing(gate, oauth.token, method="POST", check=_words_of_its_own)),
        Route("/v1/streams", _Only(gate, _list)),
        Route(stream, _Only(gate, _negotiated)),
        *[Route(f"{stream}/{suffix}", _Only(gate, _forced(kind))) for suffix, kind in SUFFIXES.items()],
        Route(limits.PATH, _Only(gate, limits.serve)),
        Route(usage.PATH, _Only(gate, usage.serve)),
        Route(statements.PATH, _Only(gate, statements.listing)),
        Route(f"{statements.PATH}/{{number}}", _Only(gate, statements.one)),
        Route("/v1/tickets", _Only(gate, tickets.issue, method="POST")),
        Route("/v1/sessions/{session}/token", _Only(gate, sessions.refresh, method="POST")),
        WebSocketRoute(stream, _Upgrade(gate)),
        WebSocketRoute(f"{stream}/ws", _Upgrade(gate)),
        *[Route(kind.path, _Only(gate, serve_document(kind, documents))) for kind in KINDS],
    ]


class _Only:
    """An address that knows one method alone; an ASGI app, so that streams pass unbuffered."""

    def __init__(
        self, gate: Gate, serve: Serve, *, method: str = "GET", check: Callable[[bytes], None] = check_address
    ):
        """``check`` is asked about the query before anything else."""
        self._gate = gate
        self._serve = serve
        self._method = method
        self._check = check

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        self._check(scope["query_string"])
        if scope["method"] != self._method:
            raise MethodNotAllowed(f"This address knows {self._method} only.", headers={"Allow": self._method})
        return self._serve(self._gate, scope, receive, send)


class _Issuing(_Only):
    """An address that is there only where the gateway itself gives tokens away."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._gate.authority is None:
            raise NotFound
        return super().__call__(scope, receive, send)


class _Upgrade:
    """An address that a WebSocket opens."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        check_address(scope["query_string"])
        return ws.serve(self._gate, scope, receive, send)


def _words_of_its_own(query: bytes) -> None:
    """RFC 6749 §5.2 has another body for refusals: the address says them itself."""


def _accept(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == b"accept"]


def _negotiated(gate: Gate, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    return _SERVE[negotiate(_accept(scope))](gate, scope, receive, send)


def _forced(transport: Transport) -> Serve:
    def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if transport == "ws":
            raise UpgradeRequired(headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        demand(_accept(scope), _MEDIA[transport])
        return _SERVE[transport](gate, scope, receive, send)

    return serve


async def _list(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """GET /v1/streams: what this token may read."""
    demand(_accept(scope), "application/json")
    principal = await gate.principal(scope)
    snapshot = gate.snapshot()
    found = readable(principal, snapshot.contracts.values(), snapshot.catalog, now=gate.now())
    limit, after = parse_listing(scope["query_string"])
    # By name, so the name of the last one is where the next page goes on.
    rest = [one for one in found if one.contract.stream > after]
    page: dict[str, object] = {
        "streams": [partner_entry(one.contract, one.plan, gate.public_url(), masks=one.masks) for one in rest[:limit]]
    }
    if len(rest) > limit:
        page["next"] = rest[limit - 1].contract.stream
    body = json.dumps(page, default=str).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
