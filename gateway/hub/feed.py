"""A topic in use: its log, the views of it, its past, and everybody to call when something arrives.

Implements the Kafka reader's ``Sink``. One feed per topic and process, whatever the number of streams and readers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.hub.log import TopicLog
from gateway.hub.past import Past
from gateway.hub.prefill import Prefill
from gateway.hub.pump import Pump, Pumped
from gateway.hub.view import Route, ValueIndex
from gateway.hub.views import Views
from gateway.model import Record, Vector
from gateway.uid import RecordIdentity


class TopicFeed:
    """The shared side of all reads of one topic."""

    def __init__(
        self,
        *,
        cluster: str,
        topic: str,
        log: TopicLog,
        past: Past,
        pump: Pump,
        on_other_history: Callable[[TopicFeed], None],
        on_flush: Callable[[], None],
    ) -> None:
        self.cluster = cluster
        self.topic = topic
        self.log = log
        self.views = Views(log)
        self.past = past
        self.topic_id: str | None = None
        self.incarnation = 0
        self.identity: RecordIdentity
        self.retention_ms: float | None = None
        self.users = 0
        self.is_live = asyncio.Event()
        self.down_reason: str | None = None
        self.over_reason: str | None = None
        self.head_millis: int | None = None
        self._on_other_history = on_other_history
        self._on_flush = on_flush
        self._pump = pump
        self._listeners: dict[Pumped, None] = {}
        self._routes: dict[int, _Waiting] = {}
        self._flushed = 0
        self._prefill = Prefill()

    # ---- the Kafka reader's side ---------------------------------------------------------------------------------

    def start(self, vector: Vector, *, topic_id: str | None = None) -> None:
        self.topic_id = topic_id
        for waiting in self._routes.values():
            # Who rests for a value has not been moved for a while; what is lost now is lost from here on.
            waiting.settle(self.log.head)
        self._prefill = Prefill()
        self.log.restart(vector)
        for waiting in self._routes.values():
            waiting.wake_all(self._pump.ready)

    def other_history(self) -> None:
        self._on_other_history(self)

    def append(self, partition: int, records: Sequence[Record], position: int) -> None:
        if self.is_live.is_set():
            self.log.append(partition, records, position)
        else:
            self._prefill.add(partition, records, position)
        if records:
            self.head_millis = records[-1].timestamp

    def flush(self) -> None:
        """Wake those for whom something may have come, each time starting with another one."""
        start, self._flushed = self._flushed, self.log.head
        ready = self._pump.ready
        listeners = self._listeners
        if listeners:
            self._pump.queue(listeners)
            first = next(iter(listeners))
            del listeners[first]
            listeners[first] = None
        for waiting in self._routes.values():
            waiting.wake(self.log, start, ready)
        self._pump.run()
        self._on_flush()

    def live(self) -> None:
        self.down_reason = None
        self._prefill.pour(self.log)
        self.is_live.set()
        self.flush()

    def down(self, reason: str) -> None:
        """Nothing to do: open reads keep what they have, and the log, once live, still serves. The reader's own status
        says what is wrong."""

    # ---- the hub's side ------------------------------------------------------------------------------------------

    def begin_life(self, incarnation: int, identity: RecordIdentity) -> None:
        """Say which life of the topic this is, once and before there are readers: their cursors name it."""
        self.incarnation, self.identity = incarnation, identity

    # ---- the readers' side ---------------------------------------------------------------------------------------

    def listen(self, reader: Pumped) -> None:
        """Give ``reader`` a turn whenever records arrive."""
        self._listeners[reader] = None

    def listen_for(self, reader: RoutedReader, route: Route) -> None:
        """Give ``reader`` a turn only when records arrive that the route lets through."""
        found = self._routes.get(id(route.field))
        if found is None:
            found = self._routes[id(route.field)] = _Waiting(route.field)
        found.add(reader, route.keys)

    def forget(self, reader: Pumped) -> None:
        """No more turns for ``reader``, however it listens."""
        self._listeners.pop(reader, None)
        for waiting in self._routes.values():
            waiting.remove(reader)

    def bytes(self) -> int:
        """Memory of the log, its views, and what is read of the past."""
        return self.log.bytes + self.views.bytes + self.past.bytes

    def view_bytes(self) -> int:
        return self.views.bytes

    def view_count(self) -> int:
        """Views with readers."""
        return self.views.count


class RoutedReader(Pumped, Protocol):
    """A reader that waits for certain values only."""

    def overtaken(self, index: int) -> None:
        """Nothing before ``index`` was for you since you came to rest."""
        ...


class _Waiting:
    """Readers that wait for values of one field. Finding those to wake costs for the values that came."""

    def __init__(self, field: ValueIndex) -> None:
        self._field = field
        self._by_key: dict[object, dict[RoutedReader, None]] = {}
        self._keys: dict[Pumped, frozenset[object]] = {}

    def add(self, reader: RoutedReader, keys: frozenset[object]) -> None:
        self._keys[reader] = keys
        for key in keys:
            self._by_key.setdefault(key, {})[reader] = None

    def remove(self, reader: Pumped) -> None:
        for key in self._keys.pop(reader, ()):
            waiting = self._by_key[key]
            del waiting[reader]  # type: ignore[arg-type]  # only routed readers have keys here
            if not waiting:
                del self._by_key[key]

    def settle(self, head: int) -> None:
        """Nothing before ``head`` is for those who rest."""
        for reader in self._resting():
            reader.overtaken(head)

    def wake_all(self, ready: Callable[[Pumped], None]) -> None:
        for reader in self._resting():
            ready(reader)

    def _resting(self) -> set[RoutedReader]:
        return {reader for readers in self._by_key.values() for reader in readers}

    def wake(self, log: TopicLog, start: int, ready: Callable[[Pumped], None]) -> None:
        """Give a turn to those for whom records from ``start`` on may be."""
        if not self._keys:
            return
        if start < log.first:
            # More came at once than the log holds: what has gone again unseen may have been for anybody.
            for reader in self._resting():
                reader.overtaken(start)
                ready(reader)
            return
        came: set[object] = set()
        at = start
        while at < log.head:
            page = log.page_at(at)
            came |= self._field.keys_between(page, at - page.first, page.end - page.first)
            at = page.end
        for key in came & self._by_key.keys():
            for reader in self._by_key[key]:
                reader.overtaken(start)
                ready(reader)
