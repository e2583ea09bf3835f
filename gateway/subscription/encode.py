"""Records and control events as wire bytes: a framing for each protocol around an envelope's JSON."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from gateway.cursor import CursorCodec, CursorWriter
from gateway.hub.block import Block, Gap
from gateway.model import UNREADABLE, Contract, Record, Vector
from gateway.subscription.envelope import FramingName, envelope_of
from gateway.subscription.mask import Mask
from gateway.subscription.payload import Undecodable, json_text
from gateway.subscription.projection import Projection
from gateway.subscription.shape import Shape
from gateway.uid import RecordIdentity
from gateway.units import format_rfc3339
from gateway.usage import UNIT_BYTES

_json = msgspec.json.Encoder().encode


class Framing(Protocol):
    """How one protocol spells a record and a control event."""

    name: FramingName

    def record(self, cursor: bytes, json: bytes) -> bytes:
        """One record, with the envelope's JSON on one line."""
        ...

    def event(self, name: str, data: Mapping[str, Any], *, cursor: str | None = None) -> bytes:
        """A control event. ``cursor``: where the stream stands, for events that a client may resume from."""
        ...


class SseFraming:
    """Server-Sent Events (WHATWG HTML §9.2): records without an event name, so that ``onmessage`` gets them."""

    name: FramingName = "sse"

    def record(self, cursor: bytes, json: bytes) -> bytes:
        return b"id: %b\ndata: %b\n\n" % (cursor, json)

    def event(self, name: str, data: Mapping[str, Any], *, cursor: str | None = None) -> bytes:
        place = f"id: {cursor}\n".encode() if cursor else b""
        retry = b""
        if name == "goodbye" and data.get("retry_after_ms") is not None:
            retry = b"retry: %d\n" % data["retry_after_ms"]
        return b"%bevent: %b\n%bdata: %b\n\n" % (retry, name.encode(), place, _json(data))


class NdjsonFraming:
    """One JSON object a line, with its type."""

    name: FramingName = "ndjson"

    def record(self, cursor: bytes, json: bytes) -> bytes:
        return json + b"\n"

    def event(self, name: str, data: Mapping[str, Any], *, cursor: str | None = None) -> bytes:
        return _typed(name, data, cursor) + b"\n"


class WebSocketFraming:
    """Ready-made unmasked text frames of a server (RFC 6455 §5.2), so that many messages leave in one write."""

    name: FramingName = "ws"

    def record(self, cursor: bytes, json: bytes) -> bytes:
        return text_frame(json)

    def event(self, name: str, data: Mapping[str, Any], *, cursor: str | None = None) -> bytes:
        return text_frame(_typed(name, data, cursor))


