"""What one connection may do, and for how long, before the server ends it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """Bounds below the application; every one ends in an answer (4xx, close code) where there is still one to give."""

    header_seconds: float = 10.0
    """From connect, or the first byte of a later request, to the end of its headers; also the TLS handshake."""
    body_seconds: float = 10.0
    """From the end of the headers to the end of the body."""
    idle_seconds: float = 60.0
    """A kept-alive connection without a request."""
    close_seconds: float = 5.0
    """From our close to the peer's; after it the connection is aborted."""
    linger_seconds: float = 1.0
    """How long a refused peer is read on, and what it sends thrown away, so that no reset overtakes the answer."""
    sweep_seconds: float = 1.0
    """How often deadlines are looked at, so by how much they may be late."""

    url_bytes: int = 8_192
    header_line_bytes: int = 8_192
    headers_bytes: int = 32 * 1024
    header_lines: int = 100
    body_bytes: int = 64 * 1024
    pipelined_requests: int = 8
    """Requests waiting behind the one being answered."""

    message_bytes: int = 64 * 1024
    """One WebSocket message, all fragments together."""
    message_frames: int = 64
    """Fragments of one message."""
    control_frames_per_second: int = 50
    queued_messages: int = 64
    """Messages the application has not taken yet, give or take 1 KiB of input; the rest waits unread."""
