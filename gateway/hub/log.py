"""The bounded log of one topic: what every reader of the process shares.

Records stand in fetch order, each at an *index* that is never used twice. They are kept in pages; a page is dropped as
a whole when the log grows over its bounds, so eviction costs what it evicts. A reader hangs on the log by an integer
and by the page's small map (9 bytes a record), from which the *vector* before any of its indices can be read even
after the records are gone: a reader that fell out of the log knows exactly where it stood.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.model import Record, Vector

PAGE_RECORDS: Final = 512
PAGE_BYTES: Final = 160 * 1024
_RECORD_OVERHEAD: Final = 200


class Trail:
    """Which partition each record of a page came from, and where that partition stood after it."""

    __slots__ = ("first", "nexts", "partitions", "start")

    def __init__(self, first: int, start: Vector) -> None:
        self.first = first
        self.start = start
        self.partitions = array("H")
        self.nexts = array("q")

    def vector_before(self, index: int) -> Vector:
        """The vector before ``index``, for first ≤ index ≤ first + number of records."""
        vector = list(self.start)
        for at in range(index - self.first):
            partition = self.partitions[at]
            if partition >= len(vector):
                vector.extend([0] * (partition + 1 - len(vector)))
            vector[partition] = self.nexts[at]
        return tuple(vector)


class Page:
    """Consecutive records of the log with their map. Only the last page of a log grows."""

    __slots__ = ("bytes", "first", "records", "trail")

    def __init__(self, first: int, start: Vector) -> None:
        self.first = first
        self.trail = Trail(first, start)
        self.records: list[Record] = []
        self.bytes = 0

    @property
    def end(self) -> int:
        return self.first + len(self.records)


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """What a log holds now: records and bytes within their bounds, pages, and how many records it ever dropped."""

    records: int
    bytes: int
    pages: int
    evicted: int


class TopicLog:
    """A ring of pages, bounded in records and bytes; pure, single-threaded, no I/O."""

    def __init__(self, *, max_records: int, max_bytes: int, page_records: int = PAGE_RECORDS) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        # Small rings get small pages: the bound is kept to a page.
        self._page_records = max(1, min(page_records, max_records // 4 or 1))
        self._page_bytes = max(1, min(PAGE_BYTES, max_bytes // 4 or 1))
        self._pages: list[Page] = []
        self._firsts: list[int] = []
        self._dropped = 0
        self._vector: list[int] = []
        self._head_vector: Vector | None = ()
        self.first = 0
        self.head = 0
        self.bytes = 0
        self.evicted = 0
        self.on_evict: list[Callable[[Page], None]] = []

    # ---- writing -------------------------------------------------------------------------------------------------

    def restart(self, vector: Vector) -> None:
        """Forget everything held and go on at ``vector``: the start of a log, or history that had to be skipped.

        One index is left out, so that no reader of the old run can take its place for one in the new.
        """
        self._evict(len(self._pages) - self._dropped)
        self.head += 1
        self.first = self.head
        self._vector = list(vector)
        self._head_vector = None

    def append(self, partition: int, records: Sequence[Record], position: int) -> None:
        """Add a run of one partition; ``position`` is where that partition stands afterwards.

        ``records`` may be empty: control records and aborted transactions move the vector alone.
        """
        self.extend(records)
        vector = self._vector
        if partition >= len(vector):
            vector.extend([0] * (partition + 1 - len(vector)))
        vector[partition] = max(vector[partition], position)
        self._head_vector = None

    def extend(self, records: Sequence[Record]) -> None:
        """Add records of any partitions, each in order."""
        vector = self._vector
        for record in records:
            partition = record.partition
            if partition >= len(vector):
                vector.extend([0] * (partition + 1 - len(vector)))
            # Before the record is in: a page begins at the vector before its first one.
            page = self._room()
            page.records.append(record)
            page.trail.partitions.append(partition)
            page.trail.nexts.append(record.next)
            vector[partition] = record.next
            size = _RECORD_OVERHEAD + len(record.value or b"") + len(record.key or b"")
            page.bytes += size
            self.bytes += size
            self.head += 1
        self._head_vector = None
        self._trim()

    def _room(self) -> Page:
        if self._pages:
            page = self._pages[-1]
            if len(page.records) < self._page_records and page.bytes < self._page_bytes:
                return page
        page = Page(self.head, tuple(self._vector))
        self._pages.append(page)
        self._firsts.append(page.first)
        return page

    def _trim(self) -> None:
        pages, drop = self._pages, 0
        records, size = self.head - self.first, self.bytes
        last = len(pages) - 1 - self._dropped
        while drop < last and (records > self._max_records or size > self._max_bytes):
            page = pages[self._dropped + drop]
            records -= len(page.records)
            size -= page.bytes
            drop += 1
        if drop:
            self._evict(drop)

    def shrink(self, by_bytes: int, *, before: int | None = None) -> None:
        """Give up the oldest pages for at least ``by_bytes``, but none that ends behind the index ``before``; the last
        page always stays."""
        freed = drop = 0
        last = len(self._pages) - 1 - self._dropped
        while drop < last and freed < by_bytes:
            page = self._pages[self._dropped + drop]
            if before is not None and page.end > before:
                break
            freed += page.bytes
            drop += 1
        if drop:
            self._evict(drop)

    def _evict(self, count: int) -> None:
        for page in self._pages[self._dropped : self._dropped + count]:
            self.bytes -= page.bytes
            self.evicted += len(page.records)
            self.first = page.end
            for listener in self.on_evict:
                listener(page)
        # References are cut at once; the list itself is shortened when half of it is dead, so this stays O(evicted).
        for at in range(self._dropped, self._dropped + count):
            self._pages[at] = _GONE
        self._dropped += count
        if self._dropped * 2 >= len(self._pages):
            del self._pages[: self._dropped]
            del self._firsts[: self._dropped]
            self._dropped = 0

    # ---- reading -------------------------------------------------------------------------------------------------

    @property
    def head_vector(self) -> Vector:
        """The vector after everything seen, records or not."""
        if self._head_vector is None:
            self._head_vector = tuple(self._vector)
        return self._head_vector

    def page_at(self, index: int) -> Page:
        """The page that holds ``index``, for first ≤ index < head."""
        last = self._pages[-1]
        if index >= last.first:
            return last
        return self._pages[bisect_right(self._firsts, index, self._dropped) - 1]

    def grows(self, page: Page) -> bool:
        """Whether more records may still be added to ``page``."""
        return page is self._pages[-1]

    def vector_before(self, index: int) -> Vector:
        """The vector before ``index``, for first ≤ index ≤ head."""
        if index == self.head:
            return self.head_vector
        return self.page_at(index).trail.vector_before(index)

    @property
    def first_vector(self) -> Vector:
        """The vector before what is held."""
        return self.head_vector if self.first == self.head else self._pages[self._dropped].trail.start

    def reaches_back_to(self, vector: Vector) -> bool:
        """Whether nothing that follows ``vector`` has gone, or was before the log's start."""
        return _at_most(self.first_vector, vector)

    def floor_index(self, vector: Vector) -> int | None:
        """The greatest index whose vector is ≤ ``vector`` in every partition; None where the log starts beyond it."""
        if not self.reaches_back_to(vector):
            return None
        if self.first == self.head:
            return self.head
        low, high = self._dropped, len(self._pages) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if _at_most(self._pages[middle].trail.start, vector):
                low = middle
            else:
                high = middle - 1
        page = self._pages[low]
        for at, (partition, after) in enumerate(zip(page.trail.partitions, page.trail.nexts, strict=True)):
            if partition >= len(vector) or after > vector[partition]:
                return page.first + at
        return page.end

    def ceil_index(self, vector: Vector) -> int | None:
        """The first index whose vector is ≥ ``vector`` in every partition; None where the log is not there yet."""
        if not _at_most(vector, self.head_vector):
            return None
        low, high = self._dropped, len(self._pages)
        while low < high:
            middle = (low + high) // 2
            if _at_most(vector, self._pages[middle].trail.start):
                high = middle
            else:
                low = middle + 1
        if low == self._dropped:
            return self.first
        page = self._pages[low - 1]
        behind = {p: n for p, n in enumerate(vector) if n > (page.trail.start[p] if p < len(page.trail.start) else 0)}
        for at, (partition, after) in enumerate(zip(page.trail.partitions, page.trail.nexts, strict=True)):
            if partition in behind and after >= behind[partition]:
                del behind[partition]
                if not behind:
                    return page.first + at + 1
        return page.end

    def statistics(self) -> LogStatistics:
        return LogStatistics(
            records=self.head - self.first,
            bytes=self.bytes,
            pages=len(self._pages) - self._dropped,
            evicted=self.evicted,
        )


_GONE = Page(0, ())


def _at_most(left: Vector, right: Vector) -> bool:
    """Whether ``left`` ≤ ``right`` in every partition; a partition that one does not hold stands at 0 there."""
    if len(left) > len(right) and any(left[len(right) :]):
        return False
    return all(a <= b for a, b in zip(left, right, strict=False))
