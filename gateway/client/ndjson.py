"""NDJSON as bytes → events; no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.client.event import Event, MalformedEvent, decode_frame

LINE_BYTES: Final = 64 * 1024 * 1024
"""The longest line; a server that sends more is not ours."""


class NdjsonDecoder:
    """Feeds on bytes split anywhere; a line that has not ended when the bytes end never was."""

    retry_ms: int | None = None

    def __init__(self) -> None:
        self._line = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events of the lines that these bytes complete; empty lines and unknown types are passed over.

        To be read to its end before the next bytes. Raises MalformedEvent, after the events that stand before it.
        """
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            line = bytes(self._line + piece) if self._line else piece
            self._line.clear()
            if line.strip() and (event := decode_frame(line.decode("utf-8", "replace"))) is not None:
                yield event
        self._line += rest
        if len(self._line) > LINE_BYTES:
            raise MalformedEvent(f"a line of more than {LINE_BYTES} bytes")
