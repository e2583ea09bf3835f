"""The topics this process reads: each once, started by its first reader and kept for a while after its last."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.hub.feed import TopicFeed
from gateway.hub.log import TopicLog
from gateway.hub.past import PAST_BYTES, Past
from gateway.hub.pump import Pump
from gateway.kafka.reader import ReaderStatus
from gateway.kafka.replay import Replayed
from gateway.model import Vector
from gateway.status import MemoryStatus
from gateway.uid import RecordIdentity

log = logging.getLogger("gateway.hub")
OPEN_SECONDS: Final = 5.0
"""How long an open waits for Kafka before it is answered 503."""


RETENTION_SECONDS: Final = 300.0
RETENTION_RETRY_SECONDS: Final = 30.0
"""How often a topic in use is asked how long it keeps records, and how soon again after no answer."""

PAST_SHARE: Final = 8
"""The part of the memory bound that a topic's past may have, if that is less than its own bound."""

RECLAIM_SECONDS: Final = 0.25
"""How often the memory bound is looked after, at most."""


class Reader(Protocol):
    """Fills one feed; never ends by itself."""

    @property
    def status(self) -> ReaderStatus: ...

    async def run(self) -> None: ...


class Offsets(Protocol):
    """Where a topic's partitions begin, end, and stood at a time; how long it keeps records, if that is known."""

    async def partitions(self, topic: str) -> int: ...
    async def earliest(self, topic: str) -> Vector: ...
    async def latest(self, topic: str) -> Vector: ...
    async def at_time(self, topic: str, millis: int) -> Vector: ...
    async def retention_ms(self, topic: str) -> float | None: ...


class Replays(Protocol):
    """Reads of what no log holds."""

    async def read(
        self, topic: str, start: Vector, until: Vector, *, max_records: int = 2000, max_bytes: int = 1 << 20
    ) -> Replayed: ...


@dataclass(frozen=True, slots=True)
class _TopicHistory:
    """Replays of one topic."""

    replays: Replays
    topic: str

    async def read(self, start: Vector, until: Vector, *, max_records: int, max_bytes: int) -> Replayed:
        return await self.replays.read(self.topic, start, until, max_records=max_records, max_bytes=max_bytes)


@dataclass(frozen=True, slots=True)
class Source:
    """One Kafka cluster as the engine uses it."""

    name: str
    offsets: Offsets
    replays: Replays
    reader: Callable[[TopicFeed], Reader]


@dataclass(slots=True)
class _Use:
    feed: TopicFeed
    reader: Reader
    task: asyncio.Task[None]
    asking: asyncio.Task[None]
    beginning: asyncio.Lock = field(default_factory=asyncio.Lock)
    linger: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        self.task.cancel()
        self.asking.cancel()
        self.feed.past.end_all()
        if self.linger is not None:
            self.linger.cancel()


@dataclass(frozen=True, slots=True)
class _Ended:
    """A life that is over."""

    incarnation: int
    topic_id: str | None


