"""Records and control events as wire bytes, one framing per protocol.

A record's JSON is the same everywhere; a framing only says what stands around it. ``members`` below are the record's
JSON members after the cursor, closing brace included: ``"uid":…,"time":…,"data":…}``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from gateway.cursor import CursorCodec, CursorWriter, Position
from gateway.hub.view import Block, Gap
from gateway.model import Contract, Record, Vector
from gateway.subscription.payload import Undecodable, json_text
from gateway.subscription.projection import Projection
from gateway.uid import RecordIdentity
from gateway.units import format_rfc3339

FramingName = Literal["sse", "ws", "ndjson", "pull"]
_json = msgspec.json.Encoder().encode


class Framing(Protocol):
    """How one protocol spells a record and a control event."""

    name: FramingName

    def record(self, cursor: bytes, members: bytes) -> bytes: ...

    def event(self, name: str, data: Mapping[str, Any], *, cursor: str | None = None) -> bytes:
        """A control event. ``cursor``: where the stream stands, for events that a client may resume from."""
        ...


class SseFraming:
    """Server-Sent Events (WHATWG HTML §9.2): records without an event name, so that ``onmessage`` gets them."""

    name: FramingName = "sse"

    def record(self, cursor: bytes, members: bytes) -> bytes:
        return b"id: %b\ndata: {%b\n\n" % (cursor, members)

    def event(self, name: str, data: Mapping[str, Any], *, cursor: str | None = None) -> bytes:
        place = f"id: {cursor}\n".encode() if cursor else b""
        retry = b""
        if name == "goodbye" and data.get("retry_after_ms") is not None:
            retry = b"retry: %d\n" % data["retry_after_ms"]
        return b"%bevent: %b\n%bdata: %b\n\n" % (retry, name.encode(), place, _json(data))


class NdjsonFraming:
    """One JSON object a line, with its type."""

    name: FramingName = "ndjson"

    def record(self, cursor: bytes, members: bytes) -> bytes:
        return b'{"type":"record","id":"%b",%b\n' % (cursor, members)

    def event(self, name: str, data: Mapping[str, Any], *, cursor: str | None = None) -> bytes:
        return _typed(name, data, cursor) + b"\n"


class WebSocketFraming:
    """Ready-made unmasked text frames of a server (RFC 6455 §5.2), so that many messages leave in one write."""

    name: FramingName = "ws"

    def record(self, cursor: bytes, members: bytes) -> bytes:
        return text_frame(b'{"type":"record","id":"%b",%b' % (cursor, members))

    def event(self, name: str, data: Mapping[str, Any], *, cursor: str | None = None) -> bytes:
        return text_frame(_typed(name, data, cursor))


class PullFraming:
    """Elements of a JSON array, each with the comma that follows it. Gaps stand beside the array."""

    name: FramingName = "pull"

    def record(self, cursor: bytes, members: bytes) -> bytes:
        return b'{"id":"%b",%b,' % (cursor, members)

    def event(self, name: str, data: Mapping[str, Any], *, cursor: str | None = None) -> bytes:
        return b""


FRAMINGS: Final[Mapping[FramingName, Framing]] = {
    "sse": SseFraming(),
    "ws": WebSocketFraming(),
    "ndjson": NdjsonFraming(),
    "pull": PullFraming(),
}


def _typed(name: str, data: Mapping[str, Any], cursor: str | None) -> bytes:
    return _json({"type": name} | ({"cursor": cursor} if cursor else {}) | dict(data))


def text_frame(payload: bytes) -> bytes:
    """One final, unmasked text frame."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


