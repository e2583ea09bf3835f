"""How everything in a process stands, put together from its parts when health or metrics ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from gateway.clock import Clock
from gateway.control import Control
from gateway.counters import StreamStatus
from gateway.hub.feed import TopicFeed
from gateway.hub.hub import Hub
from gateway.hub.pump import Pump
from gateway.kafka.reader import ReaderStatus
from gateway.kafka.replay import ReplayPool
from gateway.status import EngineStatus, StreamPlace, TopicStatus


class Overview:
    """Looks at the parts; keeps nothing."""

    def __init__(
        self,
        *,
        hub: Hub,
        pump: Pump,
        control: Control,
        clock: Clock,
        replays: Sequence[ReplayPool],
        sockets: Callable[[], Mapping[str, int]],
        spans: Callable[[], Mapping[str, int]],
    ) -> None:
        self._hub = hub
        self._pump = pump
        self._control = control
        self._clock = clock
        self._replays = replays
        self._sockets = sockets
        self._spans = spans

    def streams(self) -> Iterator[StreamStatus]:
        """How each stream that is read now stands."""
        contracts = self._control.snapshot().contracts.values()
        for feed, status in self._hub.readers():
            for contract in contracts:
                if (contract.cluster, contract.topic) == (feed.cluster, feed.topic):
                    yield StreamStatus(
                        contract.stream,
                        status.state,
                        reason=status.reason,
                        age_seconds=self._fetch_age(status),
                        head_age_seconds=self._head_age(feed),
                        lag_records=status.lag_records,
                    )

    def engine(self) -> EngineStatus:
        """Everything that metrics show and nobody counts."""
        return EngineStatus(
            streams=tuple(
                StreamPlace(one.stream, one.version, one.lifecycle, one.cluster, one.topic)
                for one in self._control.snapshot().contracts.values()
            ),
            topics=tuple(self._topic(feed, status) for feed, status in self._hub.readers()),
            replays=tuple(pool.status for pool in self._replays),
            memory=self._hub.memory(),
            sockets=self._sockets(),
            pump_turns=self._pump.turn_seconds,
            pump_slices=self._pump.turns,
            catalog_revision=self._control.revision,
            spans=self._spans(),
        )

    def _topic(self, feed: TopicFeed, status: ReaderStatus) -> TopicStatus:
        held = feed.log.statistics()
        return TopicStatus(
            feed.cluster,
            feed.topic,
            status.state,
            age_seconds=self._fetch_age(status),
            head_age_seconds=self._head_age(feed),
            lag_records=status.lag_records,
            readers=feed.users,
            log_records=held.records,
            log_bytes=held.bytes,
            evicted_records=held.evicted,
            views=feed.view_count(),
            view_bytes=feed.view_bytes(),
            replay_bytes=feed.past.bytes,
        )

    def _fetch_age(self, status: ReaderStatus) -> float | None:
        fetched = status.last_fetch_monotonic
        return None if fetched is None else round(self._clock.monotonic() - fetched, 3)

    def _head_age(self, feed: TopicFeed) -> float | None:
        millis = feed.head_millis
        return None if millis is None else round(max(0.0, self._clock.now() - millis / 1000), 3)
