"""How far back a contract lets anybody read: where retention and ``max_age`` have moved the beginning of a topic."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from gateway.clock import Clock
from gateway.hub.feed import TopicFeed
from gateway.hub.hub import Hub
from gateway.model import Contract, Vector

FLOOR_SECONDS: Final = 15.0
"""How long an answer is remembered."""

_Key = tuple[str, str, int, int | None]


@dataclass(frozen=True, slots=True)
class Floor:
    """The earliest offsets that may be read. ``retained``: the topic itself does not begin at offset 0 any more."""

    vector: Vector
    retained: bool
    asked_at: float


class Floors:
    """Asks Kafka once for all who want to know at the same time; a failure is everybody's, at once."""

    def __init__(self, hub: Hub, clock: Clock) -> None:
        self._hub = hub
        self._clock = clock
        self._known: dict[_Key, Floor] = {}
        self._asking: dict[_Key, asyncio.Task[Floor]] = {}

    async def floor(self, contract: Contract, feed: TopicFeed, *, partitions: int, is_fresh: bool = False) -> Floor:
        """The floor now, of at least ``partitions`` partitions: a topic that has grown is asked anew.

        ``is_fresh``: what is remembered does not do. Raises Unavailable.
        """
        key = (contract.cluster, contract.topic, feed.incarnation, contract.replay.max_age_seconds)
        known = self._known.get(key)
        oldest = self._clock.monotonic() - FLOOR_SECONDS
        if known is not None and not is_fresh and known.asked_at >= oldest and len(known.vector) >= partitions:
            return known
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(contract))
            asking.add_done_callback(lambda task: self._answered(key, task))
        # Shielded: one who gives up waiting must not take the answer from the others.
        return await asyncio.shield(asking)

    def _answered(self, key: _Key, task: asyncio.Task[Floor]) -> None:
        del self._asking[key]
        if not task.cancelled() and task.exception() is None:
            self._known[key] = task.result()

    async def _ask(self, contract: Contract) -> Floor:
        asked_at = self._clock.monotonic()
        offsets = self._hub.source(contract.cluster).offsets
        earliest = await offsets.earliest(contract.topic)
        retained = any(earliest)
        max_age = contract.replay.max_age_seconds
        if max_age is not None:
            allowed = await offsets.at_time(contract.topic, int((self._clock.now() - max_age) * 1000))
            earliest = tuple(map(max, earliest, allowed))
        return Floor(earliest, retained, asked_at)