class PullFraming:
    """Elements of a JSON array, each with the comma that follows it. Gaps stand beside the array."""

    name: FramingName = "pull"

    def record(self, cursor: bytes, json: bytes) -> bytes:
        return json + b","

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
    """Encodes one contract's records in one shape and framing; implements the view's ``Encoder``."""

    def __init__(
        self,
        contract: Contract,
        framing: Framing,
        *,
        codec: CursorCodec,
        identity: RecordIdentity,
        incarnation: int,
        shape: Shape,
        stream_url: str,
    ) -> None:
        # Views are shared by the contract's identity, so whoever encodes for one keeps it from being freed.
        self.contract = contract
        self._stream = contract.stream
        self._codec = codec
        self._identity = identity
        self._incarnation = incarnation
        self._shard = shape.shard
        self._framing = framing
        self._envelope = envelope_of(shape.envelope, contract, framing.name, stream_url=stream_url)
        self._is_json = contract.is_json
        self._projection = None if shape.projection is None else Projection(shape.projection)
        self._mask = Mask(shape.masks) if shape.masks else None
        self._key_exposed = contract.key_exposed
        self._headers = contract.headers

    def begin(self, before: Vector) -> CursorWriter:
        return self._codec.writer_at(self._stream, before, incarnation=self._incarnation, shard=self._shard)

    def encode(self, block: Block, records: Sequence[Record], *, first: int, chosen: Sequence[int] | None) -> None:
        writer = block.writer
        if writer is None:
            raise ValueError("the block has no cursor writer: begin() gives it one")
        advance, seal, frame = writer.advance, writer.seal, self._framing.record
        index, ends, data_ends, times = block.index, block.ends, block.data_ends, block.times
        end, data_end = (ends[-1], data_ends[-1]) if ends else (0, 0)
        parts: list[bytes] = []
        bad_from: bytes | None = None
        bad_records = 0
        # What is not chosen does not move the cursors between: resuming only looks at it again.
        for at in range(len(records)) if chosen is None else chosen:
            record = records[at]
            try:
                body, cost = self._data(record.value)
            except Undecodable:
                if bad_from is None:
                    bad_from = seal()
                    index.append(first + at)
                    ends.append(end)
                    data_ends.append(data_end)
                    times.append(record.timestamp)
                    bad_records = 0
                bad_records += 1
                advance(record.partition, record.next)
                # Bad records in a row are one gap, and its entry stands at the last of them: a reader that starts
                # between them must hear of it too.
                index[-1] = first + at
                continue
            if bad_from is not None:
                end = self._close_gap(block, parts, bad_from, seal(), bad_records)
                bad_from = None
            advance(record.partition, record.next)
            cursor = seal()
            part = frame(cursor, self._spell(cursor, record, body))
            parts.append(part)
            end += len(part)
            data_end += cost
            if not 0 < cost <= UNIT_BYTES:
                block.is_plain = False
            index.append(first + at)
            ends.append(end)
            data_ends.append(data_end)
            times.append(record.timestamp)
        if bad_from is not None:
            self._close_gap(block, parts, bad_from, seal(), bad_records)
        block.seal(parts)

    def encode_one(self, writer: CursorWriter, record: Record) -> tuple[bytes, int] | None:
        try:
            body, cost = self._data(record.value)
        except Undecodable:
            return None
        writer.advance(record.partition, record.next)
        cursor = writer.seal()
        return self._framing.record(cursor, self._spell(cursor, record, body)), cost

    def _close_gap(self, block: Block, parts: list[bytes], start: bytes, resumed_at: bytes, records: int) -> int:
        """Give the gap entry at the end of ``block`` its bytes; returns where they end."""
        gap = Gap(entry=len(block.index) - 1, reason="undecodable", start=start, resumed_at=resumed_at, records=records)
        block.gaps.append(gap)
        part = self._framing.event("gap", gap.data(), cursor=resumed_at.decode())
        parts.append(part)
        block.ends[-1] += len(part)
        return block.ends[-1]

    def _spell(self, cursor: bytes, record: Record, body: bytes) -> bytes:
        """The record in its envelope."""
        key = headers = b""
        if self._key_exposed and record.key is not None:
            key = self._envelope.key(record.key)
        if self._headers:
            headers = self._exposed(record.headers)
        uid = self._identity.uid(record.partition, record.offset)
        return self._envelope.spell(cursor, uid, key + headers, _time(record.timestamp), body)

    def _data(self, value: bytes | None) -> tuple[bytes, int]:
        """The payload's JSON text and its metered bytes: its own length; of base64, of what it decodes to."""
        if value is None:
            return b"null", 4
        if value is UNREADABLE:
            raise Undecodable("it could not be taken from Kafka")
        if not self._is_json:
            return b'"%b"' % base64.b64encode(value), len(value)
        text = json_text(value)
        if self._projection is not None:
            text = self._projection.apply(text)
        if self._mask is not None:
            text = self._mask.apply(text)
        return text, len(text)

    def _exposed(self, headers: tuple[tuple[str, bytes], ...]) -> bytes:
        """The headers that the contract lists; of several with one name the last, as Kafka's own clients read them."""
        found = {name: value for name, value in headers if name in self._headers}
        return self._envelope.headers(found) if found else b""


def _time(millis: int) -> bytes:
    second, rest = divmod(millis, 1000)
    return b"%b%03dZ" % (_time_prefix(second), rest)


@functools.lru_cache(maxsize=1024)
def _time_prefix(second: int) -> bytes:
    """All but the milliseconds; many records share a second, whatever the view."""
    return format_rfc3339(second * 1000)[:-4].encode()
