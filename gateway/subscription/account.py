"""One reader's replays as those see them who count and trace."""

from __future__ import annotations

from gateway.counters import StreamCounters
from gateway.tracing import Span, current_span


class ReplayAccount:
    """Adds to a stream's counters, and makes a span of each replay where the read's request has one."""

    __slots__ = ("_counters", "_origin", "_span", "records")

    def __init__(self, counters: StreamCounters) -> None:
        self.records = 0
        """Read from Kafka because this reader asked; what others asked for is theirs."""
        self._counters = counters
        # Kept, since a replay may also begin later, under whoever happens to be running then.
        self._origin = current_span.get()
        self._span: Span | None = None

    def begin(self) -> None:
        """The reader is older than the log."""
        self._counters.replays += 1
        self._counters.replaying += 1
        self._span = None if self._origin is None else self._origin.child("replay")

    def add(self, records: int) -> None:
        """So many were read from Kafka for this reader, and for all who are near."""
        self.records += records
        self._counters.replayed_records += records

    def end(self, code: str) -> None:
        """The reader is in the log, or has gone; ``code`` says why, if not for the best reason."""
        self._counters.replaying -= 1
        if self._span is not None:
            self._span.note("records", self.records)
            self._span.end(code)
