"""One reader's way through one log, from a vector that need not fit any index of it: merge, then shared.

Another process, or another log of this one, interleaved the partitions in another way.

- *merge*: from the last index at or below the vector on, a record is delivered only where it is at or beyond the vector
  reached; encoded for this reader alone, since the shared view's cursors would make a resume repeat records.
- *shared*: from the first index whose vector covers what was reached, slices of the shared view and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from gateway.hub.block import Slice
from gateway.hub.log import TopicLog, Trail
from gateway.hub.view import View
from gateway.model import Record, Vector
from gateway.subscription.runs import Runs


class Walk:
    """Where a reader stands in a log: before ``index``, in steps of the log's ``view``.

    What it merges goes to ``runs``; whoever takes, takes from there first.
    """

    __slots__ = (
        "_counted",
        "_filtered",
        "_hidden",
        "_reached",
        "_runs",
        "given",
        "index",
        "log",
        "mode",
        "trail",
        "view",
    )

    def __init__(self, log: TopicLog, view: View, runs: Runs, *, start: Vector, index: int) -> None:
        """``index`` is the log's floor of ``start``."""
        self.log = log
        self.view = view
        self.index = index
        self.trail: Trail | None = None
        self.mode: Literal["merge", "shared"] = "shared" if log.ceil_index(start) == index else "merge"
        self._runs = runs
        self._reached = list(start)
        self._counted = index
        self._filtered = self._hidden = 0
        self.given = 0
        """Records taken from the shared view since ``settle``, those that a gap stands for included."""

    @property
    def is_lost(self) -> bool:
        """Whether the log has dropped what comes next."""
        return self.index < self.log.first

    @property
    def is_at_end(self) -> bool:
        return self.index >= self.log.head

    def take(
        self, *, max_records: int, max_bytes: int, max_data_bytes: int, after_gap: bool, at_least_one: bool
    ) -> Slice | None:
        """The next slice; None where there is none, or where its first record does not fit. A slice without body moved
        over what is not for this reader. Needs an empty queue of runs, and a walk that is not lost."""
        if self.mode == "merge":
            self._merge()
            if not self._runs:
                return None if self.is_at_end else PASSED
            return self._runs.take(
                max_records=max_records,
                max_bytes=max_bytes,
                max_data_bytes=max_data_bytes,
                after_gap=after_gap,
                at_least_one=at_least_one,
            )
        piece = self.view.take(
            self.index,
            max_records=max_records,
            max_bytes=max_bytes,
            max_data_bytes=max_data_bytes,
            after_gap=after_gap,
            at_least_one=at_least_one,
        )
        if piece is not None:
            self.index = piece.stop
            self.trail = piece.trail
            self.given += piece.records
            if piece.gap is not None:
                self.given += piece.gap.records
        return piece

    def vector(self) -> Vector:
        """The vector before what comes next, behind all runs."""
        if self.mode == "shared":
            if self.index == self.log.head:
                return self.log.head_vector
            if self.trail is not None:
                return self.trail.vector_before(self.index)
        return tuple(self._reached)

    def end_vector(self) -> Vector:
        """The vector of a reader who has come to the log's end: all that the log passed is behind, records or not."""
        here, head = self.vector(), self.log.head_vector
        shared = tuple(map(max, here, head))
        return shared + (here[len(head) :] or head[len(here) :])

    def next_time(self) -> int | None:
        """Kafka's time of the record at the index, in epoch milliseconds; None where it is not held."""
        if self.is_lost or self.is_at_end:
            return None
        page = self.log.page_at(self.index)
        return page.records[self.index - page.first].timestamp

    def last_time(self) -> int | None:
        """Kafka's time of the newest record held."""
        log = self.log
        return log.page_at(log.head - 1).records[-1].timestamp if log.first < log.head else None

    def skip_to(self, index: int) -> None:
        """Stand at ``index``: nothing before it is for this reader. Only while ``mode`` is shared."""
        log = self.log
        if not max(self.index, log.first) <= index <= log.head:
            return
        if log.first == log.head:
            self.trail, self._reached = None, list(log.head_vector)
        else:
            self.trail = log.page_at(min(index, log.head - 1)).trail
        self.index = index

    def _merge(self) -> None:
        """Queue a bounded part of the merge zone; leave it where the shared view serves from here on."""
        log = self.log
        end = log.ceil_index(tuple(self._reached))
        if end is None or end > self.index:
            stop = log.head if end is None else end
            if self.index >= stop:
                return
            page = log.page_at(self.index)
            stop = min(stop, page.end)
            zone = page.records[self.index - page.first : stop - page.first]
            self.index = stop
            reached = self._reached
            fresh = [one for one in zone if one.partition >= len(reached) or one.offset >= reached[one.partition]]
            chosen = self._runs.push(fresh, start=tuple(reached))
            self._count(fresh, chosen)
            for record in fresh:
                if record.partition >= len(reached):
                    reached.extend([0] * (record.partition + 1 - len(reached)))
                reached[record.partition] = record.next
            end = log.ceil_index(tuple(reached))
        if end is not None and end <= self.index:
            self.mode = "shared"
            self.trail = None
            self._counted = self.index

    # ---- what the view leaves out --------------------------------------------------------------------------------

    def _count(self, records: Sequence[Record], chosen: int) -> None:
        """Of records that were looked at one by one."""
        if self.view.selector is not None:
            own, seen = self.view.selector.count(records)
            self._filtered += seen - chosen
            self._hidden += own - seen

    def settle(self) -> tuple[int, int]:
        """Records that were passed and not given since the last call: taken away by the reader's own filter, and hidden
        by a row filter. Of what the log has dropped in between nobody knows any more whose it was."""
        selector = self.view.selector
        if selector is not None and self.mode == "shared":
            own = seen = 0
            at = max(self._counted, self.log.first)
            while at < self.index:
                page = self.log.page_at(at)
                end = min(self.index, page.end)
                in_page = selector.count_between(page, at - page.first, end - page.first)
                own, seen, at = own + in_page[0], seen + in_page[1], end
            self._filtered += max(0, seen - self.given)
            self._hidden += own - seen
            self._counted, self.given = self.index, 0
        found = self._filtered, self._hidden
        self._filtered = self._hidden = 0
        return found


PASSED: Final = Slice(body=b"", records=0, data_bytes=0, gap=None, stop=0, trail=None)
"""Nothing to send, but there may be more at once."""
