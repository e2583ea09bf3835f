"""WebSocket, subprotocol ``gateway.v1``: JSON text frames, one message a record (RFC 6455)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from gateway.auth.jose import Malformed, decode_object
from gateway.errors import BadRequest, GatewayError, TooSlow
from gateway.model import Transport
from gateway.ports import WRITER_EXTENSION
from gateway.subscription.encode import FRAMINGS
from gateway.subscription.subscription import TOO_SLOW_SECONDS, Subscription
from gateway.transport.gate import Gate
from gateway.transport.outlet import DirectWebSocketOutlet, QueuedOutlet
from gateway.transport.problems import SUBPROTOCOL

TRANSPORT: Transport = "ws"
CLOSE_SECONDS = 5.0
BAD_FRAMES = 3
"""At so many frames that are no command the connection is closed with 4400."""

_FRAMING = FRAMINGS["ws"]
_LINES = FRAMINGS["ndjson"]
_COMMANDS = "auth, pause, resume"


async def serve(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one read."""
    grant, request, shape = await gate.admit(scope, transport=TRANSPORT)
    async with gate.open(scope, grant, request, shape, transport=TRANSPORT) as opening:
        session = gate.registry.new_session()
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        headers = [(b"gateway-session", session.encode("ascii")), *gate.stream_headers(opening, grant, shape)]
        await receive()
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
        outlet: DirectWebSocketOutlet | QueuedOutlet
        if WRITER_EXTENSION in (scope.get("extensions") or {}):
            outlet = DirectWebSocketOutlet(scope["extensions"][WRITER_EXTENSION](), _FRAMING, send)
        else:
            # Lines are messages with a line end: what the server wants one by one is cut out of the same bytes.
            outlet = QueuedOutlet(_LINES)
        outlet.say(gate.welcome(opening, grant, shape, session=session, framing=outlet.framing))
        subscription = gate.subscribe(scope, opening, grant, shape, session=session, transport=TRANSPORT, outlet=outlet)
        try:
            if isinstance(outlet, QueuedOutlet):
                await _serve_queued(gate, subscription, outlet, receive, send)
            else:
                await _listen(gate, subscription, receive)
        finally:
            subscription.leave()


async def _serve_queued(
    gate: Gate, subscription: Subscription, outlet: QueuedOutlet, receive: Receive, send: Send
) -> None:
    """The same stream where the server has no direct writer: sending and listening side by side, until one ends."""
    sending = asyncio.ensure_future(_send_queued(outlet, send))
    listening = asyncio.ensure_future(_listen(gate, subscription, receive))
    try:
        await asyncio.wait((sending, listening), return_when=asyncio.FIRST_COMPLETED)
        subscription.leave()
        await sending
    finally:
        listening.cancel()
        sending.cancel()
        await asyncio.gather(sending, listening, return_exceptions=True)


async def _send_queued(outlet: QueuedOutlet, send: Send) -> None:
    """Send what the outlet is given, then the close."""
    error = None
    try:
        async for piece in outlet.pieces():
            # JSON holds no raw line ends, so each line is one message.
            for line in piece.splitlines():
                async with asyncio.timeout(TOO_SLOW_SECONDS):
                    await send({"type": "websocket.send", "text": line.decode("utf-8")})
        error = outlet.error
    except TimeoutError:
        error = TooSlow(f"No byte was accepted for {TOO_SLOW_SECONDS:.0f} s.")
    except (OSError, RuntimeError):
        # How servers say that the client has gone while we were sending.
        return
    if error is not None:
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await send({"type": "websocket.close", "code": error.close_code, "reason": error.code})


async def _listen(gate: Gate, subscription: Subscription, receive: Receive) -> None:
    """Obey the client's frames until it goes."""
    refused = 0
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        if subscription.ended is not False:
            continue
        try:
            command = _command(message)
            if command["type"] == "auth":
                await _refresh(gate, subscription, command)
            else:
                _obey(subscription, command)
        except GatewayError as error:
            refused += 1
            subscription.say("error", {"code": error.code, "reason": error.detail})
            if refused >= BAD_FRAMES:
                subscription.end(BadRequest(f"{BAD_FRAMES} frames were no command: {error.detail}"))


async def _refresh(gate: Gate, subscription: Subscription, command: dict[str, Any]) -> None:
    """Go on under a fresh token; one that is refused changes nothing, and is no bad frame."""
    if not isinstance(command.get("token"), str) or len(command) > 2:
        raise BadRequest('The frame auth has one member besides type: "token", the access token.')
    try:
        principal = await gate.verify(command["token"])
        await gate.sessions.refresh(subscription.session, principal, gate.tenant(principal))
    except GatewayError as error:
        subscription.say("error", {"code": error.code, "reason": error.detail})


def _command(message: Message) -> dict[str, Any]:
    """The JSON object of one client frame. Raises BadRequest."""
    text = message.get("text")
    if text is None:
        raise BadRequest("Binary frames are not understood; send JSON text.")
    try:
        command = decode_object(text.encode("utf-8", "surrogatepass"))
    except Malformed:
        raise BadRequest("The frame is not one JSON object with each member once.") from None
    if not isinstance(command.get("type"), str):
        raise BadRequest(f'A frame is an object with a "type"; known: {_COMMANDS}.')
    return command


def _obey(subscription: Subscription, command: dict[str, Any]) -> None:
    unknown = sorted(str(name) for name in command if name != "type")
    if command["type"] == "pause" and not unknown:
        subscription.pause()
    elif command["type"] == "resume" and not unknown:
        subscription.resume()
    elif command["type"] in ("pause", "resume"):
        raise BadRequest(f"The frame {command['type']} has no members besides type.")
    else:
        raise BadRequest(f"The frame type {command['type'][:40]!r} is not known; known: {_COMMANDS}.")
