"""Records of several partitions, put into the order in which they came into being.

Kafka gives the past by partition, thousands of records of one and then of the next. In that order a reader who comes
back with a cursor of an earlier life would have to merge nearly all of it on its own, since its cursor knows the
partitions side by side. By their times they interleave about as they did when they were live, here or on another node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import attrgetter, itemgetter

from gateway.hub.log import TopicLog
from gateway.model import Record


def by_time(runs: Iterable[Sequence[Record]]) -> list[Record]:
    """The records of all runs by time, and those of each run in their order; each run is of one partition."""
    timed: list[tuple[int, Record]] = []
    for run in runs:
        # A record that claims to be older than the one before it comes right behind that one.
        timed += zip(accumulate(map(attrgetter("timestamp"), run), max), run, strict=True)
    timed.sort(key=itemgetter(0))
    return [record for _, record in timed]


class Prefill:
    """What a log is filled with before it is live, held back until there is no more of it. Bounded by its reader."""

    def __init__(self) -> None:
        self._runs: dict[int, list[Record]] = {}
        self._positions: dict[int, int] = {}

    def add(self, partition: int, records: Sequence[Record], position: int) -> None:
        """See the Kafka reader's ``Sink.append``."""
        self._runs.setdefault(partition, []).extend(records)
        self._positions[partition] = position

    def pour(self, log: TopicLog) -> None:
        """Append everything to ``log`` and hold nothing any more."""
        log.extend(by_time(self._runs.values()))
        for partition, position in self._positions.items():
            log.append(partition, (), position)
        self._runs.clear()
        self._positions.clear()
