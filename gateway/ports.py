"""The ports between the engine and the servers it may run under: words only, no implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

WRITER_EXTENSION = "gateway.writer"
"""Key in ``scope["extensions"]``; its value is an ``OpenWriter``. Absent under servers that are not ours."""

AGAIN_EXTENSION = "gateway.again"
"""Key in ``scope["extensions"]``; its value is a ``KeepAgain``. Absent under servers that are not ours."""

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers and the whole body."""

AnswerAgain = Callable[[], Callable[[], Answer] | None]
"""What is to be said to the same request, had it come now: decided at once, and put into words when it is called. None:
the request has to be served to tell. Never waits."""

KeepAgain = Callable[[AnswerAgain], None]
"""Called once the request is answered: should the next one on this connection be the same, byte for byte, the server
asks ``AnswerAgain`` first, and makes no request of it where that has an answer. It may forget this at any time."""


class DirectWriter(Protocol):
    """Bytes straight into one connection's transport, beside ASGI ``send``.

    HTTP: open it after ``http.response.start`` and the first ``http.response.body`` with ``more_body``; end the
    response with an ASGI ``http.response.body`` without it, which also ends the writer. While ``paused`` that last
    ``send`` waits for the peer: ``abort`` one that is too slow instead. WebSocket: open it after
    ``websocket.accept``; write whole, unmasked frames; end with an ASGI ``websocket.close``, which never waits. What
    ``send`` and ``write`` are given leaves in the order of the calls, and a pong of the server's own never lands
    inside a frame that one ``write`` brought.
    """

    paused: bool
    """Our buffer stands over its high-water mark: write no more until ``on_resume``."""

    chunked: bool
    """Body bytes must come framed as HTTP/1.1 chunks. False for HTTP/1.0 and WebSocket."""

    closed: bool
    """Nothing more will be sent (peer gone, closing, close frame sent, response ended): writes are dropped."""

    accepted_monotonic: float
    """When the peer was last known to take bytes, on the ``time.monotonic`` scale; for a paused connection only.

    Set at the pause and at the resume; between them nothing is added to the buffer, so once a second the server looks
    whether it has become smaller (under TLS also, whether the peer's kernel has acknowledged more), and moves this if
    so. While not ``paused`` it means nothing.
    """

    on_resume: Callable[[], None] | None
    """Called each time ``paused`` turns False; set it to None to be called no more."""

    on_close: Callable[[], None] | None
    """Called once when the connection is lost, after ``closed``; not at all if it was ``closed`` when opened or the
    response ended in order."""

    def write(self, data: bytes, /) -> None:
        """Hand over bytes; never waits. The object is kept, not copied, and is shared by many connections: ``bytes``.

        Look it up at every call: the attribute is the transport's own method, and another one once ``closed``.
        """
        ...

    def unsent(self) -> int:
        """Bytes still in this process, not in the kernel.

        After the connection is lost: how many never left, as known at the loss. An abort of ours is exact; where the
        peer broke off, the loop may have thrown its buffer away before telling, and then the last look (at most a
        second old) counts if it was more. Under TLS what is between cipher and socket is not seen: the last write, or
        64 KiB where that was less.
        """
        ...

    def abort(self) -> None:
        """Drop the connection now, with all that is unsent. Idempotent."""
        ...


OpenWriter = Callable[[], DirectWriter]
"""Gives the one writer of this request; raises ``RuntimeError`` where the response has not begun, has ended, or has no
body of open length."""
