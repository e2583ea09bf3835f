"""A running read under a fresh token: ``POST /v1/sessions/{session}/token``."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from gateway.transport.gate import Gate


async def refresh(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 204 where the read goes on under the request's token, from the next record on."""
    principal = await gate.principal(scope)
    await gate.sessions.refresh(scope["path_params"]["session"], principal, gate.tenant(principal))
    await send({"type": "http.response.start", "status": 204, "headers": [(b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": b""})
