"""The identity of a record: the same on every node, protocol, view and delivery, and opaque."""

from __future__ import annotations

import binascii
import hashlib
import struct
from typing import Final

_BYTES: Final = 12
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLACE = struct.Struct(">IQ").pack


class RecordIdentity:
    """Names the records of one life of a topic: a keyed hash of (cluster, topic, incarnation, partition, offset).

    ``key`` is kept in the database, apart from the cursor keys, and never rotates: partners de-duplicate by it.
    """

    __slots__ = ("_base",)

    def __init__(self, key: bytes, *, cluster: str, topic: str, incarnation: int) -> None:
        self._base = hashlib.blake2b(key=key, digest_size=_BYTES, person=b"record uid")
        for part in (cluster.encode(), topic.encode(), str(incarnation).encode()):
            self._base.update(len(part).to_bytes(2, "big") + part)

    def uid(self, partition: int, offset: int) -> bytes:
        """16 characters of base64url, as ASCII bytes."""
        digest = self._base.copy()
        digest.update(_PLACE(partition, offset))
        return binascii.b2a_base64(digest.digest(), newline=False).translate(_URL_SAFE)
