"""What a tenant that wants twenty times what it may have does to how soon others get their records."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.machine import cpu_seconds
from loadtests.pester import CONNECTIONS
from loadtests.readers import Readers, WrongDelivery
from loadtests.source import value
from loadtests.stage import STREAM, Stage, stage
from loadtests.table import Row, median, percentile, spread
from loadtests.tenancy import client, tenancy
from tests.parts.kafka import KafkaBroker
from tests.parts.process import die_with_parent
from tests.parts.redis import server

PER_SECOND: Final = 100
READERS: Final = 100
TENANTS: Final = 10
WARM_UP_RECORDS: Final = 100
MOST: Final = 1.15
REFILL_SECONDS: Final = 7
"""After it the burst of requests is there again, with which all streams open."""

_PATIENCE_SECONDS: Final = 60

TIMES: Final = 20
"""By how much the neighbour asks for more than it may."""

STREAMS: Final = 100
RECORDS: Final = STREAMS * PER_SECOND // TIMES
REQUESTS: Final = 20
NEIGHBOUR: Final = "neighbour"
PLANS: Final[dict[str, dict[str, Any]]] = {
    "wide": {
        "requests_per_second": 100,
        "connections": 100,
        "records_per_second": 10 * READERS // TENANTS * PER_SECOND,
        "bytes_per_second": 10_000_000,
        "replay_records_per_second": 10_000,
    },
    "narrow": {
        # Its streams open at once, out of the burst.
        "requests_per_second": {"rate": REQUESTS, "burst": STREAMS + REQUESTS},
        "connections": STREAMS,
        "records_per_second": RECORDS,
        "bytes_per_second": RECORDS * 240,
        "replay_records_per_second": RECORDS,
    },
}


class Stamped:
    """Records of the usual kind, with the moment at which each was handed to the producer."""

    def __init__(self) -> None:
        self.sent: dict[tuple[int, int], float] = {}

    def __call__(self, partition: int, sequence: int) -> bytes:
        self.sent[partition, sequence] = time.monotonic()
        return value(partition, sequence)


@dataclass
class Heard:
    """What was seen in turns of one kind: milliseconds of all deliveries, their p99 turn by turn, and CPU."""

    every_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)


@dataclass
class Got:
    """What the neighbour had: statuses of its pulls, and records a second on its streams."""

    statuses: dict[str, int] = field(default_factory=dict)
    records_per_second: list[float] = field(default_factory=list)


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """Turns with the neighbour between turns without it; each p99 beside the mean of those before and after it."""
    # Many short turns: how fast the machine is at all changes within a minute by more than the neighbour does.
    seconds, rounds = (8, 1) if quick else (8, 16)
    stamped = Stamped()
    others = [f"tenant-{number}" for number in range(TENANTS)]
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(server())
        ready = stack.enter_context(
            stage(
                running,
                "neighbour",
                payload=stamped,
                catalog=tenancy(PLANS, dict.fromkeys(others, "wide") | {NEIGHBOUR: "narrow"}),
                clients=[client(one) for one in others],
                redis_url=redis.url,
            )
        )
        readers = stack.enter_context(ready.readers(READERS))
        readers.wait_open()
        # Not counted: whatever was started last is slow at first.
        _turn(ready, readers, stamped, Heard(), seconds=seconds)
        alone, beside, got = Heard(), Heard(), Got()
        for number in range(rounds + 1):
            # Long enough for what the neighbour may ask at once to come back.
            _turn(ready, readers, stamped, alone, seconds=seconds)
            if number < rounds:
                with _neighbour(ready, got):
                    _turn(ready, readers, stamped, beside, seconds=seconds)
                print(
                    f"neighbour: p99 {alone.p99_ms[-1]:.1f} ms alone, {beside.p99_ms[-1]:.1f} ms beside it", flush=True
                )
    return _rows(alone, beside, got)


def _turn(ready: Stage, readers: Readers, stamped: Stamped, heard: Heard, *, seconds: float) -> None:
    def send(records: int) -> None:
        ready.source.send_paced(records, per_second=PER_SECOND, uneven=random.Random(len(stamped.sent)))
        readers.wait_for(ready.source.vector)

    send(WARM_UP_RECORDS)
    readers.arrivals()
    stamped.sent.clear()
    began, before = time.monotonic(), cpu_seconds(ready.pid)
    send(int(seconds * PER_SECOND))
    heard.shares.append((cpu_seconds(ready.pid) - before) / (time.monotonic() - began))
    took = [
        (at - stamped.sent[partition, sequence]) * 1e3
        for partition, sequence, at in readers.arrivals()
        # The first time, what came before arrivals were kept is not among them; later it is.
        if (partition, sequence) in stamped.sent
    ]
    assert len(took) == len(stamped.sent) * READERS
    heard.every_ms += took
    heard.p99_ms.append(percentile(took, 0.99))
    heard.p50_ms.append(percentile(took, 0.5))


@contextlib.contextmanager
def _neighbour(ready: Stage, got: Got) -> Iterator[None]:
    """As many streams as it may open, all of them behind, and pulls from the beginning."""
    token = ready.deployment.token(client(NEIGHBOUR))
    target = f"/v1/streams/{STREAM}/records?from=earliest&limit=1000&wait=0"
    command = [sys.executable, "-m", "loadtests.pester", str(ready.port), str(TIMES * REQUESTS), target, token]
    with contextlib.ExitStack() as stack:
        streams = _open(Stage(ready.deployment, ready.gateway, ready.source, [token]), stack)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent
        ) as pester:
            assert pester.stdout is not None
            for _ in range(CONNECTIONS):
                pester.stdout.readline()
            began, before = time.monotonic(), streams.stats()["deliveries"]
            yield
            got.records_per_second.append((streams.stats()["deliveries"] - before) / (time.monotonic() - began))
            told, _ = pester.communicate(timeout=60)
            for status, count in json.loads(told).items():
                got.statuses[status] = got.statuses.get(status, 0) + count


def _open(theirs: Stage, stack: contextlib.ExitStack) -> Readers:
    """All streams, as soon as they are let in: after a moment without Redis the node lets them ask for less."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with contextlib.ExitStack() as opening:
            streams = opening.enter_context(theirs.readers(STREAMS, pause_us=1000, stands_back=True))
            try:
                streams.wait_open()
            except WrongDelivery:
                if time.monotonic() > deadline:
                    raise
                time.sleep(REFILL_SECONDS)
                continue
            stack.enter_context(opening.pop_all())
            return streams


