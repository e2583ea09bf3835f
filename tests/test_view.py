"""Slices of encoded blocks, against a model that has no totals, chunks or caches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cursor import CursorWriter
from gateway.hub.block import Block, Gap, Slice, cut
from gateway.hub.log import Page, TopicLog
from gateway.hub.view import Route, View
from gateway.model import Record, Vector
from tests.parts.source import contract, encoder

ENTRY = st.one_of(
    st.tuples(st.integers(1, 30), st.just(False), st.integers(0, 2)),
    # On pull a gap has no bytes of its own.
    st.tuples(st.integers(0, 30), st.just(True), st.integers(0, 2)),
)
"""Size, whether it is a gap, and how many records before it the view leaves out."""


class Model:
    """A block as a plain list of entries."""

    def __init__(self, entries: Sequence[tuple[int, bool, int]], seals: Sequence[int]) -> None:
        self.block = Block(0)
        self.parts: list[bytes] = []
        self.gaps: dict[int, Gap] = {}
        unsealed: list[bytes] = []
        index = -1
        for entry, (size, is_gap, left_out) in enumerate(entries):
            index += 1 + left_out
            part = bytes([97 + entry % 26]) * size
            unsealed.append(part)
            self.parts.append(part)
            self.block.index.append(index)
            self.block.times.append(1_000 - entry)
            self.block.ends.append(self.block.size + size)
            before = self.block.data_ends[-1] if self.block.data_ends else 0
            self.block.data_ends.append(before + (0 if is_gap else size - 1))
            if is_gap:
                gap = Gap(entry=entry, reason="undecodable", start=b"", resumed_at=b"")
                self.gaps[entry] = gap
                self.block.gaps.append(gap)
            if entry in seals:
                self.block.seal(unsealed)
                unsealed = []
        self.block.seal(unsealed)

    def slice(
        self, a: int, *, max_records: int, max_bytes: int, after_gap: bool, at_least_one: bool
    ) -> tuple[bytes, int, int, int, Gap | None] | None:
        """Body, records, metered bytes, the entry after and the gap, as the words of ``cut`` say."""
        while after_gap and a in self.gaps:
            a += 1
        taken = a
        size = 0
        while taken < len(self.parts) and taken - a < max_records:
            if size + len(self.parts[taken]) > max_bytes and (taken > a or not at_least_one):
                if taken == a:
                    return None
                break
            size += len(self.parts[taken])
            taken += 1
            if taken - 1 in self.gaps:
                break
        records = [entry for entry in range(a, taken) if entry not in self.gaps]
        cost = sum(len(self.parts[entry]) - 1 for entry in records)
        gap = self.gaps.get(taken - 1) if taken > a else None
        return b"".join(self.parts[a:taken]), len(records), cost, taken, gap


@given(
    entries=st.lists(ENTRY, max_size=25),
    seals=st.sets(st.integers(0, 24)),
    compact=st.booleans(),
    data=st.data(),
    max_records=st.integers(1, 12),
    max_bytes=st.integers(1, 200),
    after_gap=st.booleans(),
    at_least_one=st.booleans(),
)
def test_a_cut_is_what_counting_one_by_one_gives(
    entries: list[tuple[int, bool, int]],
    seals: set[int],
    compact: bool,
    data: st.DataObject,
    max_records: int,
    max_bytes: int,
    after_gap: bool,
    at_least_one: bool,
) -> None:
    model = Model(entries, sorted(seals))
    if compact:
        model.block.compact()
    a = data.draw(st.integers(0, len(entries)))
    bounds = {"max_records": max_records, "max_bytes": max_bytes}
    found = cut(model.block, a, **bounds, stop=1000, trail=None, after_gap=after_gap, at_least_one=at_least_one)
    wanted = model.slice(a, **bounds, after_gap=after_gap, at_least_one=at_least_one)
    if wanted is None:
        assert found is None
        return
    assert found is not None
    body, records, cost, taken, gap = wanted
    assert (found.body, found.records, found.data_bytes) == (body, records, cost)
    assert found.stop == (1000 if taken == len(entries) else model.block.index[taken - 1] + 1)
    assert found.gap is gap
    assert len(found.http_chunk) == len(body) + len(f"{len(body):x}") + 4


@given(
    entries=st.lists(ENTRY, min_size=1, max_size=25),
    seals=st.sets(st.integers(0, 24)),
    compact=st.booleans(),
    data=st.data(),
)
def test_a_span_is_the_bytes_of_its_entries(
    entries: list[tuple[int, bool, int]], seals: set[int], compact: bool, data: st.DataObject
) -> None:
    model = Model(entries, sorted(seals))
    if compact:
        model.block.compact()
    a = data.draw(st.integers(0, len(entries) - 1))
    b = data.draw(st.integers(a + 1, len(entries)))
    assert model.block.span(a, b) == b"".join(model.parts[a:b])


def test_whoever_takes_a_whole_chunk_gets_the_very_bytes() -> None:
    model = Model([(5, False, 0)] * 6, [2])
    assert model.block.span(0, 3) is model.block.span(0, 3)
    assert model.block.span(3, 6) is model.block.span(3, 6)


def filled(count: int, *, ring: int = 1000, size: int = 0) -> tuple[TopicLog, View]:
    log = TopicLog(max_records=ring, max_bytes=1 << 30, page_records=8)
    log.restart((0,))
    add(log, count, size=size)
    return log, View(log, encoder(contract("s", "s")))


def add(log: TopicLog, count: int, *, size: int = 0) -> None:
    for _ in range(count):
        offset = log.head_vector[0]
        value = json.dumps({"n": offset, "pad": "x" * size}).encode()
        log.append(0, [Record(0, offset, offset + 1, 0, None, value)], offset + 1)


def numbers(piece: Slice | None) -> list[int]:
    assert piece is not None
    return [json.loads(line)["data"]["n"] for line in piece.body.splitlines()]


def test_everybody_at_one_place_gets_the_same_object_and_framing() -> None:
    log, view = filled(5)
    first = view.take(log.first)
    assert view.take(log.first) is first
    assert first is not None
    assert first.http_chunk is first.http_chunk


def test_what_arrives_later_is_found_by_who_took_the_tail_before() -> None:
    log, view = filled(3)
    piece = view.take(log.first)
    assert numbers(piece) == [0, 1, 2]
    assert piece is not None
    assert view.take(piece.stop) is None
    add(log, 2)
    assert numbers(view.take(piece.stop)) == [3, 4]
    # A slice taken before may be shorter than what is there now; it must never skip.
    again = view.take(log.first)
    assert again is not None
    assert numbers(again) + numbers(view.take(again.stop)) == [0, 1, 2, 3, 4]


def test_the_bytes_of_evicted_pages_are_let_go() -> None:
    log, view = filled(8, ring=16)
    taken = view.take(log.first)
    held = view.bytes
    assert held > 0
    add(log, 40)
    assert view.bytes == 0
    assert numbers(taken) == list(range(4)), "who holds them still has them"
    index = log.first
    while (piece := view.take(index)) is not None:
        index = piece.stop
    assert 0 < view.bytes < 6 * held
    view.close()
    assert view.bytes == 0
    assert not log.on_evict


def test_a_slice_that_one_reader_had_to_take_is_not_forced_upon_another() -> None:
    log, view = filled(2, size=500)
    bounds: dict[str, Any] = {"max_records": 10, "max_bytes": 100}
    assert numbers(view.take(log.first, **bounds)) == [0]
    assert view.take(log.first, **bounds, at_least_one=False) is None
    assert numbers(view.take(log.first, **bounds)) == [0]


def test_idle_bytes_are_let_go_and_made_again() -> None:
    log, view = filled(3)
    first = view.take(log.first)
    view.trim_if_idle()
    assert view.bytes > 0, "taken since the last look"
    view.trim_if_idle()
    assert view.bytes == 0
    again = view.take(log.first)
    assert again is not None
    assert first is not None
    assert again.body == first.body


class FailingOnce:
    """An encoder that breaks in the middle of its first page, as a bug in it would."""

    def __init__(self) -> None:
        self._real = encoder(contract("s", "s"))
        self.fails = True

    def begin(self, before: Vector) -> CursorWriter:
        return self._real.begin(before)

    def encode(self, block: Block, records: Sequence[Record], *, first: int, chosen: Sequence[int] | None) -> None:
        if self.fails and len(records) > 1:
            self.fails = False
            block.index.append(first)
            block.ends.append(block.size + 1)
            block.data_ends.append(1)
            raise ZeroDivisionError
        self._real.encode(block, records, first=first, chosen=chosen)

    def encode_one(self, writer: CursorWriter, record: Record) -> tuple[bytes, int] | None:
        return self._real.encode_one(writer, record)


def test_an_encoder_that_breaks_off_leaves_no_half_encoded_page() -> None:
    log, _ = filled(1)
    failing = FailingOnce()
    view = View(log, failing)
    assert numbers(view.take(log.first)) == [0]
    add(log, 4)
    with pytest.raises(ZeroDivisionError):
        view.take(log.first + 1)
    for number in range(1, 5):
        piece = view.take(log.first + number, max_records=1)
        assert piece is not None
        assert (numbers(piece), piece.records) == ([number], 1)


class EveryThird:
    """Chooses by the number in the offset; and says what it was asked."""

    route: Route | None = None

    def choose(self, page: Page, a: int, b: int) -> Sequence[int]:
        return [at for at in range(a, b) if not page.records[at].offset % 3]

    def matches(self, record: Record) -> bool:
        return not record.offset % 3

    def count_between(self, page: Page, a: int, b: int) -> tuple[int, int]:
        return b - a, b - a

    def count(self, records: Sequence[Record]) -> tuple[int, int]:
        return len(records), len(records)


@given(steps=st.lists(st.integers(1, 12), max_size=12), most=st.integers(1, 20))
def test_a_reader_of_a_choosing_view_gets_all_of_its_records_once(steps: list[int], most: int) -> None:
    log = TopicLog(max_records=1000, max_bytes=1 << 30, page_records=8)
    log.restart((0,))
    view = View(log, encoder(contract("s", "s")), selector=EveryThird())
    index, seen = log.first, []
    for count in steps:
        add(log, count)
        while (piece := view.take(index, max_records=most)) is not None:
            assert piece.stop > index
            index = piece.stop
            seen += numbers(piece)
    assert seen == [n for n in range(sum(steps)) if not n % 3]
    assert index == log.head


def test_a_choosing_view_with_one_reader_keeps_the_page_it_stands_in_and_no_more() -> None:
    log = TopicLog(max_records=1000, max_bytes=1 << 30, page_records=8)
    log.restart((0,))
    view = View(log, encoder(contract("s", "s")), selector=EveryThird())
    view.readers = 1
    add(log, 80)
    index, seen, most = log.first, [], 0
    while (piece := view.take(index, max_records=2)) is not None:
        index = piece.stop
        seen += numbers(piece)
        most = max(most, view.bytes)
    assert seen == [n for n in range(80) if not n % 3]
    view.readers = 2
    assert numbers(view.take(log.first)) == [0, 3, 6], "what was let go of is made again"
    index = log.first
    while (piece := view.take(index)) is not None:
        index = piece.stop
    assert view.bytes > 5 * most


def test_bytes_taken_by_the_one_reader_of_a_choosing_view_stay_what_they_were() -> None:
    log = TopicLog(max_records=1000, max_bytes=1 << 30, page_records=8)
    log.restart((0,))
    view = View(log, encoder(contract("s", "s")), selector=EveryThird())
    view.readers = 1
    add(log, 80)
    first = view.take(log.first)
    assert first is not None
    held = bytes(first.body)
    index = first.stop
    while (piece := view.take(index)) is not None:
        index = piece.stop
    assert first.body == held
