"""Server-Sent Events as bytes → events, by the WHATWG's rules (HTML Living Standard, §9.2.5 and §9.2.6); no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.client.event import Envelope, Event, MalformedEvent, control_event, record_event

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
EVENT_BYTES: Final = 64 * 1024 * 1024
"""The most that may come before an event ends; a server that sends more is not ours."""

_LONGEST_RETRY_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One dispatched event; ``last_event_id`` is the one in force, from this event or an earlier one."""

    event: str
    data: str
    last_event_id: str


class SseParser:
    """Feeds on bytes split anywhere; an event that has not ended when the bytes end never was."""

    def __init__(self) -> None:
        self.last_event_id = ""
        """Of the last block that ended; what ``Last-Event-ID`` says at a reconnection."""
        self.retry_ms: int | None = None
        """The reconnection time that the server asked for last."""
        self._head: bytes | None = b""
        self._line = bytearray()
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self._size = 0

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete. Raises MalformedEvent for an event without end."""
        if self._head is not None:
            chunk = self._head + chunk
            if len(chunk) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(chunk):
                self._head = chunk
                return []
            self._head = None
            chunk = chunk.removeprefix(BYTE_ORDER_MARK)
        if self._after_cr and chunk:
            # A CR ends its line at once, so that nothing waits for the next bytes; its LF may come with those.
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        events: list[ServerSentEvent] = []
        for piece in chunk.splitlines(keepends=True):
            self._size += len(piece)
            self._line += piece
            if self._line.endswith((b"\n", b"\r")):
                line = bytes(self._line).rstrip(b"\r\n")
                self._line.clear()
                if line:
                    self._read_field(line)
                elif (event := self._dispatch()) is not None:
                    events.append(event)
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        if self._size > EVENT_BYTES:
            raise MalformedEvent(f"an event of more than {EVENT_BYTES} bytes")
        return events

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value.decode("utf-8", "replace"))
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            digits = value.lstrip(b"0") or b"0"
            self.retry_ms = int(digits[:_LONGEST_RETRY_DIGITS])

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_event_id = self._id
        event, data = self._event, self._data
        self._event, self._data, self._size = "", [], 0
        return ServerSentEvent(event or "message", "\n".join(data), self._id) if data else None


class SseDecoder:
    """The gateway's events in a Server-Sent Events body."""

    def __init__(self, *, envelope: Envelope = "record") -> None:
        self._parser = SseParser()
        self._envelope = envelope

    @property
    def retry_ms(self) -> int | None:
        """The reconnection time that the server asked for last."""
        return self._parser.retry_ms

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that these bytes complete; names that this client does not know are passed over.

        To be read to its end before the next bytes. Raises MalformedEvent, after the events that stand before it.
        """
        for heard in self._parser.feed(chunk):
            place = heard.last_event_id or None
            if heard.event == "message":
                yield record_event(heard.data, cursor=place, envelope=self._envelope)
            elif (event := control_event(heard.event, heard.data, place=place)) is not None:
                yield event
