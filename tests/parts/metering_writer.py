"""A process that counts until it is killed, and says on stdout, in words of 8 bytes, how much it has counted."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from uuid import uuid4

from gateway.clock import SystemClock
from gateway.metering.meter import Meter
from gateway.metering.slab import Slab
from tests.parts.metering import grant


def main() -> None:
    directory, options = Path(sys.argv[1]), sys.argv[2:]
    if options[:1] == ["--die-in-creation"]:
        Path.rename = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign,return-value]
    slab = Slab.create(directory, source=uuid4(), now=SystemClock().now())
    meter = Meter(slab, clock=SystemClock())
    reads = [meter.begin(grant(f"tenant-{number}"), transport="sse") for number in range(5)]
    if options[:1] == ["--publish"]:
        asyncio.run(publish(meter, *options[1:]))
    counted = 0
    while True:
        reads[counted % 5].add(1, 10, 1)
        meter.flush()
        counted += 1
        os.write(1, counted.to_bytes(8, "little"))


async def publish(meter: Meter, bootstrap: str, topic: str) -> None:
    """Everything goes to Kafka, and then it waits to be killed."""
    from gateway.kafka.cluster import ClusterSettings, KafkaCluster
    from gateway.kafka.producer import Producer
    from gateway.metering.publish import Publisher

    producer = Producer(KafkaCluster(ClusterSettings(bootstrap), clock=SystemClock()), topic)
    await producer.ensure_topic()
    meter.begin(grant("acme"), transport="ws").add(42, 420, 42)
    await Publisher(meter, producer, clock=SystemClock(), node="n").publish()
    meter.begin(grant("acme"), transport="ws").add(3, 30, 3)
    meter.flush()
    os.write(1, (45).to_bytes(8, "little"))
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
