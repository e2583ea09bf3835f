"""Refusals below the application: the same problem bodies, as whole answers on a connection that then ends."""

from __future__ import annotations

import asyncio
import uuid

from gateway.errors import GatewayError
from gateway.server.again import encode_answer
from gateway.transport.problems import problem

DISCARD_BYTES = 1024 * 1024
"""How much a refused peer may still send before it is cut off at once."""


def encode_refusal(error: GatewayError, *, date_header: list[tuple[bytes, bytes]]) -> bytes:
    """A whole HTTP/1.1 answer with a problem body, after which the connection closes."""
    status, headers, body = problem(error, correlation_id=uuid.uuid4().hex)
    return encode_answer(status, [*headers, (b"connection", b"close")], body, default_headers=date_header)


def end_output(transport: asyncio.Transport) -> bool:
    """Say that nothing follows what is written, and go on reading; False if the connection is closing instead.

    Closing with input unread resets the connection, and the reset may overtake the answer.
    """
    if not transport.can_write_eof():
        transport.close()
        return False
    try:
        transport.write_eof()
    except OSError:
        # The peer has already reset the connection.
        transport.abort()
    return not transport.is_closing()
