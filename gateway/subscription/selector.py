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
from gateway.subscription.filter import ABSENT, Term, chooser, predicate
from gateway.subscription.payload import is_too_deep, refuse_constant
from gateway.subscription.projection import tokens

UNDECODABLE: Final = object()
"""What a payload that is no JSON reads as."""

Key = object
"""A decoded value that compares as JSON does: true is not 1, so booleans carry a mark."""

_OTHER: Final = object()

_INT_DIGITS: Final = 4000


def key_of(value: Any) -> Key:
    """``value`` for look-ups; what is neither string, number nor boolean equals nothing that can be asked for."""
    kind = type(value)
    if kind is str or kind is int or kind is float or value is UNDECODABLE:
        # Itself and no pair of anything: there is one for each record, and the collector looks at every pair.
        return value
    return (bool, value) if kind is bool else _OTHER


def extractor(pointer: str) -> Callable[[bytes | None], Any]:
    """A function that reads the value at ``pointer`` (object members only) from a payload.

    It returns ABSENT where there is none, None for null, UNDECODABLE where the payload is one that is never sent: what
    an encoder tells as a gap, no filter may hide.
    """
    path = tokens(pointer)
    decode = _decoder(path)
    depth = len(path)

    def read(value: bytes | None) -> Any:
        if value is None:
            return ABSENT
        if is_too_deep(value):
            return UNDECODABLE
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
        found = json.loads(value.decode("utf-8"), parse_int=_integer, parse_constant=refuse_constant)
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
        self._pages: dict[int, _PageIndex] = {}
        log.on_evict.append(self._forget)

    def _forget(self, page: Page) -> None:
        self._pages.pop(page.first, None)

    def page(self, page: Page) -> _PageIndex:
        """The index of the page, up to its present end."""
        known = self._pages.get(page.first)
        if known is None:
            known = self._pages[page.first] = _PageIndex()
        records = page.records
        done = len(known.values)
        if done < len(records):
            read, places = self.read, known.places
            for at in range(done, len(records)):
                value = read(records[at].value)
                key = key_of(value)
                known.values.append(value)
                known.keys.append(key)
                before = places.get(key)
                if before is None:
                    places[key] = at
                elif isinstance(before, int):
                    places[key] = [before, at]
                else:
                    before.append(at)
        return known

    def keys_between(self, page: Page, a: int, b: int) -> set[Key]:
        """The distinct values of records a ≤ k < b of the page."""
        return set(self.page(page).keys[a:b])


class _PageIndex:
    """One page's values and keys by record, and by key the places of the records that have it, in order; one place
    that is alone is not put into a list, since most are where there are many values."""

    __slots__ = ("keys", "places", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.keys: list[Key] = []
        self.places: dict[Key, int | list[int]] = {}


class _Equality:
    """One look-up: the values that are wanted, and whether records that cannot be read are wanted too."""

    def __init__(self, index: FieldIndex, keys: frozenset[Key]) -> None:
        self.index = index
        self.keys = keys

    def places(self, page: Page, a: int, b: int) -> list[int]:
        known = self.index.page(page).places
        found: list[int] = []
        runs = 0
        for key in self.keys:
            # Of a field's many values a page has few, and a filter few of those.
            places = known.get(key)
            if places is None:
                continue
            runs += 1
            if isinstance(places, list):
                found += places[bisect_left(places, a) : bisect_left(places, b)]
            elif a <= places < b:
                found.append(places)
        if runs > 1:
            found.sort()
        return found

    def matches(self, record: Record) -> bool:
        return key_of(self.index.read(record.value)) in self.keys


class _Condition:
    """One comparison a record. What cannot be read passes: the reader is told of it as a gap."""

    def __init__(self, index: FieldIndex, term: Term) -> None:
        self.index = index
        self._holds = predicate(term)
        self._among = chooser(term, always=UNDECODABLE)

    def among(self, page: Page, places: Sequence[int]) -> list[int]:
        """Those of the places whose records pass."""
        return self._among(places, self.index.page(page).values)

    def matches(self, record: Record) -> bool:
        value = self.index.read(record.value)
        return value is UNDECODABLE or self._holds(value)


class RecordSelector:
    """All conditions of one view. Make it with ``selector``."""

    def __init__(
        self,
        equalities: Sequence[_Equality],
        conditions: Sequence[_Condition],
        shard: tuple[int, int],
        rows: _Equality | None = None,
    ) -> None:
        """``rows``: which of the equalities is the row filter, the others being the reader's own."""
        self._rows = rows
        self._equalities = equalities
        self._conditions = conditions
        self._shard, self._shards = shard
        self.route: Route | None = None
        if equalities:
            first = equalities[0]
            self.route = Route(first.index, first.keys)

    def choose(self, page: Page, a: int, b: int) -> Sequence[int]:
        """The places a ≤ k < b of the page that hold records of this view, in order."""
        found: Sequence[int] | None = None
        for equality in self._equalities:
            places = equality.places(page, a, b)
            if found is None:
                found = places
            else:
                also = set(places)
                found = [at for at in found if at in also]
        if found is None:
            found = range(a, b)
        for condition in self._conditions:
            if not found:
                break
            found = condition.among(page, found)
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

    def count_between(self, page: Page, a: int, b: int) -> tuple[int, int]:
        """Of the records a ≤ k < b of the page: those of the reader's shard, and those of them in its rows."""
        if self._shards > 1:
            return self.count(page.records[a:b])
        return b - a, b - a if self._rows is None else len(self._rows.places(page, a, b))

    def count(self, records: Sequence[Record]) -> tuple[int, int]:
        """The same for records one by one."""
        own = [one for one in records if self._shards == 1 or one.partition % self._shards == self._shard]
        return len(own), len(own) if self._rows is None else sum(map(self._rows.matches, own))


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
    in_rows: _Equality | None = None
    if rows is not None:
        in_rows = _Equality(index(rows.pointer), frozenset(key_of(value) for value in rows.values))
        equalities.append(in_rows)
    for term in sorted(terms, key=lambda one: (one.name, one.op, str(sorted(map(str, one.values))))):
        if term.is_equality:
            keys = frozenset(key_of(value) for value in term.values) | {UNDECODABLE}
            equalities.append(_Equality(index(term.pointer), keys))
        else:
            conditions.append(_Condition(index(term.pointer), term))
    if not equalities and not conditions and shard == (0, 1):
        return None
    return RecordSelector(equalities, conditions, shard, in_rows)
