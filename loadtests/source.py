"""Records with sequence numbers, into Kafka."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from confluent_kafka import Producer

RECORD_BYTES = 240
_FIELDS = (
    b'"callsign":"DLH4AB","latitude":50.03793,"longitude":8.56215,"altitude_ft":36000,"speed_kt":447.3,'
    b'"heading_deg":271,"squawk":"1000","on_ground":false,"origin":"EDDF","destination":"KORD"'
)


def value(partition: int, sequence: int, *, size: int = RECORD_BYTES) -> bytes:
    """A JSON record of ``size`` bytes with the mark that readers look for."""
    start = b'{"seq":"%d:%010d",%b,"note":"' % (partition, sequence, _FIELDS)
    return start + b"." * (size - len(start) - 2) + b'"}'


Payload = Callable[[int, int], bytes]
"""Partition and its sequence number → a record's value."""


class Source:
    """The only producer of a topic: partitions in turn, each with numbers of its own from 0."""

    def __init__(
        self, bootstrap: str, topic: str, *, partitions: int, linger_ms: int = 0, payload: Payload = value
    ) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "log_level": 3,
                "linger.ms": linger_ms,
                "batch.size": 512 * 1024,
                "acks": "all",
                "max.in.flight.requests.per.connection": 1,
                "queue.buffering.max.messages": 200_000,
            }
        )
        self._topic = topic
        self._payload = payload
        self._turn = 0
        self.vector = [0] * partitions

    @property
    def sent(self) -> int:
        """How many records there are, whatever their partitions."""
        return self._turn

    def send(self, count: int = 1, *, flush: bool = True) -> None:
        """Produce ``count`` records; with ``flush`` all of them are acknowledged on return."""
        for _ in range(count):
            partition = self._turn % len(self.vector)
            self._turn += 1
            self._put(partition)
        if flush:
            self.flush()
        else:
            self._producer.poll(0)

    def _put(self, partition: int) -> None:
        record = self._payload(partition, self.vector[partition])
        while True:
            try:
                self._producer.produce(self._topic, record, partition=partition)
                break
            except BufferError:
                self._producer.poll(0.01)
        self.vector[partition] += 1

    def send_paced(self, count: int, *, per_second: float, uneven: random.Random | None = None) -> None:
        """Produce one record at a time at an even pace, or ``uneven``: each at a random moment of its own period."""
        start = time.monotonic()
        for number in range(count):
            period = number + uneven.random() if uneven else number
            left = start + period / per_second - time.monotonic()
            if left > 0:
                time.sleep(left)
            self.send(flush=False)
        self.flush()

    def flush(self) -> None:
        """Wait until everything is acknowledged."""
        left = self._producer.flush(60)
        if left:
            raise RuntimeError(f"{left} records were not acknowledged by Kafka")
