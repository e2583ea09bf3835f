"""Compressed bytes back to what they were, but never more of them than allowed: 8 KB of zstd can hold 256 MB."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

from cramjam import DecompressionError, lz4, snappy, zstd

GZIP: Final = 1
SNAPPY: Final = 2
LZ4: Final = 3
ZSTD: Final = 4

_FIRST_BYTES = 64 * 1024
_GROWTH = 8
_GZIP_WINDOW = 31  # 32 KiB, and the header of gzip instead of zlib's
# The stream that xerial's Java library writes around snappy's blocks: this mark, two versions, then length and block.
_XERIAL_MARK = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_LENGTH_BYTES = 4
_BUFFER_TOO_SMALL = "write whole buffer"


class TooLarge(Exception):
    """It holds more bytes than allowed."""


class Damaged(Exception):
    """It is not what its codec writes."""


def inflate(codec: int, data: bytes, *, limit_bytes: int) -> bytes:
    """What ``data`` holds, by Kafka's number of the codec.

    Raises TooLarge where that is more than ``limit_bytes``, at the cost of about so many bytes, and Damaged.
    """
    try:
        return _CODECS[codec](data, limit_bytes)
    except KeyError:
        raise Damaged(f"there is no codec {codec}") from None
    except (zlib.error, DecompressionError, ValueError) as error:
        raise Damaged(str(error)) from error


def _gunzip(data: bytes, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    left_bytes = limit_bytes
    while data:
        member = zlib.decompressobj(_GZIP_WINDOW)
        part = member.decompress(data, left_bytes + 1)
        left_bytes -= len(part)
        if left_bytes < 0:
            raise TooLarge
        if not member.eof:
            raise Damaged("the gzip stream is cut off")
        parts.append(part)
        # RFC 1952 §2.2: members follow one another; writers may fill up with zeros.
        data = member.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _unsnap(data: bytes, limit_bytes: int) -> bytes:
    if not data.startswith(_XERIAL_MARK):
        return _unsnap_block(data, limit_bytes)
    parts: list[bytes] = []
    at = _XERIAL_HEADER_BYTES
    while at < len(data):
        end = at + _LENGTH_BYTES + int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
        if end > len(data):
            raise Damaged("the snappy stream is cut off")
        parts.append(_unsnap_block(data[at + _LENGTH_BYTES : end], limit_bytes))
        limit_bytes -= len(parts[-1])
        at = end
    return b"".join(parts)


def _unsnap_block(data: bytes, limit_bytes: int) -> bytes:
    # A block begins with the length it is going to have, and a lie about it is found out while it is unpacked.
    if snappy.decompress_raw_len(data) > limit_bytes:
        raise TooLarge
    return bytes(snappy.decompress_raw(data))


def _into_buffer(decompress_into: Callable[[bytes, bytearray], int], data: bytes, limit_bytes: int) -> bytes:
    """Into buffers that grow: frames need not tell their size, and one as large as the limit costs its zeros."""
    size = min(limit_bytes, max(_FIRST_BYTES, _GROWTH * len(data)))
    while True:
        buffer = bytearray(size)
        try:
            written = decompress_into(data, buffer)
        except DecompressionError as error:
            if _BUFFER_TOO_SMALL not in str(error):
                raise
        else:
            return bytes(memoryview(buffer)[:written])
        if size >= limit_bytes:
            raise TooLarge
        size = min(limit_bytes, size * _GROWTH)


def _unlz4(data: bytes, limit_bytes: int) -> bytes:
    return _into_buffer(lz4.decompress_into, data, limit_bytes)


def _unzstd(data: bytes, limit_bytes: int) -> bytes:
    return _into_buffer(zstd.decompress_into, data, limit_bytes)


_CODECS: Final[dict[int, Callable[[bytes, int], bytes]]] = {GZIP: _gunzip, SNAPPY: _unsnap, LZ4: _unlz4, ZSTD: _unzstd}
