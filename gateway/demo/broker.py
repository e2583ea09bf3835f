"""``python -m gateway.demo.broker``: a Kafka cluster over TCP, and the player that fills it.

The cluster is librdkafka's mock: real protocol on a random loopback port, records in memory, topics made with four
partitions by the first produce, and the oldest batches dropped beyond some 5 MB a partition.

It talks with its parent by lines. Out: one JSON object with ``bootstrap_servers``, once the first records of every
topic are in. In: ``play``, from which on the rest is played. When the input ends, the process ends: a parent that is
killed leaves nothing behind.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from gateway.demo.recordings import read_records

Tape = Iterator[tuple[bytes, bytes]]

_START_SECONDS = 10.0
_FULL_QUEUE_SECONDS = 0.1
_MOST_BEHIND_SECONDS = 1.0


class Cluster:
    """A mock cluster of one broker, and the producer that it lives in."""

    def __init__(self) -> None:
        """Raises KafkaException where it does not come up."""
        # Its one warning at this level says that it is a mock, on every start.
        self._producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 3})
        brokers = self._producer.list_topics(timeout=_START_SECONDS).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def append(self, topic: str, key: bytes, value: bytes) -> None:
        """Produce a record with the present time, waiting while the producer's queue is full."""
        while True:
            try:
                self._producer.produce(topic, key=key, value=value, on_delivery=_check_delivery)
                break
            except BufferError:
                self._producer.poll(_FULL_QUEUE_SECONDS)
        self._producer.poll(0)

    def flush(self) -> None:
        """Return when everything appended is stored. Raises KafkaException where it is not in time."""
        if self._producer.flush(_START_SECONDS):
            raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))


def _check_delivery(error: KafkaError | None, _message: Message) -> None:
    if error is not None:
        raise KafkaException(error)


def play(cluster: Cluster, tapes: dict[str, Tape], *, rate: float, wait: Callable[[float], bool]) -> None:
    """Append a record of every tape ``rate`` times a second, until all tapes have run out or ``wait`` says to end.

    ``wait(seconds)`` returns True as soon as it is over. After a pause of the machine the player goes on at its rate
    instead of catching up.
    """
    due = time.monotonic()
    while tapes and not wait(max(due - time.monotonic(), 0)):
        for topic, tape in list(tapes.items()):
            record = next(tape, None)
            if record is None:
                del tapes[topic]
            else:
                cluster.append(topic, *record)
        due = max(due + 1 / rate, time.monotonic() - _MOST_BEHIND_SECONDS)


def _follow_parent(playing: threading.Event, ended: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "play":
            playing.set()
    ended.set()
    playing.set()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.broker", description="The demo's Kafka.")
    parser.add_argument("--rate", type=float, default=20.0, help="records per second and topic")
    parser.add_argument("--first", type=int, default=500, help="records of each topic that are there from the start")
    parser.add_argument("--once", action="store_true", help="play the rest once instead of for ever")
    parser.add_argument("--topic", nargs=3, action="append", default=[], metavar=("TOPIC", "FILE", "KEY"))
    options = parser.parse_args(arguments)

    playing, ended = threading.Event(), threading.Event()
    # A daemon: it sits in a read that only the parent can end.
    threading.Thread(target=_follow_parent, args=(playing, ended), daemon=True).start()
    cluster = Cluster()
    tapes: dict[str, Tape] = {}
    for topic, file, key in options.topic:
        records = read_records(Path(file), key=key)
        for record in records[: options.first]:
            cluster.append(topic, *record)
        rest = records[options.first :]
        tapes[topic] = iter(rest) if options.once else itertools.cycle(rest)
    cluster.flush()
    sys.stdout.write(json.dumps({"bootstrap_servers": cluster.bootstrap_servers}) + "\n")
    sys.stdout.flush()

    playing.wait()
    play(cluster, tapes, rate=options.rate, wait=ended.wait)
    ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
