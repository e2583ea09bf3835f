"""A topic in use: its log, the views of it, and everybody to call when something arrives.

Implements the Kafka reader's ``Sink``. One feed per topic and process, whatever the number of streams and readers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar, cast

from gateway.clock import Clock
from gateway.hub.log import TopicLog
from gateway.hub.pump import Pump, Pumped
from gateway.hub.view import View
from gateway.model import Record, Vector
from gateway.uid import RecordIdentity

T = TypeVar("T")


class TopicFeed:
    """The shared side of all reads of one topic."""

    def __init__(
        self,
        *,
        cluster: str,
        topic: str,
        log: TopicLog,
        pump: Pump,
        clock: Clock,
        incarnation: int,
        identity: RecordIdentity,
        on_other_history: Callable[[TopicFeed], None],
    ) -> None:
        self.cluster = cluster
        self.topic = topic
        self.log = log
        self.incarnation = incarnation
        self.identity = identity
        self.users = 0
        self.is_live = asyncio.Event()
        self.down_reason: str | None = None
        self.last_append_monotonic = clock.monotonic()
        self._on_other_history = on_other_history
        self._clock = clock
        self._pump = pump
        self._views: dict[Hashable, View] = {}
        self._shared: dict[Hashable, object] = {}
        self._listeners: dict[Pumped, None] = {}

    # ---- the Kafka reader's side ---------------------------------------------------------------------------------

    def start(self, vector: Vector) -> None:
        before = self.log.head_vector
        self.log.restart(vector)
        if any(new < old for new, old in zip(vector, before, strict=False)) or len(vector) < len(before):
            # Offsets that were read do not exist any more: the topic was made anew, or lost its end.
            self._on_other_history(self)

    def append(self, partition: int, records: Sequence[Record], position: int) -> None:
        self.log.append(partition, records, position)
        self.last_append_monotonic = self._clock.monotonic()

    def flush(self) -> None:
        """Wake everybody who waits, each time starting with another one."""
        listeners = self._listeners
        if not listeners:
            return
        ready = self._pump.ready
        for listener in listeners:
            ready(listener)
        first = next(iter(listeners))
        del listeners[first]
        listeners[first] = None
        self._pump.run()

    def live(self) -> None:
        self.down_reason = None
        self.is_live.set()
        self.flush()

    def down(self, reason: str) -> None:
        # Open reads keep what they have; is_live stays set once the log was live, since the log still serves.
        self.down_reason = reason

    # ---- the readers' side ---------------------------------------------------------------------------------------

    def listen(self, reader: Pumped) -> None:
        """Give ``reader`` a turn whenever records arrive."""
        self._listeners[reader] = None

    def forget(self, reader: Pumped) -> None:
        self._listeners.pop(reader, None)

    def view(self, key: Hashable, make: Callable[[TopicFeed], View]) -> View:
        """The view of this shape, made by ``make`` for its first reader. Give it back with ``release_view``."""
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = make(self)
        view.readers += 1
        return view

    def release_view(self, key: Hashable) -> None:
        """One reader less. Encoded bytes are let go with the last one."""
        view = self._views[key]
        view.readers -= 1
        if not view.readers:
            del self._views[key]
            view.close()

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Something derived from the log that several views use (a field index), made once."""
        if key not in self._shared:
            self._shared[key] = make()
        return cast(T, self._shared[key])

    def view_bytes(self) -> int:
        return sum(view.bytes for view in self._views.values())

    def views(self) -> int:
        return len(self._views)
