"""HTTP streaming: one JSON object a line, the frames of the WebSocket's server side."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Receive, Scope, Send

from gateway.model import Transport
from gateway.ports import WRITER_EXTENSION
from gateway.subscription.encode import FRAMINGS
from gateway.subscription.subscription import TOO_SLOW_SECONDS
from gateway.transport.gate import Gate
from gateway.transport.outlet import DirectHttpOutlet, QueuedOutlet

log = logging.getLogger("gateway.transport")
TRANSPORT: Transport = "ndjson"
MEDIA_TYPE = "application/x-ndjson"
_FRAMING = FRAMINGS["ndjson"]


async def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one read."""
    grant, request, shape = await gate.admit(scope, transport=TRANSPORT)
    async with gate.open(scope, grant, request, shape, transport=TRANSPORT) as opening:
        session = gate.registry.new_session()
        headers = [
            (b"content-type", MEDIA_TYPE.encode("ascii")),
            (b"cache-control", b"no-store, no-transform"),
            (b"x-accel-buffering", b"no"),
            (b"gateway-session", session.encode("ascii")),
            *gate.stream_headers(opening, grant, shape),
        ]
        hello = gate.welcome(opening, grant, shape, session=session, framing=_FRAMING)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": hello, "more_body": True})
        if WRITER_EXTENSION not in (scope.get("extensions") or {}):
            queued = QueuedOutlet(_FRAMING)
            gate.subscribe(scope, opening, grant, shape, session=session, transport=TRANSPORT, outlet=queued)
            await _send_queued(queued, receive, send)
            return
        outlet = DirectHttpOutlet(scope["extensions"][WRITER_EXTENSION](), _FRAMING)
        subscription = gate.subscribe(scope, opening, grant, shape, session=session, transport=TRANSPORT, outlet=outlet)
        await outlet.serve(subscription, send)


async def _send_queued(outlet: QueuedOutlet, receive: Receive, send: Send) -> None:
    """The same stream where the server has no direct writer."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        outlet.lost()

    watching = asyncio.ensure_future(watch())
    try:
        async for piece in outlet.pieces():
            async with asyncio.timeout(TOO_SLOW_SECONDS):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except TimeoutError:
        # Too slow for a goodbye: leaving the body unfinished makes the server cut the connection.
        log.info("a reader accepted no byte for %s s", TOO_SLOW_SECONDS)
    finally:
        watching.cancel()
        outlet.lost()
