"""Server-Sent Events (WHATWG HTML §9.2)."""

from __future__ import annotations

import random

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from gateway.model import Transport
from gateway.ports import WRITER_EXTENSION
from gateway.subscription.encode import FRAMINGS
from gateway.subscription.registry import RETRY_MS
from gateway.subscription.subscription import TOO_SLOW_SECONDS
from gateway.transport.gate import Gate
from gateway.transport.outlet import DirectHttpOutlet, QueuedOutlet

TRANSPORT: Transport = "sse"
MEDIA_TYPE = "text/event-stream"
_FRAMING = FRAMINGS["sse"]
_NEVER_SECONDS = 10**9


async def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one read."""
    grant, request, shape = gate.admit(scope, transport=TRANSPORT)
    async with gate.open(grant, request, shape, transport=TRANSPORT) as opening:
        session = gate.registry.new_session()
        headers = [
            (b"cache-control", b"no-store, no-transform"),
            (b"x-accel-buffering", b"no"),
            (b"gateway-session", session.encode("ascii")),
            *gate.stream_headers(opening, grant, shape),
        ]
        # The stream's own jitter: after a lost connection its readers do not come back all at once.
        hello = b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311
        if WRITER_EXTENSION not in (scope.get("extensions") or {}):
            queued = QueuedOutlet(_FRAMING)
            queued.say(hello)
            gate.registry.subscribe(opening, grant, shape, session=session, transport=TRANSPORT, outlet=queued)
            await _send_queued(queued, headers, scope, receive, send)
            return
        headers.append((b"content-type", MEDIA_TYPE.encode("ascii")))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": hello, "more_body": True})
        outlet = DirectHttpOutlet(scope["extensions"][WRITER_EXTENSION](), _FRAMING)
        subscription = gate.registry.subscribe(
            opening, grant, shape, session=session, transport=TRANSPORT, outlet=outlet
        )
        await outlet.serve(subscription, send)


async def _send_queued(
    outlet: QueuedOutlet, headers: list[tuple[bytes, bytes]], scope: Scope, receive: Receive, send: Send
) -> None:
    """The same stream where the server has no direct writer: sse-starlette sends it."""
    response = EventSourceResponse(
        outlet.pieces(),
        headers={name.decode(): value.decode() for name, value in headers},
        # Heartbeats are checkpoints of ours; a comment that clients mistake for a message is not wanted.
        ping=_NEVER_SECONDS,
        send_timeout=TOO_SLOW_SECONDS,
        sep="\n",
    )
    try:
        await response(scope, receive, send)
    finally:
        outlet.lost()
