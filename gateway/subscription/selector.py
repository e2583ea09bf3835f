"""Row filters: which records of a log a reader's view holds.

The value at a pointer is decoded once per record and log, whoever asks; each view then only looks its own values up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from gateway.hub.log import Page, TopicLog
from gateway.model import Record, RowMatch
from gateway.subscription.projection import tokens

Scalar = tuple[bool, str | int | float | None]
"""A JSON scalar that compares as JSON does: true is not 1, so booleans carry a mark."""

_ABSENT: Final[Scalar] = (False, None)


def scalar(value: Any) -> Scalar:
    """``value`` for comparison; anything but a string, number or boolean compares to nothing."""
    if isinstance(value, bool):
        return (True, value)
    if isinstance(value, str | int | float):
        return (False, value)
    return _ABSENT


def extractor(pointer: str) -> Callable[[bytes | None], Scalar]:
    """A function that reads the scalar at ``pointer`` (object members only) from a payload; absent where there is
    none, or where the payload is not JSON."""
    kind: Any = Any
    for token in reversed(tokens(pointer)):
        kind = msgspec.defstruct("Level", [("below", kind, msgspec.UNSET)], rename={"below": token})
    decode = msgspec.json.Decoder(kind).decode
    depth = len(tokens(pointer))

    def read(value: bytes | None) -> Scalar:
        if value is None:
            return _ABSENT
        try:
            value.decode("utf-8")
            found: Any = decode(value)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError):
            return _ABSENT
        for _ in range(depth):
            if found is msgspec.UNSET:
                return _ABSENT
            found = found.below
        return scalar(found)

    return read


class FieldIndex:
    """The values at one pointer for the records of one log, page by page, decoded once."""

    def __init__(self, log: TopicLog, pointer: str) -> None:
        self.read = extractor(pointer)
        self._values: dict[int, list[Scalar]] = {}
        log.on_evict.append(self._forget)

    def _forget(self, page: Page) -> None:
        self._values.pop(page.first, None)

    def values(self, page: Page) -> list[Scalar]:
        """One value for each record of the page so far."""
        known = self._values.setdefault(page.first, [])
        if len(known) < len(page.records):
            read = self.read
            known.extend([read(record.value) for record in page.records[len(known) :]])
        return known


class RowSelector:
    """The records whose field holds one of a reader's values. An undecodable record belongs to nobody."""

    def __init__(self, index: FieldIndex, rows: RowMatch) -> None:
        self._index = index
        self._wanted = frozenset(scalar(value) for value in rows.values)

    def choose(self, page: Page, a: int, b: int) -> Sequence[bool]:
        wanted = self._wanted
        return [value in wanted for value in self._index.values(page)[a:b]]

    def matches(self, record: Record) -> bool:
        return self._index.read(record.value) in self._wanted
