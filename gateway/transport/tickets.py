"""``POST /v1/tickets``: a word for an address, where a browser can send no header."""

from __future__ import annotations

import json
from typing import Final

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gateway.auth.tickets import OPEN_SECONDS
from gateway.errors import InvalidParameter, OriginNotAllowed, TransportNotOffered
from gateway.model import Principal, Transport
from gateway.subscription.request import parse_nothing
from gateway.transport.bodies import read_object, read_text
from gateway.transport.cors import own_origin
from gateway.transport.gate import Gate

BY_TICKET: Final[tuple[Transport, ...]] = ("sse", "ws", "ndjson")
MAX_NAME_CHARACTERS: Final = 256


async def issue(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 201 with a ticket for one read of a stream that the request's token may read."""
    principal = await gate.principal(scope)
    parse_nothing(scope["query_string"])
    body = await read_object(Request(scope, receive), {"stream", "origin"})
    stream = read_text(body, "stream", most=MAX_NAME_CHARACTERS)
    origin = read_text(body, "origin", most=MAX_NAME_CHARACTERS) if "origin" in body else None
    _check_readable(gate, principal, stream)
    if origin is not None:
        _check_listed(gate, principal, origin)
    ticket = await gate.tickets.issue(principal, stream, origin)
    answer = json.dumps({"ticket": ticket, "expires_in": OPEN_SECONDS}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(answer)),
    ]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def _check_readable(gate: Gate, principal: Principal, stream: str) -> None:
    """Raises what a read over each of the protocols that take tickets would meet."""
    refused: TransportNotOffered | None = None
    for transport in BY_TICKET:
        try:
            gate.grant(principal, stream, transport)
            return
        except TransportNotOffered as error:
            refused = error
    raise refused or InvalidParameter("No protocol of this stream takes tickets.")


def _check_listed(gate: Gate, principal: Principal, origin: str) -> None:
    if origin != own_origin(gate.public_url()) and origin not in gate.application(principal).origins:
        raise OriginNotAllowed("The application does not list this origin.")
