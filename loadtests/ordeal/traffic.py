"""Records with numbers into one topic, at an even pace, whatever happens to the brokers."""

from __future__ import annotations

import asyncio
import bisect
import json
import time
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from loadtests.ordeal.checker import Series, Truth

PLAIN = "plain"
TRANSACTIONAL = "tx"
BEAT_SECONDS = 0.02
_FLUSH_SECONDS = 60.0
_ROBUST = {
    "log_level": 0,
    "acks": "all",
    # An answer that is lost makes no second copy of a record.
    "enable.idempotence": True,
    "linger.ms": 2,
    "message.timeout.ms": 120_000,
    "request.timeout.ms": 2000,
    "socket.timeout.ms": 3000,
    "retry.backoff.ms": 50,
    "retry.backoff.max.ms": 200,
    "reconnect.backoff.max.ms": 500,
    "topic.metadata.refresh.interval.ms": 1000,
    "topic.metadata.refresh.fast.interval.ms": 50,
}
# What is left open is aborted by the next producer of the same name, long before that time.
_TRANSACTIONAL = {"message.timeout.ms": 30_000, "transaction.timeout.ms": 60_000}


class ProducerFailed(Exception):
    """The instrument is broken: Kafka did not take a record at all."""


@dataclass
class _Places:
    """Of each acknowledged number of a series: its offset, and when Kafka said so."""

    offsets: list[int] = field(default_factory=list)
    acknowledged_at: list[float] = field(default_factory=list)


class Traffic:
    """The only producer of a topic. ``run`` writes ``burst`` records at each beat, to the partitions in turn."""

    def __init__(self, bootstrap: str, topic: str, *, partitions: int) -> None:
        self.truth = Truth(topic)
        self.partitions = partitions
        self.sent: dict[Series, int] = {}
        self.beat_seconds = BEAT_SECONDS
        self.burst = 1
        self._bootstrap = bootstrap
        self._places: dict[Series, _Places] = {}
        self._producer: Producer | None = self._open()
        self._failed: KafkaError | None = None
        self._turn = 0
        self._running = asyncio.Event()
        self._running.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._running.wait()
            for _ in range(self.burst):
                self.send(self._turn % self.partitions)
                self._turn += 1
            await asyncio.sleep(self.beat_seconds)

    def send(self, partition: int, *, padding: int = 0) -> None:
        """One more record; says nothing of whether Kafka has it."""
        assert self._producer is not None
        value = self._value(PLAIN, partition, padding=padding)
        self._producer.produce(self.truth.topic, value, partition=partition, on_delivery=self._on_delivery)
        self._producer.poll(0)
        if self._failed is not None:
            raise ProducerFailed(f"{self.truth.topic}: {self._failed}")

    async def pause(self) -> None:
        """No more records, and all that were sent are acknowledged."""
        self._running.clear()
        assert self._producer is not None
        deadline = time.monotonic() + _FLUSH_SECONDS
        while self._producer.flush(0):
            if time.monotonic() > deadline:
                raise ProducerFailed("Kafka does not take what is left")
            await asyncio.sleep(0.01)

    def go_on(self) -> None:
        self._running.set()

    def end_life(self) -> None:
        """The topic will be made anew; only while paused, and until ``begin_life`` nobody may send."""
        self.truth.begin_life()
        self.sent, self._places = {}, {}
        # What it knows of sequences is of the old topic; and as long as it lives, brokers that create what is asked for
        # would give it the old topic back.
        self._producer = None

    def begin_life(self) -> None:
        """The topic is there again, and all brokers know."""
        self._producer = self._open()

    def _open(self) -> Producer:
        return Producer({"bootstrap.servers": self._bootstrap, **_ROBUST})

    async def transact(self, count: int, *, transactional_id: str, commit: bool, abandon: bool = False) -> None:
        """``count`` records to each partition in one transaction. ``abandon``: neither, as a producer that dies; the
        next one of its name aborts what it left."""
        series = [(TRANSACTIONAL, partition) for partition in range(self.partitions)]
        values = [
            (partition, self._value(TRANSACTIONAL, partition, ahead=ahead, void=not commit))
            for ahead in range(count)
            for _, partition in series
        ]
        producer = Producer(
            {"bootstrap.servers": self._bootstrap, **_ROBUST, **_TRANSACTIONAL, "transactional.id": transactional_id}
        )
        offsets: dict[Series, list[int]] = {one: [] for one in series}

        def note(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is None and partition is not None and offset is not None:
                offsets[TRANSACTIONAL, partition].append(offset)

        def work() -> None:
            _insist(lambda: producer.init_transactions(20))
            producer.begin_transaction()
            for partition, value in values:
                producer.produce(self.truth.topic, value, partition=partition, on_delivery=note)
            producer.flush(30)
            if not abandon:
                _insist(lambda: producer.commit_transaction(20) if commit else producer.abort_transaction(20))

        await asyncio.to_thread(work)
        if commit:
            assert all(len(one) == count for one in offsets.values())
            now = time.monotonic()
            for one in series:
                self._acknowledge(one, offsets[one], at=now)
                self.sent[one] = self.truth.acknowledged[one]

    def delete_before(self, offsets: dict[int, int]) -> None:
        """Retention takes what is before these offsets: by partition."""
        for series, places in self._places.items():
            limit = bisect.bisect_left(places.offsets, offsets[series[1]])
            self.truth.deleted[series] = max(limit, self.truth.deleted.get(series, 0))

    def end_offsets(self) -> dict[int, int]:
        """Of each partition, where the last acknowledged record of ours ends."""
        ends: dict[int, int] = {}
        for (_, partition), places in self._places.items():
            if places.offsets:
                ends[partition] = max(ends.get(partition, 0), places.offsets[-1] + 1)
        return ends

    def acknowledged_at(self, series: Series, number: int) -> float | None:
        """When Kafka said that it has this record; None while it has not."""
        places = self._places.get(series)
        return None if places is None or number >= len(places.offsets) else places.acknowledged_at[number]

    def close(self) -> None:
        """What is not sent by now will not be."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(1)

    def _value(self, series: str, partition: int, *, ahead: int = 0, padding: int = 0, void: bool = False) -> bytes:
        number = self.sent.get((series, partition), 0) + ahead
        if series == PLAIN:
            self.sent[series, partition] = number + 1
        members: dict[str, Any] = {"topic": self.truth.topic, "life": self.truth.life, "series": series}
        members |= {"p": partition, "n": number, "at": time.monotonic()}
        if void:
            members["void"] = True
        return json.dumps(members | {"pad": "x" * padding}).encode()

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed = self._failed or error
            return
        partition = message.partition()
        offset = message.offset()
        assert partition is not None
        if offset is None:
            # A record sent twice is kept once, and Kafka does not say where: it is behind the one before.
            before = self._places.get((PLAIN, partition), _Places()).offsets
            offset = before[-1] + 1 if before else 0
        self._acknowledge((PLAIN, partition), [offset], at=time.monotonic())

    def _acknowledge(self, series: Series, offsets: list[int], *, at: float) -> None:
        places = self._places.setdefault(series, _Places())
        places.offsets += offsets
        places.acknowledged_at += [at] * len(offsets)
        self.truth.acknowledged[series] = len(places.offsets)


def _insist(call: Any) -> None:
    """A transaction's step is repeated while Kafka says that it may be."""
    deadline = time.monotonic() + _FLUSH_SECONDS
    while True:
        try:
            call()
            return
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
