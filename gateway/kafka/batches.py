"""What a broker sends for one partition, looked through before anything else reads it: whole, in order, inflated.

A fetched record set is a row of batches (KIP-98). Compressed ones are handed on as plain ones, within a bound. One that
cannot be used is handed on as a batch with a single record in its place, marked with a word that no producer can know;
``mark_of`` recognizes it. So whatever a batch holds, reading goes on behind it.
"""

from __future__ import annotations

import secrets
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka.record.util import calc_crc32c, encode_varint

from gateway.kafka.inflation import Damaged, TooLarge, inflate

# BaseOffset, Length, PartitionLeaderEpoch, Magic, CRC, Attributes, LastOffsetDelta, FirstTimestamp, MaxTimestamp,
# ProducerId, ProducerEpoch, BaseSequence, Records
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_PREFIX: Final = struct.Struct(">qi")
_OLD_HEADER: Final = struct.Struct(">qiIbb")
_MAGIC_AT: Final = 16
_CHECKED_FROM: Final = 21
_OLD_CHECKED_FROM: Final = 16
_SMALLEST: Final = 14
_CODEC: Final = 0x07
_NEXT: Final = struct.Struct(">q")
_MARK: Final = f"unreadable-{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A batch whose records nobody can have: ``offset`` ≤ theirs < ``next``."""

    offset: int
    next: int
    reason: str


