"""What a process tells of its usage: totals that only grow and up to when they are complete, as messages of a topic.

A message is whole in itself: whoever has seen a later one of the same key has missed nothing, and to see one twice, or
an older one afterwards, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from gateway.model import Transport
from gateway.usage import MEASURES, Usage, UsageKey

VERSION: Final = 1
CELLS_A_MESSAGE: Final = 200
"""What a message holds at most; a tenant with more in one bucket gets several."""

MOST: Final = 2**63 - 1
SourceState = Literal["live", "ended"]


class Undecodable(ValueError):
    """What lies in the topic is none of these messages."""


class FromTheFuture(Exception):
    """A newer gateway wrote it, in a way that this one does not know."""


class CellTotals(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything counted so far under one key; ``counts`` in the order of ``usage.MEASURES``."""

    application: str
    stream: str
    plan: str
    revision: int
    transport: Transport
    is_billable: bool
    counts: tuple[int, ...]


class Totals(msgspec.Struct, frozen=True, tag="usage", tag_field="kind"):
    """All that one source has counted for a tenant in one bucket, or that ``part`` of it."""

    v: int
    source: str
    sequence: int
    tenant: str
    bucket: int
    cells: tuple[CellTotals, ...]
    part: int = 0

    @property
    def key(self) -> bytes:
        """The key in the topic."""
        part = f"/{self.part}" if self.part else ""
        return f"{self.source}/{self.tenant}/{self.bucket}{part}".encode()

    def usages(self) -> Iterator[tuple[UsageKey, Usage]]:
        """Each cell as key and usage."""
        for one in self.cells:
            yield (
                UsageKey(
                    self.tenant,
                    one.application,
                    one.stream,
                    one.plan,
                    one.revision,
                    one.transport,
                    one.is_billable,
                    self.bucket,
                ),
                Usage(*one.counts),
            )


class SourceWord(msgspec.Struct, frozen=True, tag="source", tag_field="kind"):
    """How a source stands: what it delivered before ``complete_through`` (epoch seconds) lies before this message, in
    the same partition. One that has ``ended`` delivers nothing more."""

    v: int
    source: str
    sequence: int
    state: SourceState
    node: str
    started_at: int
    complete_through: int

    @property
    def key(self) -> bytes:
        """The key in the topic."""
        return self.source.encode()


Message = Totals | SourceWord
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class _Version(msgspec.Struct):
    v: int


_version_decoder = msgspec.json.Decoder(_Version)


def encode(message: Message) -> bytes:
    """The value in the topic."""
    return _encoder.encode(message)


def decode(value: bytes | None) -> Message:
    """The message. Raises Undecodable, and FromTheFuture for what a newer gateway wrote."""
    try:
        version = _version_decoder.decode(value or b"").v
        if version > VERSION:
            raise FromTheFuture(f"version {version}, and this gateway knows {VERSION}")
        message = _decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from error
    if isinstance(message, Totals):
        for cell in message.cells:
            if len(cell.counts) != len(MEASURES) or not all(0 <= count <= MOST for count in cell.counts):
                raise Undecodable("counts that are none")
    return message