class RecordEncoder:
    """Encodes one contract's records for one framing; implements the view's ``Encoder``."""

    def __init__(
        self,
        contract: Contract,
        framing: Framing,
        *,
        codec: CursorCodec,
        identity: RecordIdentity,
        incarnation: int,
    ) -> None:
        self._stream = contract.stream
        self._codec = codec
        self._identity = identity
        self._incarnation = incarnation
        self._framing = framing
        self._is_json = contract.is_json
        self._projection = None if contract.projection is None else Projection(contract.projection)
        self._key_exposed = contract.key_exposed
        self._headers = contract.headers
        self._time_second = -1
        self._time_prefix = b""

    def begin(self, before: Vector) -> CursorWriter:
        return self._codec.writer(self._stream, Position(before, self._incarnation))

    def encode(self, block: Block, records: Sequence[Record], *, first: int, chosen: Sequence[bool] | None) -> None:
        writer = block.writer
        if writer is None:
            raise ValueError("the block has no cursor writer: begin() gives it one")
        advance, seal, frame = writer.advance, writer.seal, self._framing.record
        index, ends, data_ends = block.index, block.ends, block.data_ends
        end, data_end = (ends[-1], data_ends[-1]) if ends else (0, 0)
        parts: list[bytes] = []
        bad_from: bytes | None = None
        for at, record in enumerate(records):
            if chosen is not None and not chosen[at]:
                advance(record.partition, record.next)
                continue
            try:
                body, cost = self._data(record.value)
            except Undecodable:
                if bad_from is None:
                    bad_from = seal()
                    index.append(first + at)
                    ends.append(end)
                    data_ends.append(data_end)
                advance(record.partition, record.next)
                # Bad records in a row are one gap, and its entry stands at the last of them: a reader that starts
                # between them must hear of it too.
                index[-1] = first + at
                continue
            if bad_from is not None:
                end = self._close_gap(block, parts, bad_from, seal())
                bad_from = None
            advance(record.partition, record.next)
            part = frame(seal(), self._members(record, body))
            parts.append(part)
            end += len(part)
            data_end += cost
            index.append(first + at)
            ends.append(end)
            data_ends.append(data_end)
        if bad_from is not None:
            self._close_gap(block, parts, bad_from, seal())
        block.seal(parts)

    def _close_gap(self, block: Block, parts: list[bytes], start: bytes, resumed_at: bytes) -> int:
        """Give the gap entry at the end of ``block`` its bytes; returns where they end."""
        gap = Gap(entry=len(block.index) - 1, reason="undecodable", start=start, resumed_at=resumed_at)
        block.gaps.append(gap)
        part = self._framing.event("gap", gap.data(), cursor=resumed_at.decode())
        parts.append(part)
        block.ends[-1] += len(part)
        return block.ends[-1]

    def _members(self, record: Record, body: bytes) -> bytes:
        """Everything of a record after its cursor."""
        key = headers = b""
        if self._key_exposed and record.key is not None:
            key = _text_member(b"key", record.key)
        if self._headers:
            headers = self._exposed(record.headers)
        uid = self._identity.uid(record.partition, record.offset)
        return b'"uid":"%b",%b%b"time":"%b",%b}' % (uid, key, headers, self._time(record.timestamp), body)

    def _data(self, value: bytes | None) -> tuple[bytes, int]:
        """The data member and its metered bytes: the length of ``data`` as sent; of base64, of what it decodes to."""
        if value is None:
            return b'"data":null', 4
        if not self._is_json:
            return b'"data_base64":"%b"' % base64.b64encode(value), len(value)
        text = json_text(value)
        if self._projection is not None:
            text = self._projection.apply(text)
        return b'"data":' + text, len(text)

    def _exposed(self, headers: tuple[tuple[str, bytes], ...]) -> bytes:
        """The headers that the contract lists; of several with one name the last, as Kafka's own clients read them."""
        found = {name: value for name, value in headers if name in self._headers}
        if not found:
            return b""
        spelled = {name: value.decode("utf-8", "backslashreplace") for name, value in found.items()}
        return b'"headers":%b,' % _json(spelled)

    def _time(self, millis: int) -> bytes:
        second, rest = divmod(millis, 1000)
        if second != self._time_second:
            self._time_second = second
            self._time_prefix = format_rfc3339(second * 1000)[:-4].encode()
        return b"%b%03dZ" % (self._time_prefix, rest)


def _text_member(name: bytes, value: bytes) -> bytes:
    """A member of text where the bytes are UTF-8, else ``<name>_base64``."""
    try:
        return b'"%b":%b,' % (name, _json(value.decode("utf-8")))
    except UnicodeDecodeError:
        return b'"%b_base64":"%b",' % (name, base64.b64encode(value))
