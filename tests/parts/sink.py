"""A reader's sink that keeps everything and checks the contract as it goes; and a cluster that can be made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer

from gateway.kafka.cluster import KafkaCluster
from gateway.model import Record, Vector


class RecordingSink:
    """Every call as an event, and the records since the last ``start`` by partition."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.records: dict[int, list[Record]] = {}
        self.vector: list[int] = []
        self.is_live = False
        self.unflushed = 0
        self.topic_id: str | None = None

    @property
    def starts(self) -> list[Vector]:
        """The vector of each ``start``."""
        return [vector for name, vector in self.events if name == "start"]

    def names(self) -> list[str]:
        """The events by name."""
        return [name for name, _ in self.events]

    def values(self, partition: int = 0) -> list[bytes | None]:
        """The values of a partition's records since the last ``start``."""
        return [record.value for record in self.records.get(partition, [])]

    def start(self, vector: Vector, *, topic_id: str | None) -> None:
        self.events.append(("start", vector))
        self.topic_id = topic_id
        self.records, self.vector, self.is_live = {}, list(vector), False

    def other_history(self) -> None:
        assert self.vector, "nothing was read before"
        self.events.append(("other_history", None))

    def append(self, partition: int, records: Sequence[Record], position: int) -> None:
        if partition == len(self.vector):
            assert not records, "a new partition announces itself with an empty run"
            self.vector.append(position)
        at = self.vector[partition]
        for record in records:
            assert record.partition == partition
            assert at <= record.offset < record.next, f"{record.offset} after position {at}"
            at = record.next
        assert position == at if records else position >= at
        self.records.setdefault(partition, []).extend(records)
        self.vector[partition] = position
        self.unflushed += 1

    def flush(self) -> None:
        assert self.unflushed, "nothing to flush"
        self.unflushed = 0

    def live(self) -> None:
        assert not self.is_live, "live twice"
        assert not self.unflushed
        self.is_live = True
        self.events.append(("live", tuple(self.vector)))

    def down(self, reason: str) -> None:
        assert self.events[-1:] != [("down", reason)], "down twice"
        self.is_live = False
        self.events.append(("down", reason))


class FragileCluster(KafkaCluster):
    """A real cluster whose consumers tests can reach, break and hold back."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made: list[AIOKafkaConsumer] = []
        self.overrides: dict[str, Any] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = False
        # The next fruitful getmany loses what it took, as an undecodable batch makes it.
        self.lose_next = False

    def consumer(self, **overrides: Any) -> AIOKafkaConsumer:
        made = super().consumer(**{**overrides, **self.overrides})
        self.made.append(made)
        taken: Callable[..., Any] = made.getmany

        async def getmany(*args: Any, **options: Any) -> Any:
            fetched = await taken(*args, **options)
            if fetched and self.lose_next:
                self.lose_next = False
                raise RuntimeError("injected after taking")
            return fetched

        made.getmany = getmany
        return made

    async def open_consumer(self, topic: str, positions: Mapping[int, int], **overrides: Any) -> AIOKafkaConsumer:
        self.waiting = True
        await self.gate.wait()
        self.waiting = False
        return await super().open_consumer(topic, positions, **overrides)

    def break_fetching(self) -> None:
        """Make the newest consumer's fetch task raise from within, as a bug in it would."""

        def broken(*_: Any) -> None:
            raise RuntimeError("injected")

        self.made[-1]._fetcher._get_actions_per_node = broken
