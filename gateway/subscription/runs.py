"""What is encoded or told for one reader alone, in order: runs of records, and gaps between them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.hub.block import Block, Gap, Slice, cut
from gateway.hub.log import Trail
from gateway.hub.view import View
from gateway.model import Record, Vector


class Spelling(Protocol):
    """How vectors and gaps are told to this reader."""

    def cursor(self, vector: Vector) -> str: ...

    def gap(self, gap: Gap) -> bytes: ...


@dataclass(slots=True)
class _Run:
    """Records encoded for one reader, and how many of them are taken."""

    block: Block
    trail: Trail
    records: Sequence[Record]
    at: int = 0


class Runs:
    """A reader's private queue. It holds a handful at most: nothing is added while there is something to take."""

    __slots__ = ("_items", "_spelling", "_view")

    def __init__(self, view: View, spelling: Spelling) -> None:
        self._view = view
        self._spelling = spelling
        # A list: an empty one is a tenth of an empty deque, and most readers never have a run.
        self._items: list[_Run | Slice] = []

    def __len__(self) -> int:
        return len(self._items)

    def push(self, records: Sequence[Record], *, start: Vector) -> int:
        """Encode ``records``, which follow the vector ``start``, and queue what the view chooses of them: so many."""
        selector = self._view.selector
        chosen = None if selector is None else [at for at, one in enumerate(records) if selector.matches(one)]
        run = _Run(Block(0), Trail(0, start), records)
        run.block.writer = self._view.encoder.begin(start)
        for record in records:
            run.trail.partitions.append(record.partition)
            run.trail.nexts.append(record.next)
        self._view.encoder.encode(run.block, records, first=0, chosen=chosen)
        if run.block.index:
            self._items.append(run)
        return len(records) if chosen is None else len(chosen)

    def announce(self, reason: str, *, before: Vector, after: Vector, start: str | None = None) -> None:
        """Queue a gap. ``start`` is the cursor of its beginning where ``before`` is a vector of an earlier life."""
        cursor = self._spelling.cursor
        gap = Gap(entry=0, reason=reason, start=(start or cursor(before)).encode(), resumed_at=cursor(after).encode())
        here = Trail(0, before if start is None else after)
        self._items.append(Slice(body=self._spelling.gap(gap), records=0, data_bytes=0, gap=gap, stop=0, trail=here))

    def take(
        self, *, max_records: int, max_bytes: int, max_data_bytes: int, after_gap: bool, at_least_one: bool
    ) -> Slice | None:
        """The next slice; None where there is none, or where its first record does not fit."""
        if not self._items:
            return None
        first = self._items[0]
        if isinstance(first, Slice):
            del self._items[0]
            return first
        piece = cut(
            first.block,
            bisect_left(first.block.index, first.at),
            max_records=max_records,
            max_bytes=max_bytes,
            max_data_bytes=max_data_bytes,
            stop=len(first.records),
            trail=first.trail,
            after_gap=after_gap,
            at_least_one=at_least_one,
        )
        if piece is None:
            return None
        first.at = piece.stop
        if first.at >= len(first.records):
            del self._items[0]
        return piece

    def take_news(self) -> Slice | None:
        """What comes next where it is no record; None where it is one, or where nothing comes."""
        first = self._items[0] if self._items else None
        if not isinstance(first, Slice):
            return None
        del self._items[0]
        return first

    def vector(self) -> Vector | None:
        """The vector before what comes next; None where nothing does."""
        if not self._items:
            return None
        first = self._items[0]
        if isinstance(first, _Run):
            return first.trail.vector_before(first.at)
        return None if first.trail is None else first.trail.start

    def next_time(self) -> int | None:
        """Kafka's time of the next record; None where something else comes next, or nothing."""
        first = self._items[0] if self._items else None
        return first.records[first.at].timestamp if isinstance(first, _Run) else None
