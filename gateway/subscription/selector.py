"""Which records of a log a view holds: the reader's rows, its own filter, its shard.

The value at a pointer is decoded once per record and log, whoever asks. Equality is a look-up in an index of the page,
so a view that holds few records costs for those few; other terms are one comparison a record and view.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from gateway.hub.log import Page, TopicLog
from gateway.hub.view import Route
from gateway.model import Record, RowMatch
from gateway.subscription.filter import ABSENT, Term, predicate
from gateway.subscription.projection import tokens

UNDECODABLE: Final = object()
"""What a payload that is no JSON reads as."""

Key = tuple[bool, object]
"""A decoded value that compares as JSON does: true is not 1, so booleans carry a mark."""

_INT_DIGITS: Final = 4000
_UNDECODABLE_KEY: Final[Key] = (False, UNDECODABLE)


def key_of(value: Any) -> Key:
    """``value`` for look-ups; what is neither string, number nor boolean equals nothing that can be asked for."""
    if isinstance(value, bool):
        return (True, value)
    if isinstance(value, str | int | float) or value is UNDECODABLE:
        return (False, value)
    return (False, None)


def extractor(pointer: str) -> Callable[[bytes | None], Any]:
    """A function that reads the value at ``pointer`` (object members only) from a payload.

    It returns ABSENT where there is none, None for null, UNDECODABLE where the payload is not JSON in UTF-8.
    """
    path = tokens(pointer)
    decode = _decoder(path)
    depth = len(path)

    def read(value: bytes | None) -> Any:
        if value is None:
            return ABSENT
        if decode is None:
            return _read_slowly(value, path)
        try:
            value.decode("utf-8")
            found: Any = decode(value)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return _read_slowly(value, path)
        for _ in range(depth):
            if found is msgspec.UNSET:
                return ABSENT
            found = found.below
        return ABSENT if found is msgspec.UNSET else found

    return read


def _decoder(path: list[str]) -> Callable[[bytes], Any] | None:
    """A decoder to nested structs along the path; None where a name is one that msgspec takes for no struct."""
    kind: Any = Any
    try:
        for token in reversed(path):
            kind = msgspec.defstruct("Level", [("below", kind, msgspec.UNSET)], rename={"below": token})
        return msgspec.json.Decoder(kind).decode
    except ValueError:
        return None


def _read_slowly(value: bytes, path: list[str]) -> Any:
    """For what the typed decoder does not take: something else than an object on the way, escaped lone surrogates."""
    try:
        found = json.loads(value.decode("utf-8"), parse_int=_integer)
    except (ValueError, RecursionError):
        return UNDECODABLE
    for token in path:
        if not isinstance(found, dict) or token not in found:
            return ABSENT
        found = found[token]
    return found


def _integer(text: str) -> int | float:
    """An integer; one with more digits than Python converts is only compared as large."""
    return int(text) if len(text) <= _INT_DIGITS else float("-inf" if text[0] == "-" else "inf")


class FieldIndex:
    """The values at one pointer for the records of one log: by record, and for each page by value."""

    def __init__(self, log: TopicLog, pointer: str) -> None:
        self.pointer = pointer
        self.read = extractor(pointer)
        self._values: dict[int, list[Any]] = {}
        self._places: dict[int, dict[Key, list[int]]] = {}
        log.on_evict.append(self._forget)

    def _forget(self, page: Page) -> None:
        self._values.pop(page.first, None)
        self._places.pop(page.first, None)

    def values(self, page: Page) -> list[Any]:
        """One value for each record of the page so far."""
        known = self._values.setdefault(page.first, [])
        if len(known) < len(page.records):
            read = self.read
            places = self._places.setdefault(page.first, {})
            for at in range(len(known), len(page.records)):
                value = read(page.records[at].value)
                known.append(value)
                places.setdefault(key_of(value), []).append(at)
        return known

    def places(self, page: Page, key: Key) -> list[int]:
        """Where in the page the records with this value stand, in order."""
        self.values(page)
        return self._places.get(page.first, {}).get(key, [])

    def keys_between(self, page: Page, a: int, b: int) -> set[Key]:
        """The distinct values of records a ≤ k < b of the page."""
        return {key_of(value) for value in self.values(page)[a:b]}


class _Equality:
    """One look-up: the values that are wanted, and whether records that cannot be read are wanted too."""

    def __init__(self, index: FieldIndex, keys: frozenset[Key]) -> None:
        self.index = index
        self.keys = keys

    def places(self, page: Page, a: int, b: int) -> list[int]:
        found = [self.index.places(page, key) for key in self.keys]
        cut = [places[bisect_left(places, a) : bisect_left(places, b)] for places in found if places]
        if len(cut) == 1:
            return cut[0]
        return sorted(at for places in cut for at in places)

    def matches(self, record: Record) -> bool:
        return key_of(self.index.read(record.value)) in self.keys


class _Condition:
    """One comparison a record. What cannot be read passes: the reader is told of it as a gap."""

    def __init__(self, index: FieldIndex, term: Term) -> None:
        self.index = index
        self._holds = predicate(term)

    def holds(self, value: Any) -> bool:
        return value is UNDECODABLE or self._holds(value)

    def matches(self, record: Record) -> bool:
        return self.holds(self.index.read(record.value))


class RecordSelector:
    """All conditions of one view. Make it with ``selector``."""

    def __init__(
        self, equalities: Sequence[_Equality], conditions: Sequence[_Condition], shard: tuple[int, int]
    ) -> None:
        self._equalities = equalities
        self._conditions = conditions
        self._shard, self._shards = shard
        self.route: Route | None = None
        if equalities:
            first = equalities[0]
            self.route = Route(first.index, first.keys)

    def choose(self, page: Page, a: int, b: int) -> Sequence[int]:
        """The places a ≤ k < b of the page that hold records of this view, in order."""
        found: Sequence[int] = range(a, b)
        for number, equality in enumerate(self._equalities):
            places = equality.places(page, a, b)
            if number:
                also = set(places)
                places = [at for at in found if at in also]
            found = places
        for condition in self._conditions:
            if not found:
                break
            values, holds = condition.index.values(page), condition.holds
            found = [at for at in found if holds(values[at])]
        if self._shards > 1:
            records = page.records
            found = [at for at in found if records[at].partition % self._shards == self._shard]
        return found

    def matches(self, record: Record) -> bool:
        """The same for one record, for private runs."""
        return (
            (self._shards == 1 or record.partition % self._shards == self._shard)
            and all(equality.matches(record) for equality in self._equalities)
            and all(condition.matches(record) for condition in self._conditions)
        )


def selector(
    *,
    rows: RowMatch | None,
    terms: frozenset[Term],
    shard: tuple[int, int],
    index: Callable[[str], FieldIndex],
) -> RecordSelector | None:
    """What chooses the records of a view, or None where all are in. ``index`` gives the field index of a pointer.

    A record that cannot be read belongs to nobody's rows: whose it was cannot be known, and a gap would tell the volume
    of others. Without a row filter it passes the reader's own terms, so that the reader hears of it.
    """
    equalities: list[_Equality] = []
    conditions: list[_Condition] = []
    if rows is not None:
        equalities.append(_Equality(index(rows.pointer), frozenset(key_of(value) for value in rows.values)))
    for term in sorted(terms, key=lambda one: (one.name, one.op, str(sorted(map(str, one.values))))):
        if term.is_equality:
            keys = frozenset(key_of(value) for value in term.values) | {_UNDECODABLE_KEY}
            equalities.append(_Equality(index(term.pointer), keys))
        else:
            conditions.append(_Condition(index(term.pointer), term))
    if not equalities and not conditions and shard == (0, 1):
        return None
    return RecordSelector(equalities, conditions, shard)
