"""A view: the records of a log as wire bytes, encoded once for all readers of one shape.

Encoding is lazy and by page: the first reader that wants a page's bytes has them made, everybody after takes slices of
the same immutable bytes. Running totals (entries, wire bytes, metered bytes) make every question of the hot path
arithmetic: the largest batch under a byte bound is a bisect, its cost a subtraction.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from gateway.cursor import CursorWriter
from gateway.hub.log import Page, TopicLog, Trail
from gateway.model import Record, Vector

SLICE_RECORDS: Final = 512
SLICE_BYTES: Final = 256 * 1024
_KEPT_SLICES: Final = 8


class Gap:
    """Records that cannot be delivered, at their place among the entries of a block; cursors as sealed text."""

    __slots__ = ("entry", "reason", "resumed_at", "start")

    def __init__(self, *, entry: int, reason: str, start: bytes, resumed_at: bytes) -> None:
        self.entry = entry
        self.reason = reason
        self.start = start
        self.resumed_at = resumed_at

    def data(self) -> dict[str, str]:
        """The gap as partners read it."""
        return {"reason": self.reason, "from": self.start.decode(), "resumed_at": self.resumed_at.decode()}


class Block:
    """Encoded entries of one page (or of one reader's private run), growing at the end only.

    Entry k is ``index[k]`` in the log, ends at byte ``ends[k]`` and has cost ``data_ends[k]`` metered bytes so far.
    A gap is an entry without metered bytes; ``index`` of an entry that stands for several records is the last one's.
    ``writer`` is where the encoder leaves its cursor writer between two calls. Chunks are immutable ``bytes`` that
    never change: a transport may hold them for as long as its client is slow.
    """

    __slots__ = ("_chunk_ends", "_chunks", "data_ends", "encoded_to", "ends", "gaps", "index", "writer")

    def __init__(self, first: int) -> None:
        self.encoded_to = first
        self.index: list[int] = []
        self.ends: list[int] = []
        self.data_ends: list[int] = []
        self.gaps: list[Gap] = []
        self.writer: CursorWriter | None = None
        self._chunks: list[bytes] = []
        self._chunk_ends: list[int] = []

    def restart(self, first: int) -> None:
        """Be an empty block again, of another page."""
        self.encoded_to = first
        self.writer = None
        if self.index:
            for entries in (self.index, self.ends, self.data_ends, self.gaps, self._chunks, self._chunk_ends):
                entries.clear()

    @property
    def size(self) -> int:
        return self.ends[-1] if self.ends else 0

    def seal(self, parts: Sequence[bytes]) -> None:
        """Add the bytes of the entries noted since the last call, as one chunk."""
        if parts:
            self._chunks.append(b"".join(parts))
            self._chunk_ends.append(self.ends[-1])

    def compact(self) -> None:
        """Join the chunks into one; for a page that is full. Old chunks live on where a transport holds them."""
        if len(self._chunks) > 1:
            self._chunks = [b"".join(self._chunks)]
            self._chunk_ends = [self._chunk_ends[-1]]

    def span(self, a: int, b: int) -> bytes:
        """The wire bytes of entries a ≤ k < b; the very chunk where they are one."""
        start = self.ends[a - 1] if a else 0
        end = self.ends[b - 1]
        if start == end:
            # Gaps where the protocol tells of them elsewhere.
            return b""
        if not start and len(self._chunks) == 1 and end == self._chunk_ends[0]:
            return self._chunks[0]
        at = bisect_right(self._chunk_ends, start)
        chunk_start = self._chunk_ends[at - 1] if at else 0
        if end <= self._chunk_ends[at]:
            chunk = self._chunks[at]
            if start == chunk_start and end == self._chunk_ends[at]:
                return chunk
            return chunk[start - chunk_start : end - chunk_start]
        parts = [self._chunks[at][start - chunk_start :]]
        while self._chunk_ends[at] < end:
            at += 1
            parts.append(self._chunks[at][: end - self._chunk_ends[at - 1]])
        return b"".join(parts)


class Slice:
    """What one reader takes in one go: shared wire bytes, what they count, and where the reader stands afterwards.

    A slice holds at most one gap, as its last entry.
    """

    __slots__ = ("_http_chunk", "body", "data_bytes", "gap", "records", "stop", "trail")

    def __init__(
        self, *, body: bytes, records: int, data_bytes: int, gap: Gap | None, stop: int, trail: Trail | None
    ) -> None:
        self.body = body
        self.records = records
        self.data_bytes = data_bytes
        self.gap = gap
        self.stop = stop
        self.trail = trail
        self._http_chunk: bytes | None = None

    @property
    def http_chunk(self) -> bytes:
        """The body as one HTTP/1.1 chunk (RFC 9112 §7.1), made once for everybody who takes this slice."""
        if self._http_chunk is None:
            self._http_chunk = b"%x\r\n%b\r\n" % (len(self.body), self.body)
        return self._http_chunk


def cut(
    block: Block,
    a: int,
    *,
    max_records: int,
    max_bytes: int,
    stop: int,
    trail: Trail | None,
    after_gap: bool = False,
    at_least_one: bool = True,
) -> Slice | None:
    """Entries of ``block`` from ``a`` on, within the bounds; ``stop`` where all of them fit.

    ``at_least_one``: the first entry is given whatever its size; without it None says that it does not fit.
    ``after_gap``: the reader was told of a gap last, so a gap that follows directly is part of the same one and is
    left out. Needs a ≤ len(block.index).
    """
    total = len(block.index)
    gap = None
    b = total if total - a <= max_records else a + max_records
    for known in block.gaps:
        if after_gap and known.entry == a:
            a += 1
            b = min(total, a + max_records)
        elif a <= known.entry < b:
            b, gap = known.entry + 1, known
            break
    if a >= total:
        return Slice(body=b"", records=0, data_bytes=0, gap=None, stop=stop, trail=trail)
    base = block.ends[a - 1] if a else 0
    if block.ends[b - 1] - base > max_bytes:
        fits = bisect_right(block.ends, base + max_bytes, a, b)
        if fits == a and not at_least_one:
            return None
        fits = max(a + 1, fits)
        if fits < b:
            b, gap = fits, None
    return Slice(
        body=block.span(a, b),
        records=b - a - (gap is not None),
        data_bytes=block.data_ends[b - 1] - (block.data_ends[a - 1] if a else 0),
        gap=gap,
        # What follows the last entry may be records that the view leaves out: they are passed in the same step.
        stop=stop if b == total else block.index[b - 1] + 1,
        trail=trail,
    )


class Encoder(Protocol):
    """Turns records into entries of a block. Implemented once per wire framing."""

    def begin(self, before: Vector) -> CursorWriter:
        """The cursor writer of a block whose first record has the vector ``before``."""
        ...

    def encode(self, block: Block, records: Sequence[Record], *, first: int, chosen: Sequence[int] | None) -> None:
        """Append ``records`` (log indices from ``first``) as entries of ``block``: those at the places ``chosen``, in
        order, or all for None."""
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


class View:
    """One shape of one log, shared by its readers. Dropped pages take their encoded blocks along.

    A view that chooses and has one reader shares with nobody: it keeps the page that its reader stands in and no more,
    or a thousand filters would cost a thousand blocks for every page of the log.
    """

    def __init__(self, log: TopicLog, encoder: Encoder, *, selector: Selector | None = None) -> None:
        self._log = log
        self.encoder = encoder
        self.selector = selector
        self._blocks: dict[int, Block] = {}
        self._slices: dict[tuple[int, int, int, bool, bool], Slice] = {}
        # What was taken last within the usual bounds, and where: at the head all readers take the same.
        self.tail: Slice | None = None
        self.tail_index = -1
        self._taken = True
        self.bytes = 0
        self.readers = 0
        log.on_evict.append(self._forget)

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
        after_gap: bool = False,
        at_least_one: bool = True,
    ) -> Slice | None:
        """What a reader at ``index`` gets next, from one page; None at the head, or where not even one entry fits.

        A slice with an empty body moves the reader over records that the view leaves out.
        Needs log.first ≤ index ≤ log.head.
        """
        if index >= self._log.head:
            return None
        is_shared = self.readers != 1 or self.selector is None
        if is_shared:
            key = (index, max_records, max_bytes, after_gap, at_least_one)
            known = self._slices.get(key)
            if known is not None:
                return known
        self._taken = True
        page = self._log.page_at(index)
        block = self._block(page)
        a = bisect_left(block.index, index)
        piece = cut(
            block,
            a,
            max_records=max_records,
            max_bytes=max_bytes,
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
        if key == (index, SLICE_RECORDS, SLICE_BYTES, False, True) and piece.gap is None:
            self.tail, self.tail_index = piece, index
        return piece

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
