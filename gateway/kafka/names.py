"""Header names that are no UTF-8, made readable: aiokafka would refuse the record, and every other one behind it."""

from __future__ import annotations

import re
import struct
from typing import Final

_PREFIX: Final = struct.Struct(">qi")
_COUNT: Final = struct.Struct(">i")
_COUNT_AT: Final = 57
_RECORDS_AT: Final = 61
_MAGIC_AT: Final = 16
_WITH_HEADERS: Final = 2
_BAD: Final = re.compile("[\udc80-\udcff]")


def legible(data: bytes) -> bytes:
    """A record set of plain batches whose header names are all UTF-8: each byte that is not becomes a ``?``.

    Nothing changes its place. Checksums are not made anew: ask for it behind the last one who looks at them. A record
    that cannot be read at all, and what follows it in its batch, is left as it is.
    """
    changed = bytearray(data)
    at = 0
    while at + _RECORDS_AT <= len(data):
        _, length = _PREFIX.unpack_from(data, at)
        stop = at + _PREFIX.size + length
        if length <= 0:
            break
        if data[at + _MAGIC_AT] == _WITH_HEADERS:
            (count,) = _COUNT.unpack_from(data, at + _COUNT_AT)
            _mend(changed, at + _RECORDS_AT, min(stop, len(data)), count)
        at = stop
    return bytes(changed)


def _mend(changed: bytearray, at: int, stop: int, count: int) -> None:
    """The names of ``count`` records (KIP-98) that begin at ``at``."""
    for _ in range(count):
        try:
            size, at = _varint(changed, at)
            follows = at + size
            if not at < follows <= stop:
                return
            _, at = _varint(changed, at + 1)  # behind the attributes: the time
            _, at = _varint(changed, at)  # the offset
            at = _skip(changed, _skip(changed, at))  # key and value
            headers, at = _varint(changed, at)
            for _ in range(headers):
                size, at = _varint(changed, at)
                if size < 0 or at + size > follows:
                    return
                _mend_name(changed, at, at + size)
                at = _skip(changed, at + size)
        except (IndexError, ValueError):
            return
        at = follows


def _varint(data: bytearray, at: int) -> tuple[int, int]:
    """A number and where it ends. Raises IndexError and ValueError: aiokafka's own reads on beyond the end."""
    number = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
        shift += 7
    raise ValueError("a number without end")


def _skip(data: bytearray, at: int) -> int:
    """Behind a length and as many bytes; -1 stands for none."""
    size, at = _varint(data, at)
    return at + max(0, size)


def _mend_name(changed: bytearray, at: int, stop: int) -> None:
    name = changed[at:stop].decode("utf-8", "surrogateescape")
    mended = _BAD.sub("?", name)
    if mended != name:
        changed[at:stop] = mended.encode("utf-8")
