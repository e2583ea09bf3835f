"""A running read under a fresh token: ``POST /v1/sessions/{session}/token``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gateway.subscription.request import parse_nothing
from gateway.transport.bodies import read_object
from gateway.transport.gate import Gate


async def refresh(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 204 where the read goes on under the request's token, from the next record on."""
    principal = await gate.principal(scope)
    parse_nothing(scope["query_string"])
    # The token comes as the header: one in the body would be passed over, and its sender think it was taken.
    await read_object(Request(scope, receive), ())
    await gate.sessions.refresh(scope["path_params"]["session"], principal, gate.tenant(principal))
    await send({"type": "http.response.start", "status": 204, "headers": [(b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": b""})