def _rows(alone: Heard, beside: Heard, got: Got) -> list[Row]:
    between = [(one + other) / 2 for one, other in zip(alone.p99_ms, alone.p99_ms[1:], strict=False)]
    ratios = [one / other for one, other in zip(beside.p99_ms, between, strict=True)]
    p50s = [one / other for one, other in zip(beside.p50_ms, alone.p50_ms, strict=False)]
    together = percentile(beside.every_ms, 0.99) / percentile(alone.every_ms, 0.99)
    asked, refused = sum(got.statuses.values()), got.statuses.get("429", 0)
    what = f"{READERS} readers of {TENANTS} tenants, {PER_SECOND} records/s"
    return [
        Row(f"**A neighbour at {TIMES} times its limits**: {what}; producer to reader", ""),
        Row("others alone: ms, p50 · p99", _pair(alone)),
        Row("others beside it: ms, p50 · p99", _pair(beside)),
        Row("p99 of all turns together: beside it ÷ alone", f"{together:.2f}", f"< {MOST}", together < MOST),
        Row("p99 turn by turn: beside it ÷ alone", spread(ratios)),
        Row("p50 turn by turn: beside it ÷ alone", spread(p50s)),
        Row("the gateway's CPU, share of a core: alone · beside it",
            f"{median(alone.shares):.2f} · {median(beside.shares):.2f}"),
        Row(f"the neighbour's {STREAMS} streams got records/s, of {RECORDS} allowed",
            spread(got.records_per_second, digits=0)),
        Row("its pulls that were refused (429), of all", f"{refused} of {asked}"),
    ]  # fmt: skip


def _pair(heard: Heard) -> str:
    return f"{spread(heard.p50_ms, digits=1)} · {spread(heard.p99_ms, digits=1)}"
