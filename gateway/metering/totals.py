"""What a process tells of its usage: totals that only grow and up to when they are complete, as messages of a topic.

A message is whole in itself: whoever has seen a later one of the same key has missed nothing, and to see one twice, or
an older one afterwards, changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gateway.model import Transport
from gateway.usage import BUCKET_SECONDS, MEASURES

VERSION: Final = 1
CELLS_A_MESSAGE: Final = 200
"""What a message holds at most; a tenant with more in one bucket gets several."""

MOST: Final = 10**15
"""What one count may be: a terabyte a second for a quarter of an hour, and thousands of such cells fit into a column of
64 bits together."""

LATEST: Final = 253_370_678_400
"""Epoch seconds: no time in a message is after it (the end of the year 9998)."""

SourceState = Literal["live", "ended"]
Count = Annotated[int, Meta(ge=0, le=MOST)]
Moment = Annotated[int, Meta(ge=0, le=LATEST)]
Bucket = Annotated[int, Meta(ge=0, le=LATEST, multiple_of=BUCKET_SECONDS)]
SequenceNumber = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Revision = Annotated[int, Meta(ge=0, le=2**31 - 1)]
ShortName = Annotated[str, Meta(min_length=1, max_length=63)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
SourceName = Annotated[str, Meta(min_length=1, max_length=36)]
Node = Annotated[str, Meta(max_length=255)]
# As long as the ledger's columns, and without what no database or terminal would take for a part of a name.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Undecodable(ValueError):
    """What lies in the topic is none of these messages."""


class FromTheFuture(Exception):
    """A newer gateway wrote it, in a way that this one does not know."""


class CellTotals(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything counted so far under one key; ``counts`` in the order of ``usage.MEASURES``."""

    application: Name
    stream: Name
    plan: ShortName
    revision: Revision
    transport: Transport
    is_billable: bool
    counts: Annotated[tuple[Count, ...], Meta(min_length=len(MEASURES), max_length=len(MEASURES))]


class Totals(msgspec.Struct, frozen=True, tag="usage", tag_field="kind"):
    """All that one source has counted for a tenant in one bucket, or that ``part`` of it."""

    v: int
    source: SourceName
    sequence: SequenceNumber
    tenant: ShortName
    bucket: Bucket
    cells: tuple[CellTotals, ...]
    part: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0

    @property
    def key(self) -> bytes:
        """The key in the topic."""
        part = f"/{self.part}" if self.part else ""
        return f"{self.source}/{self.tenant}/{self.bucket}{part}".encode()


class SourceWord(msgspec.Struct, frozen=True, tag="source", tag_field="kind"):
    """How a source stands: what it delivered before ``complete_through`` (epoch seconds) lies before this message, in
    the same partition. One that has ``ended`` delivers nothing more."""

    v: int
    source: SourceName
    sequence: SequenceNumber
    state: SourceState
    node: Node
    started_at: Moment
    complete_through: Moment

    @property
    def key(self) -> bytes:
        """The key in the topic."""
        return self.source.encode()


Message = Totals | SourceWord
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class _Version(msgspec.Struct):
    """What messages of all versions have."""

    v: Annotated[int, Meta(ge=1)]
    kind: str


_version_decoder = msgspec.json.Decoder(_Version)


def encode(message: Message) -> bytes:
    """The value in the topic."""
    return _encoder.encode(message)


def decode(value: bytes | None) -> Message:
    """The message. Raises Undecodable, also for names and numbers that no gateway writes, and FromTheFuture for what a
    newer one wrote."""
    value = value or b""
    try:
        version = _version_decoder.decode(value).v
        if version > VERSION:
            raise FromTheFuture(f"version {version}, and this gateway knows {VERSION}")
        message = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from error
    except RecursionError as error:
        raise Undecodable("it is nested too deeply") from error
    if not _is_plain(value) and any(_CONTROL.search(name) for name in _names(message)):
        raise Undecodable("a name with control characters")
    return message


def _is_plain(value: bytes) -> bool:
    """Whether no text in it can hold a control character: JSON has those as escapes alone, but for a few of them."""
    return b"\\" not in value and b"\x7f" not in value and value.isascii()


def _names(message: Message) -> Iterator[str]:
    yield message.source
    if isinstance(message, SourceWord):
        yield message.node
        return
    yield message.tenant
    for cell in message.cells:
        yield from (cell.application, cell.stream, cell.plan)