class Hub:
    """Feeds by (cluster, topic), counted by reference."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        pump: Pump,
        clock: Clock,
        ring_records: int,
        ring_bytes: int,
        memory_bytes: int,
        linger_seconds: float,
        uid_key: bytes,
        incarnation: Callable[[str, str, str | None], Awaitable[int]],
        next_incarnation: Callable[[str, str, int], Awaitable[int]],
    ) -> None:
        """``incarnation(cluster, topic, topic_id)`` is the life of the topic that has this id, or the present one where
        it is None; ``next_incarnation(cluster, topic, seen)`` begins the one after ``seen`` without another id. Both
        are kept in the database, and count once for all nodes."""
        self._sources = sources
        self._pump = pump
        self._clock = clock
        self._ring_records = ring_records
        self._ring_bytes = ring_bytes
        self._memory_bytes = memory_bytes
        self._reclaimed_at = 0.0
        self._linger_seconds = linger_seconds
        self.is_full = False
        self.reclaims = 0
        self._uid_key = uid_key
        self._incarnation = incarnation
        self._next_incarnation = next_incarnation
        self._ended: dict[tuple[str, str], _Ended] = {}
        self.on_feed_over: list[Callable[[TopicFeed, str], None]] = []
        self._uses: dict[tuple[str, str], _Use] = {}

    def source(self, cluster: str) -> Source:
        """The cluster of that name. Raises Unavailable for one that is not configured."""
        source = self._sources.get(cluster)
        if source is None:
            log.error("a contract names a cluster that is not configured", extra={"fields": {"cluster": cluster}})
            raise Unavailable("The stream's source is not configured.", retry_after_ms=30_000)
        return source

    async def acquire(self, cluster: str, topic: str) -> TopicFeed:
        """The topic's feed, live, with one more user. Raises Unavailable after ``OPEN_SECONDS``."""
        use = self._use(cluster, topic)
        use.feed.users += 1
        if use.linger is not None:
            use.linger.cancel()
            use.linger = None
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await use.feed.is_live.wait()
                await self._begin_life(use)
        except TimeoutError:
            self.release(use.feed)
            raise Unavailable("The stream's source does not answer.", retry_after_ms=2_000) from None
        except BaseException:
            self.release(use.feed)
            raise
        return use.feed

    def release(self, feed: TopicFeed) -> None:
        """One user less; without any the feed is closed after the linger."""
        feed.users -= 1
        use = self._uses.get((feed.cluster, feed.topic))
        if feed.users == 0 and use is not None and use.feed is feed:
            loop = asyncio.get_running_loop()
            use.linger = loop.call_later(self._linger_seconds, self._close, feed)

    def _use(self, cluster: str, topic: str) -> _Use:
        key = (cluster, topic)
        if key not in self._uses:
            self._uses[key] = self._begin(cluster, topic)
        return self._uses[key]

    def _begin(self, cluster: str, topic: str) -> _Use:
        source = self.source(cluster)
        feed = TopicFeed(
            cluster=cluster,
            topic=topic,
            log=TopicLog(max_records=self._ring_records, max_bytes=self._ring_bytes),
            past=Past(
                _TopicHistory(source.replays, topic),
                most_bytes=min(PAST_BYTES, self._memory_bytes // PAST_SHARE),
                on_fill=self._reclaim,
            ),
            pump=self._pump,
            on_other_history=self._end_history,
            on_flush=self._reclaim,
        )
        reader = source.reader(feed)
        # A context of its own: it outlives the request that asked first, and must not log under that one's id.
        task = asyncio.create_task(reader.run(), name=f"reader {topic}", context=contextvars.Context())
        task.add_done_callback(partial(self._reader_ended, feed))
        asking = asyncio.create_task(self._ask_retention(feed, source.offsets), context=contextvars.Context())
        return _Use(feed, reader, task, asking)

    async def _begin_life(self, use: _Use) -> None:
        """Ask the database which life this is, once it is known which topic it is: by its id that changed while nobody
        read, else by what was seen here. Raises Unavailable where the database is away; the next open asks again."""
        feed = use.feed
        async with use.beginning:
            if feed.incarnation:
                return
            place = (feed.cluster, feed.topic)
            ended = self._ended.get(place)
            if ended is not None and (feed.topic_id is None or feed.topic_id == ended.topic_id):
                await self._next_incarnation(*place, ended.incarnation)
            incarnation = await self._incarnation(*place, feed.topic_id)
            self._ended.pop(place, None)
            identity = RecordIdentity(self._uid_key, cluster=feed.cluster, topic=feed.topic, incarnation=incarnation)
            feed.begin_life(incarnation, identity)

    async def _ask_retention(self, feed: TopicFeed, offsets: Offsets) -> None:
        """Keep the feed's word on retention fresh, until cancelled."""
        await feed.is_live.wait()
        while True:
            try:
                feed.retention_ms = await offsets.retention_ms(feed.topic)
                pause_seconds = RETENTION_SECONDS
            except Unavailable as error:
                log.debug("the retention of topic %s was not told: %s", feed.topic, error)
                pause_seconds = RETENTION_RETRY_SECONDS
            except Exception as error:
                log.error("the retention of a topic could not be read", exc_info=error)
                pause_seconds = RETENTION_SECONDS
            await asyncio.sleep(pause_seconds)

    def is_over_memory(self) -> bool:
        """Whether the bound is passed although all that may go has gone, looked at now."""
        if self.is_full:
            self._reclaim()
        return self.is_full

    def _reclaim(self) -> None:
        """Keep logs, views and replays within ``memory_bytes``: idle views go first, then what most readers have passed
        of replays, then the oldest part of the largest log.

        ``is_full`` says that this was not enough; new replays are refused then.
        """
        now = self._clock.monotonic()
        if now - self._reclaimed_at < RECLAIM_SECONDS:
            return
        self._reclaimed_at = now
        feeds = [use.feed for use in self._uses.values()]
        if _used(feeds) <= self._memory_bytes:
            self.is_full = False
            return
        self.reclaims += 1
        for feed in feeds:
            feed.views.trim_idle()
            feed.past.trim_idle_views()
        excess = _used(feeds) - self._memory_bytes
        for feed in sorted(feeds, key=lambda feed: feed.past.bytes, reverse=True):
            excess -= feed.past.shrink(excess)
        for feed in sorted(feeds, key=lambda feed: feed.log.bytes, reverse=True):
            if excess <= 0:
                break
            before = feed.bytes()
            feed.log.shrink(excess)
            excess -= before - feed.bytes()
        self.is_full = excess > 0

    def _end_history(self, feed: TopicFeed) -> None:
        """The feed's topic is another one now: let go of it. Whoever comes next gets a feed of the new life, in which
        the cursors of the old one are told apart."""
        log.warning("a topic's history changed", extra={"fields": {"cluster": feed.cluster, "topic": feed.topic}})
        if self._let_go(feed, "The stream's history has changed.") and feed.incarnation:
            self._ended[feed.cluster, feed.topic] = _Ended(feed.incarnation, feed.topic_id)

    def _reader_ended(self, feed: TopicFeed, task: asyncio.Task[None]) -> None:
        """A reader never ends by itself; one that does would leave its streams open and silent for ever."""
        if not task.cancelled():
            fields = {"cluster": feed.cluster, "topic": feed.topic}
            log.error("a topic's reader broke", exc_info=task.exception(), extra={"fields": fields})
            self._let_go(feed, "The stream's source failed.")

    def _let_go(self, feed: TopicFeed, reason: str) -> bool:
        """Nothing comes to this feed any more: its readers are told, and whoever comes next gets another."""
        use = self._uses.get((feed.cluster, feed.topic))
        if use is None or use.feed is not feed:
            return False
        del self._uses[feed.cluster, feed.topic]
        use.stop()
        feed.over_reason = reason
        for listener in self.on_feed_over:
            listener(feed, reason)
        return True

    def _close(self, feed: TopicFeed) -> None:
        key = (feed.cluster, feed.topic)
        use = self._uses.get(key)
        if use is not None and use.feed is feed and not feed.users:
            del self._uses[key]
            use.stop()

    async def close(self) -> None:
        """Stop all readers."""
        uses = list(self._uses.values())
        self._uses.clear()
        for use in uses:
            use.stop()
        await asyncio.gather(*(task for use in uses for task in (use.task, use.asking)), return_exceptions=True)

    def readers(self) -> list[tuple[TopicFeed, ReaderStatus]]:
        """What is read now, for health and metrics."""
        return [(use.feed, use.reader.status) for use in self._uses.values()]

    def memory(self) -> MemoryStatus:
        """How much of the bound is used."""
        return MemoryStatus(
            bytes=_used(use.feed for use in self._uses.values()),
            limit_bytes=self._memory_bytes,
            log_limit_bytes=self._ring_bytes,
            log_limit_records=self._ring_records,
            reclaims=self.reclaims,
            full=self.is_full,
        )


def _used(feeds: Iterable[TopicFeed]) -> int:
    """Bytes of logs, encoded views and replays."""
    return sum(feed.bytes() for feed in feeds)
