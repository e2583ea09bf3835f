"""A view: the records of a log as wire bytes, encoded once for all readers of one shape.

Encoding is lazy and by page: the first reader that wants a page's bytes has them made, everybody after takes slices of
the same immutable bytes. Running totals (entries, wire bytes, metered bytes) make every question of the hot path
arithmetic: the largest batch under a byte bound is a bisect, its cost a subtraction.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from gateway.cursor import CursorWriter
from gateway.hub.block import UNBOUNDED, Block, Slice, cut
from gateway.hub.log import Page, TopicLog
from gateway.model import Record, Vector
from gateway.usage import units_of

SLICE_RECORDS: Final = 512
SLICE_BYTES: Final = 256 * 1024
_KEPT_SLICES: Final = 8


class Encoder(Protocol):
    """Turns records into entries of a block. Implemented once per wire framing."""

    def begin(self, before: Vector) -> CursorWriter:
        """The cursor writer of a block whose first record has the vector ``before``."""
        ...

    def encode(self, block: Block, records: Sequence[Record], *, first: int, chosen: Sequence[int] | None) -> None:
        """Append ``records`` (log indices from ``first``) as entries of ``block``: those at the places ``chosen``, in
        order, or all for None."""
        ...

    def encode_one(self, writer: CursorWriter, record: Record) -> tuple[bytes, int] | None:
        """One record's wire bytes and what they count as; None where it cannot be delivered, and nothing has moved."""
        ...


class ValueIndex(Protocol):
    """The values of one field of a log's records, for routing."""

    def keys_between(self, page: Page, a: int, b: int) -> set[Any]:
        """The distinct values of records a ≤ k < b of the page."""
        ...


class Route(NamedTuple):
    """A necessary condition for a record to be in a view: its value in ``field`` is one of ``keys``."""

    field: ValueIndex
    keys: frozenset[Any]


class Selector(Protocol):
    """Which records of a page belong to a view. ``route`` is None where no look-up can tell."""

    route: Route | None

    def choose(self, page: Page, a: int, b: int) -> Sequence[int]:
        """The places a ≤ k < b of the page whose records are in, in order."""
        ...

    def matches(self, record: Record) -> bool:
        """The same for one record, for private runs."""
        ...

    def count_between(self, page: Page, a: int, b: int) -> tuple[int, int]:
        """Of the records a ≤ k < b of the page: those of the reader's shard, and those of them in its rows."""
        ...

    def count(self, records: Sequence[Record]) -> tuple[int, int]:
        """The same for records one by one."""
        ...