@dataclass(frozen=True, slots=True)
class Doubtful:
    """The first batch is not what a broker stores: damaged on the way, or where it lies.

    ``likeness`` is the same for the same damage. ``next`` is where reading could go on, None where it cannot be told.
    """

    reason: str
    likeness: tuple[int, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A record set of plain batches. What is cut off at its end is fetched again; so is all of it with ``doubt``."""

    data: bytes
    inflated_bytes: int = 0
    refused: Sequence[Refused] = ()
    doubt: Doubtful | None = None


class Heavy(Exception):
    """More to inflate than was allowed for now."""


class _Bad(Exception):
    def __init__(self, doubt: Doubtful) -> None:
        super().__init__(doubt.reason)
        self.doubt = doubt


def unpack(
    data: bytes, *, position: int, end: int, batch_bytes: int, budget_bytes: int, patience_bytes: int | None = None
) -> Unpacked:
    """Look through a record set that was fetched at ``position`` of a partition that ends at ``end``.

    A batch that inflates to more than ``batch_bytes`` is refused; behind the batch that exceeds ``budget_bytes`` in sum
    the set is cut off. Raises Heavy where more than ``patience_bytes`` would have to be inflated. Without compressed
    batches, the very bytes that were given come back.
    """
    walk = _Walk(position, end, batch_bytes, patience_bytes)
    parts: list[bytes] = []
    at = plain_from = 0
    while at + _PREFIX.size <= len(data):
        base, length = _PREFIX.unpack_from(data, at)
        stop = at + _PREFIX.size + length
        if stop > len(data) and length >= _SMALLEST and at:
            break  # the broker cuts at a number of bytes, and not at a batch
        try:
            replaced = walk.look(data[at:stop], base, length, whole=stop <= len(data))
        except _Bad as bad:
            if walk.passed:
                break
            return Unpacked(b"", doubt=bad.doubt)
        if replaced is not None:
            parts += (data[plain_from:at], replaced)
            plain_from = stop
        at = stop
        if walk.inflated_bytes > budget_bytes:
            break
    if not walk.passed and data:
        # Nothing but batches from before the position, or not even a prefix.
        return Unpacked(b"", doubt=Doubtful("no batch that goes on from here", (len(data),), None))
    if parts or at < len(data):
        data = b"".join((*parts, data[plain_from:at]))
    return Unpacked(data, walk.inflated_bytes, tuple(walk.refused))


class _Walk:
    """The state of one look through."""

    def __init__(self, position: int, end: int, batch_bytes: int, patience_bytes: int | None) -> None:
        self._position = position
        self._next = position
        self._end = end
        self._batch_bytes = batch_bytes
        self._patience_bytes = patience_bytes
        self.inflated_bytes = 0
        self.refused: list[Refused] = []
        self.passed = False

    def look(self, batch: bytes, base: int, length: int, *, whole: bool) -> bytes | None:
        """What to hand on instead of the batch; None for itself. Raises _Bad."""
        if not whole or length < _SMALLEST:
            raise _Bad(Doubtful("a batch that does not end where it says", (base, length), None))
        if batch[_MAGIC_AT] < 2:
            return self._look_old(batch, base)
        if len(batch) < _HEADER.size or batch[_MAGIC_AT] > 2:
            raise _Bad(Doubtful("a batch of no known format", (base, length, batch[_MAGIC_AT]), None))
        header = _HEADER.unpack_from(batch)
        crc, attributes, delta = header[4], header[5], header[6]
        follows = base + delta + 1
        found = calc_crc32c(memoryview(batch)[_CHECKED_FROM:])
        if found != crc:
            self._doubt("a batch with a wrong checksum", (base, length, crc, found), base, follows)
        if delta < 0 or header[12] < 0 or follows > self._end:
            self._doubt(f"a batch of offsets {base} to {follows - 1}, and the end is {self._end}", (base,), base, -1)
        if follows <= self._position:
            # A broker may begin with batches from before. aiokafka would take its position back to them.
            return b""
        if base < self._next and self.passed:
            self._doubt(f"a batch of offset {base} after one that ends at {self._next}", (base,), base, -1)
        self._next, self.passed = follows, True
        codec = attributes & _CODEC
        if not codec:
            return None
        body = self._inflated(codec, batch[_HEADER.size :], base, follows)
        plain = attributes & ~_CODEC
        if body is None:
            return _placeholder(header, plain, max(base, self._position), follows)
        return _HEADER.pack(base, _HEADER.size - _PREFIX.size + len(body), *header[2:5], plain, *header[6:]) + body

    def _doubt(self, reason: str, likeness: tuple[int, ...], base: int, follows: int) -> None:
        believable = base <= self._position < follows <= self._end or self._position < base < follows <= self._end
        raise _Bad(Doubtful(reason, likeness, follows if believable else None))

    def _inflated(self, codec: int, packed: bytes, base: int, follows: int) -> bytes | None:
        limit = self._batch_bytes
        if self._patience_bytes is not None:
            limit = min(limit, self._patience_bytes - self.inflated_bytes)
        reason = f"it inflates to more than {self._batch_bytes} bytes"
        try:
            body = inflate(codec, packed, limit_bytes=max(0, limit))
        except TooLarge:
            if limit < self._batch_bytes:
                raise Heavy from None
            # It was inflated up to there.
            self.inflated_bytes += self._batch_bytes
        except Damaged as damaged:
            reason = f"it cannot be unpacked ({damaged})"
        else:
            self.inflated_bytes += len(body)
            return body
        self.refused.append(Refused(max(base, self._position), follows, reason))
        return None

    def _look_old(self, message: bytes, offset: int) -> bytes | None:
        """A message of the formats before Kafka 0.11, as old segments hold them; a compressed one holds others, and is
        named by the offset of the last of them."""
        _, _, crc, magic, attributes = _OLD_HEADER.unpack_from(message)
        found = zlib.crc32(memoryview(message)[_OLD_CHECKED_FROM:])
        if found != crc:
            self._doubt("a message with a wrong checksum", (offset, crc, found), offset, offset + 1)
        if offset >= self._end:
            self._doubt(f"a message of offset {offset}, and the end is {self._end}", (offset,), offset, -1)
        if offset < self._position:
            return b""
        self._next, self.passed = offset + 1, True
        codec = attributes & _CODEC
        if codec:
            key_at = _OLD_HEADER.size + (8 if magic else 0)
            key_bytes = int.from_bytes(message[key_at : key_at + 4], "big", signed=True)
            packed = message[key_at + 4 + max(0, key_bytes) + 4 :]
            if self._inflated(codec, packed, self._position, offset + 1) is None:
                header = (offset, 0, -1, 2, 0, 0, 0, 0, 0, -1, -1, -1, 1)
                return _placeholder(header, 0, self._position, offset + 1)
        return None


def placeholder(position: int, follows: int) -> bytes:
    """A batch that stands for the offsets ``position`` to ``follows`` - 1."""
    return _placeholder((position, 0, -1, 2, 0, 0, 0, 0, 0, -1, -1, -1, 1), 0, position, follows)


def _placeholder(header: tuple[int, ...], attributes: int, offset: int, follows: int) -> bytes:
    """A batch in the place of the one with this header, its transaction included, with one marked record."""
    mark = _MARK.encode()
    record = bytearray()
    for number in (0, 0, offset - min(header[0], offset), -1, -1, 1, len(mark)):
        encode_varint(number, record.append)
    record += mark
    encode_varint(_NEXT.size, record.append)
    record += _NEXT.pack(follows)
    body = bytearray()
    encode_varint(len(record), body.append)
    body += record
    base = min(header[0], offset)
    length = _HEADER.size - _PREFIX.size + len(body)
    rest = (attributes, follows - 1 - base, *header[7:12], 1)
    return _HEADER.pack(base, length, header[2], 2, 0, *rest) + bytes(body)


def mark_of(headers: Sequence[tuple[str, bytes | None]]) -> int | None:
    """The offset after the batch for which a record with these headers stands; None for any other record."""
    if headers and headers[0][0] == _MARK and headers[0][1] is not None:
        return int(_NEXT.unpack(headers[0][1])[0])
    return None
