"""Encoded records of one page, and the slices that readers take of them.

Running totals (entries, wire bytes, metered bytes) make every question of the hot path arithmetic: the largest batch
under a bound is a bisect, its cost a subtraction.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from gateway.cursor import CursorWriter
from gateway.hub.log import Trail
from gateway.usage import units_of

UNBOUNDED: Final = 1 << 62
"""No bound, and a time after all times."""


class Gap:
    """Records that cannot be delivered, at their place among the entries of a block; cursors as sealed text.

    ``records`` is how many of the log it stands for; 0 where it is none of the log's.
    """

    __slots__ = ("entry", "reason", "records", "resumed_at", "start")

    def __init__(self, *, entry: int, reason: str, start: bytes, resumed_at: bytes, records: int = 0) -> None:
        self.entry = entry
        self.reason = reason
        self.records = records
        self.start = start
        self.resumed_at = resumed_at

    def data(self) -> dict[str, str]:
        """The gap as partners read it."""
        return {"reason": self.reason, "from": self.start.decode(), "resumed_at": self.resumed_at.decode()}


class Block:
    """Encoded entries of one page (or of one reader's private run), growing at the end only.

    Entry k is ``index[k]`` in the log, ends at byte ``ends[k]``, has cost ``data_ends[k]`` metered bytes so far and is
    of Kafka's time ``times[k]``. A gap is an entry without metered bytes; ``index`` of an entry that stands for several
    records is the last one's. ``is_plain``: each record is one unit of usage, as nearly all are.
    ``writer`` is where the encoder leaves its cursor writer between two calls. Chunks are immutable ``bytes`` that
    never change: a transport may hold them for as long as its client is slow.
    """

    __slots__ = (
        "_chunk_ends",
        "_chunks",
        "data_ends",
        "encoded_to",
        "ends",
        "gaps",
        "index",
        "is_plain",
        "times",
        "writer",
    )

    def __init__(self, first: int) -> None:
        self.encoded_to = first
        self.index: list[int] = []
        self.ends: list[int] = []
        self.data_ends: list[int] = []
        self.times: list[int] = []
        self.is_plain = True
        self.gaps: list[Gap] = []
        self.writer: CursorWriter | None = None
        self._chunks: list[bytes] = []
        self._chunk_ends: list[int] = []

    def restart(self, first: int) -> None:
        """Be an empty block again, of another page."""
        self.encoded_to = first
        self.writer = None
        if self.index:
            for entries in (
                self.index,
                self.ends,
                self.data_ends,
                self.times,
                self.gaps,
                self._chunks,
                self._chunk_ends,
            ):
                entries.clear()
            self.is_plain = True

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

    def data_bytes(self, a: int, b: int) -> int:
        """The metered bytes of entries a ≤ k < b."""
        return self.data_ends[b - 1] - (self.data_ends[a - 1] if a else 0) if a < b else 0

    def units(self, a: int, b: int) -> int:
        """The units of usage of entries a ≤ k < b, none of which is a gap."""
        return b - a if self.is_plain else sum(units_of(self.data_bytes(k, k + 1)) for k in range(a, b))

    def unsent(self, stop: int, wire_bytes: int) -> tuple[int, int]:
        """Of the entries before log index ``stop``: those (a ≤ k < b) that lie wholly in the last ``wire_bytes``."""
        b = bisect_left(self.index, stop)
        if not b:
            return 0, 0
        sent = self.ends[b - 1] - wire_bytes
        return (0 if sent <= 0 else bisect_left(self.ends, sent, 0, b) + 1), b

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

    A slice holds at most one gap, as its last entry. ``units`` is what its records are in units of usage, ``oldest``
    Kafka's time of the oldest of them in epoch milliseconds, later than all times where there is none.
    """

    __slots__ = (
        "_block",
        "_first",
        "_http_chunk",
        "body",
        "data_bytes",
        "gap",
        "oldest",
        "records",
        "stop",
        "trail",
        "units",
    )

    def __init__(
        self,
        *,
        body: bytes,
        records: int,
        data_bytes: int,
        gap: Gap | None,
        stop: int,
        trail: Trail | None,
        units: int = 0,
        oldest: int = UNBOUNDED,
        block: Block | None = None,
        first: int = 0,
    ) -> None:
        """``block``: where it was cut out, from entry ``first`` on; None where it holds one record at most."""
        self.body = body
        self.records = records
        self.data_bytes = data_bytes
        self.gap = gap
        self.stop = stop
        self.trail = trail
        self._http_chunk: bytes | None = None
        self.units = units
        self.oldest = oldest
        self._block = block
        self._first = first

    def older_than(self, millis: int) -> tuple[int, int]:
        """Records, and their metered bytes, whose time in Kafka is before ``millis``.

        To be asked right after the slice was taken: a view that one reader has uses its block again.
        """
        block, a = self._block, self._first
        if self.oldest >= millis:
            return 0, 0
        if block is None:
            return self.records, self.data_bytes
        old = [k for k in range(a, a + self.records) if block.times[k] < millis]
        return len(old), sum(block.data_bytes(k, k + 1) for k in old)

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
    max_data_bytes: int = UNBOUNDED,
    after_gap: bool = False,
    at_least_one: bool = True,
) -> Slice | None:
    """Entries of ``block`` from ``a`` on, within the bounds; ``stop`` where all of them fit.

    ``at_least_one``: the first entry is given whatever its size; without it None says that it does not fit. With
    ``max_records`` 0 nothing fits, but what the view leaves out is still passed.
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
    fits = _fitting(block.ends, a, b, max_bytes)
    if max_data_bytes is not UNBOUNDED:
        fits = min(fits, _fitting(block.data_ends, a, b, max_data_bytes))
    if fits < b:
        if fits == a and not at_least_one:
            return None
        fits = max(a + 1, fits)
        if fits < b:
            b, gap = fits, None
    if a >= b:
        return None
    records = b - a - (gap is not None)
    data_ends, times = block.data_ends, block.times
    return Slice(
        body=block.span(a, b),
        records=records,
        data_bytes=data_ends[b - 1] - (data_ends[a - 1] if a else 0),
        gap=gap,
        # What follows the last entry may be records that the view leaves out: they are passed in the same step.
        stop=stop if b == total else block.index[b - 1] + 1,
        trail=trail,
        units=records if block.is_plain else block.units(a, a + records),
        oldest=times[a] if records == 1 else min(times[a : a + records], default=UNBOUNDED),
        block=block,
        first=a,
    )


def _fitting(ends: Sequence[int], a: int, b: int, bound: int) -> int:
    """The greatest k ≤ b for which entries a to k, k left out, take no more than ``bound``."""
    base = ends[a - 1] if a else 0
    return b if ends[b - 1] - base <= bound else bisect_right(ends, base + bound, a, b)