class View:
    """One shape of one log, shared by its readers. Dropped pages take their encoded blocks along.

    A view that chooses and has one reader shares with nobody: it keeps the page that its reader stands in and no more,
    and not even that where one record of it is in the view, or a thousand filters would cost a thousand blocks for
    every page of the log.
    """

    def __init__(self, log: TopicLog, encoder: Encoder, *, selector: Selector | None = None) -> None:
        self._log = log
        self.encoder = encoder
        self.selector = selector
        self._blocks: dict[int, Block] = {}
        self._slices: dict[tuple[int, int, int, int, bool, bool], Slice] = {}
        # What was taken last within the usual bounds, and where: at the head all readers take the same.
        self.tail: Slice | None = None
        self.tail_index = -1
        self._taken = True
        # Where the cursors of a view that one reader has stand, and in which page.
        self._writer: CursorWriter | None = None
        self._writer_page: Page | None = None
        self.bytes = 0
        self.readers = 0
        log.on_evict.append(self._forget)

    @property
    def is_shared(self) -> bool:
        """Whether the same take gives the same slice again: to several readers, or always."""
        return self.readers != 1 or self.selector is None

    def close(self) -> None:
        """Let go of the log and of all encoded bytes."""
        self._log.on_evict.remove(self._forget)
        self._drop()

    def _drop(self) -> None:
        self._blocks.clear()
        self._drop_slices()
        self.bytes = 0

    def _drop_slices(self) -> None:
        self._slices.clear()
        self.tail, self.tail_index = None, -1

    def trim_if_idle(self) -> None:
        """Drop what is encoded if nobody took any of it since the last call."""
        if not self._taken:
            self._drop()
        self._taken = False

    def _forget(self, page: Page) -> None:
        block = self._blocks.pop(page.first, None)
        if block is not None:
            self.bytes -= block.size
        self._drop_slices()

    def take(
        self,
        index: int,
        *,
        max_records: int = SLICE_RECORDS,
        max_bytes: int = SLICE_BYTES,
        max_data_bytes: int = UNBOUNDED,
        after_gap: bool = False,
        at_least_one: bool = True,
    ) -> Slice | None:
        """What a reader at ``index`` gets next, from one page; None at the head, or where not even one entry fits.

        A slice with an empty body moves the reader over records that the view leaves out.
        Needs log.first ≤ index ≤ log.head.
        """
        if index >= self._log.head:
            return None
        is_shared = self.is_shared
        if is_shared:
            key = (index, max_records, max_bytes, max_data_bytes, after_gap, at_least_one)
            known = self._slices.get(key)
            if known is not None:
                return known
        self._taken = True
        page = self._log.page_at(index)
        if not is_shared and at_least_one and max_records:
            alone = self._take_alone(page, index)
            if alone is not None:
                return alone
        block = self._block(page)
        a = bisect_left(block.index, index)
        piece = cut(
            block,
            a,
            max_records=max_records,
            max_bytes=max_bytes,
            max_data_bytes=max_data_bytes,
            stop=block.encoded_to,
            trail=page.trail,
            after_gap=after_gap,
            at_least_one=at_least_one,
        )
        if piece is None or not is_shared:
            return piece
        if len(self._slices) >= _KEPT_SLICES:
            # The oldest goes first: stalled readers at odd places must not push out the slice all others are taking.
            del self._slices[next(iter(self._slices))]
        self._slices[key] = piece
        if key == (index, SLICE_RECORDS, SLICE_BYTES, UNBOUNDED, False, True) and piece.gap is None:
            self.tail, self.tail_index = piece, index
        return piece

    def _take_alone(self, page: Page, index: int) -> Slice | None:
        """The rest of the page where at most one record of it is in this view, as with narrow filters: such a slice
        is made directly, and no bytes are kept. None: it has more, or a gap."""
        selector, first = self.selector, page.first
        if selector is None or selector.route is None or first in self._blocks:
            return None
        stop = first + len(page.records)
        chosen = selector.choose(page, index - first, stop - first)
        if not chosen:
            return Slice(body=b"", records=0, data_bytes=0, gap=None, stop=stop, trail=page.trail)
        if len(chosen) > 1:
            return None
        if self._writer is None or self._writer_page is not page:
            is_first = index == first or not selector.choose(page, 0, index - first)
            # A cursor need not pass what is not chosen, and must not stand before what the reader has had.
            vector = page.trail.start if is_first else page.trail.vector_before(index)
            self._writer, self._writer_page = self.encoder.begin(vector), page
        record = page.records[chosen[0]]
        encoded = self.encoder.encode_one(self._writer, record)
        if encoded is None:
            return None
        body, data_bytes = encoded
        return Slice(
            body=body,
            records=1,
            data_bytes=data_bytes,
            gap=None,
            stop=stop,
            trail=page.trail,
            units=units_of(data_bytes),
            oldest=record.timestamp,
        )

    def unsent(self, stop: int, wire_bytes: int) -> Iterator[tuple[Block, int, int]]:
        """Entries before log index ``stop`` that lie wholly in the last ``wire_bytes``, newest first: a ≤ k < b of each
        block. Of pages whose bytes are not held any more it knows nothing."""
        while wire_bytes > 0 and stop > self._log.first:
            page = self._log.page_at(stop - 1)
            block = self._blocks.get(page.first)
            if block is None:
                if self.readers != 1:
                    return
                # Nothing was kept of it; it is made again for this once.
                block = self._block(page)
            a, b = block.unsent(stop, wire_bytes)
            yield block, a, b
            if a:
                return
            wire_bytes -= block.ends[b - 1] if b else 0
            stop = page.first

    def _block(self, page: Page) -> Block:
        """The page's block, encoded to the page's present end: at most one page of work."""
        first, count = page.first, len(page.records)
        block = self._blocks.get(first)
        if block is None:
            block = self._blocks[first] = self._empty_block(first)
        a = block.encoded_to - first
        if a < count:
            before = block.size
            try:
                self._encode(block, page, a, count)
            except BaseException:
                # Half an encoding has entries without bytes: the next reader begins this page anew.
                del self._blocks[first]
                self.bytes -= before
                raise
            block.encoded_to = first + count
            if not self._log.grows(page):
                block.compact()
            self.bytes += block.size - before
        return block

    def _empty_block(self, first: int) -> Block:
        if self.readers != 1 or self.selector is None or not self._blocks:
            return Block(first)
        _, block = self._blocks.popitem()
        if self._blocks or self._slices:
            # Left from when it had more readers.
            self._drop()
        self.bytes = 0
        block.restart(first)
        return block

    def _encode(self, block: Block, page: Page, a: int, b: int) -> None:
        """Add the records a ≤ k < b of the page to its block."""
        chosen = None if self.selector is None else self.selector.choose(page, a, b)
        if chosen is not None and not chosen:
            return
        if block.writer is None:
            block.writer = self.encoder.begin(page.trail.start)
        if chosen is None:
            self.encoder.encode(block, page.records[a:b], first=block.encoded_to, chosen=None)
        else:
            self.encoder.encode(block, page.records, first=page.first, chosen=chosen)
