"""The direct writer: a transport's own ``write`` with just enough around it to know when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

_ACKED_OFFSET: Final = 120
_ACKED = struct.Struct("=Q")
"""``tcpi_bytes_acked`` of ``struct tcp_info`` (Linux 4.1 and later, linux/tcp.h)."""


class TransportWriter:
    """``gateway.ports.DirectWriter`` over an asyncio or uvloop transport; its protocol tells it of every change."""

    __slots__ = (
        "_acked_bytes",
        "_frozen",
        "_sampled_bytes",
        "_tls_socket",
        "_transport",
        "accepted_monotonic",
        "chunked",
        "closed",
        "on_close",
        "on_resume",
        "paused",
        "unsent",
        "write",
    )

    def __init__(self, transport: asyncio.Transport, *, chunked: bool, paused: bool) -> None:
        self._transport = transport
        self._frozen = False
        self._sampled_bytes = _buffered(transport)
        # What TLS has ciphered leaves through a second buffer, which no loop lets us see; the kernel knows instead.
        self._tls_socket = _tls_socket(transport)
        self._acked_bytes = 0
        self.chunked = chunked
        self.paused = paused
        self.closed = False
        self.accepted_monotonic = time.monotonic()
        self.on_resume: Callable[[], None] | None = None
        self.on_close: Callable[[], None] | None = None
        # Bound, not wrapped: a Python frame around each call would cost as much as everything else we do per delivery.
        self.write: Callable[[bytes], None] = transport.write
        self.unsent: Callable[[], int] = transport.get_write_buffer_size

    def abort(self) -> None:
        if not self._frozen:
            self._freeze(_buffered(self._transport))
        self.shut()
        self._transport.abort()

    # The rest is for the connection's protocol.

    def pause(self) -> None:
        """The buffer has gone over its high-water mark."""
        self.paused = True
        self._sampled_bytes = self._transport.get_write_buffer_size()
        self._acked_bytes = self._count_acked()
        self.accepted_monotonic = time.monotonic()

    def resume(self) -> None:
        """The buffer has gone under its low-water mark."""
        self.paused = False
        self._sampled_bytes = self._transport.get_write_buffer_size()
        self.accepted_monotonic = time.monotonic()
        if self.on_resume is not None:
            self.on_resume()

    def sample(self, now: float) -> None:
        """Look at the buffer; to be called about once a second while the connection lives."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if self.paused:
            acked_bytes = self._count_acked()
            if unsent_bytes < self._sampled_bytes or acked_bytes > self._acked_bytes:
                self.accepted_monotonic = now
            self._acked_bytes = acked_bytes
        self._sampled_bytes = unsent_bytes

    def shut(self) -> None:
        """From now on writes are dropped; the connection may live on."""
        self.closed = True
        self.write = _drop

    def lose(self) -> None:
        """The connection is lost: keep what was unsent, tell the owner once."""
        if not self._frozen:
            # The loop may have emptied its buffer on the way here: the last look is better than nothing.
            self._freeze(max(self._sampled_bytes, _buffered(self._transport)))
        self.shut()
        self.on_resume = None
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()

    def _count_acked(self) -> int:
        """Bytes that the peer's kernel has taken; 0 without TLS and where the system does not tell."""
        if self._tls_socket is not None:
            with contextlib.suppress(OSError, AttributeError, struct.error):
                return int(_ACKED.unpack_from(_tcp_info(self._tls_socket), _ACKED_OFFSET)[0])
        return 0

    def _freeze(self, unsent_bytes: int) -> None:
        self._frozen = True
        # No method of its own: that would keep it until the garbage collector comes.
        self.unsent = lambda: unsent_bytes


def _buffered(transport: asyncio.Transport) -> int:
    try:
        return transport.get_write_buffer_size()
    except AttributeError:
        # Closed twice, asyncio's TLS transport has forgotten what is behind it.
        return 0


def _tls_socket(transport: asyncio.Transport) -> Any:
    """The socket below TLS; None where there is no TLS or no connection any more."""
    try:
        return transport.get_extra_info("socket") if transport.get_extra_info("ssl_object") else None
    except AttributeError:
        return None


def _tcp_info(connected: Any) -> bytes:
    return connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_OFFSET + _ACKED.size)  # type: ignore[no-any-return]


def _drop(data: bytes, /) -> None:
    """Where writes go when nobody hears them; a closed uvloop transport would raise instead."""


class TellsItsWriter(asyncio.Protocol):
    """A connection's protocol as its writer, while there is one, has to hear of the buffer. To be named before the
    protocol that it adds to."""

    _writer: TransportWriter | None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writer is not None:
            self._writer.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writer is not None:
            self._writer.resume()
