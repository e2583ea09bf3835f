"""What is encoded or told for one reader alone, in order: runs of records, and gaps between them."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.hub.log import Trail
from gateway.hub.view import Block, Slice, View, cut
from gateway.model import Record, Vector


@dataclass(slots=True)
class _Run:
    """Records encoded for one reader, and how many of them are taken."""

    block: Block
    trail: Trail
    records: Sequence[Record]
    at: int = 0


class Runs:
    """A reader's private queue. It holds a handful at most; whoever fills it waits for room."""

    __slots__ = ("_items", "_room", "_view", "last_time")

    def __init__(self, view: View) -> None:
        self._view = view
        # A list: an empty one is a tenth of an empty deque, and most readers never have a run.
        self._items: list[_Run | Slice] = []
        self._room: asyncio.Event | None = None
        self.last_time: int | None = None
        """Kafka's time of the last record taken, in epoch milliseconds."""

    def __len__(self) -> int:
        return len(self._items)

    def push(self, records: Sequence[Record], *, start: Vector) -> None:
        """Encode ``records``, which follow the vector ``start``, and queue what the view chooses of them."""
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

    def tell(self, news: Slice) -> None:
        """Queue something that is no record; its trail starts at the vector before it."""
        self._items.append(news)

    def take(self, *, max_records: int, max_bytes: int, after_gap: bool, at_least_one: bool) -> Slice | None:
        """The next slice; None where there is none, or where its first record does not fit."""
        if not self._items:
            return None
        first = self._items[0]
        if isinstance(first, Slice):
            self._drop_first()
            return first
        piece = cut(
            first.block,
            bisect_left(first.block.index, first.at),
            max_records=max_records,
            max_bytes=max_bytes,
            stop=len(first.records),
            trail=first.trail,
            after_gap=after_gap,
            at_least_one=at_least_one,
        )
        if piece is None:
            return None
        first.at = piece.stop
        self.last_time = first.records[first.at - 1].timestamp
        if first.at >= len(first.records):
            self._drop_first()
        return piece

    def take_news(self) -> Slice | None:
        """What comes next where it is no record; None where it is one, or where nothing comes."""
        first = self._items[0] if self._items else None
        if not isinstance(first, Slice):
            return None
        self._drop_first()
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

    async def wait_for_room(self, most: int) -> None:
        """Until fewer than ``most`` are queued."""
        while len(self._items) >= most:
            self._room = asyncio.Event()
            await self._room.wait()

    def _drop_first(self) -> None:
        del self._items[0]
        if self._room is not None:
            self._room.set()
