"""Server-Sent Events (WHATWG HTML §9.2)."""

from __future__ import annotations

import random
from collections.abc import Awaitable
from typing import Final

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from gateway.errors import GatewayError
from gateway.model import Transport
from gateway.ports import WRITER_EXTENSION
from gateway.subscription import events
from gateway.subscription.encode import FRAMINGS
from gateway.subscription.events import RECONNECT_MS
from gateway.subscription.registry import RETRY_MS
from gateway.subscription.subscription import TOO_SLOW_SECONDS, Subscription
from gateway.transport.credentials import has_ticket
from gateway.transport.gate import Gate
from gateway.transport.outlet import DirectHttpOutlet, QueuedOutlet

TRANSPORT: Transport = "sse"
MEDIA_TYPE = "text/event-stream"
_FRAMING = FRAMINGS["sse"]
_NEVER_SECONDS = 10**9
_PASSING = (409, 429, 503)
LONGEST_RETRY_MS: Final = 3_600_000
"""Browsers' timers wrap around at 25 days, and would come back at once."""


def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Answer one read."""
    # No coroutine where there is nothing to add: its frame would stay for as long as the stream does.
    return (_serve_by_ticket if has_ticket(scope) else _serve)(gate, scope, receive, send)


async def _serve_by_ticket(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """The same for an EventSource: it never comes back after an answer other than 200, so what will pass is told in
    one."""
    try:
        await _serve(gate, scope, receive, send)
    except GatewayError as error:
        if error.status not in _PASSING:
            raise
        wait_ms = RECONNECT_MS if error.retry_after_ms is None else error.retry_after_ms
        body = b"retry: %d\n" % min(wait_ms, LONGEST_RETRY_MS) + _FRAMING.event(
            "goodbye", events.goodbye(error), cursor=None
        )
        headers = [
            (b"content-type", MEDIA_TYPE.encode("ascii")),
            (b"cache-control", b"no-store, no-transform"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    grant, request, shape = await gate.admit(scope, transport=TRANSPORT)
    async with gate.open(scope, grant, request, shape, transport=TRANSPORT) as opening:
        session = gate.registry.new_session()
        headers = [
            (b"cache-control", b"no-store, no-transform"),
            (b"x-accel-buffering", b"no"),
            (b"gateway-session", session.encode("ascii")),
            *gate.stream_headers(opening, grant, shape),
        ]
        # The stream's own jitter: after a lost connection its readers do not come back all at once. No empty line: the
        # first event ends it, since some clients take a retry that stands alone for a message without data.
        hello = b"retry: %d\n" % random.randint(*RETRY_MS)  # noqa: S311
        if WRITER_EXTENSION not in (scope.get("extensions") or {}):
            queued = QueuedOutlet(_FRAMING)
            queued.say(hello)
            _greet(gate.subscribe(scope, opening, grant, shape, session=session, transport=TRANSPORT, outlet=queued))
            await _send_queued(queued, headers, scope, receive, send)
            return
        headers.append((b"content-type", MEDIA_TYPE.encode("ascii")))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": hello, "more_body": True})
        outlet = DirectHttpOutlet(scope["extensions"][WRITER_EXTENSION](), _FRAMING)
        subscription = gate.subscribe(scope, opening, grant, shape, session=session, transport=TRANSPORT, outlet=outlet)
        _greet(subscription)
        # What this frame holds, each idle read holds.
        del headers, hello, session
        await outlet.serve(subscription, send)


def _greet(subscription: Subscription) -> None:
    """A checkpoint at once where no record is at hand.

    Whoever is cut off before the first record needs an id to come back with: an EventSource without one would ask for
    ``from=latest`` again, and never see what came in between.
    """
    if subscription.ended is False and subscription.reading is not None and subscription.reading.at_head:
        subscription.say_checkpoint()


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
