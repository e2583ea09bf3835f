"""What limits cost a whole gateway by the number of tenants, and what they ask of Redis for one that is busy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, Final

from loadtests.machine import cpu_seconds
from loadtests.readers import Readers
from loadtests.scenarios.filters import AIRLINES, EXPOSED, Airlines
from loadtests.stage import Stage, stage
from loadtests.table import Row, median, spread
from loadtests.tenancy import client, tenancy
from tests.parts.kafka import KafkaBroker
from tests.parts.redis import RedisServer, server

TENANTS: Final = 10_000
USED_EVERY_SECONDS: Final = 5
PER_SECOND: Final = AIRLINES // USED_EVERY_SECONDS
"""Each record is for one airline, which a tenth of a hundredth of the tenants read."""

MOST_SHARE: Final = 0.05
MOST_TURNS: Final = 5
MOST_CALLS: Final = 25
READERS: Final = 10
RECORD_RATES: Final = (10, 1_000, 10_000)
CHUNKS_PER_SECOND: Final = 20
OVERLOADED_STREAMS: Final = 100
WIDE: Final = {
    "requests_per_second": 1_000,
    "connections": 1_000,
    "records_per_second": 1_000_000,
    "bytes_per_second": 1_000_000_000,
    "replay_records_per_second": 1_000_000,
    "records_per_month": 10**11,
}
NARROW: Final = WIDE | {"records_per_second": 500}
LIGHT: Final = {
    "requests_per_second": 10,
    "connections": 5,
    "records_per_second": 50,
    "bytes_per_second": 65_536,
    "replay_records_per_second": 50,
}


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """One tenant at several rates, then very many with little each."""
    busy = _busy(running, seconds=3 if quick else 10)
    tenants = TENANTS // 10 if quick else TENANTS
    return busy + _light(running, tenants=tenants, rounds=1 if quick else 5, times=1 if quick else 2)


def _busy(running: KafkaBroker, *, seconds: float) -> list[Row]:
    """Runs of scripts, which is all that limits ask, as Redis counts them; what a gateway at rest asks is taken off."""
    rows = [Row(f"**Redis and a busy tenant**: rates, seats and a quota; {READERS} streams", "")]
    plans, tenants = {"wide": WIDE, "narrow": NARROW}, {"busy": "wide", "over": "narrow"}
    with server() as redis, _limited(running, "busy", redis, tenancy(plans, tenants), list(tenants)) as ready:
        over = Stage(ready.deployment, ready.gateway, ready.source, ready.tokens[1:2])
        ready = Stage(ready.deployment, ready.gateway, ready.source, ready.tokens[:1])
        # The first report of whoever was there at the start is over.
        rest = _calls_per_second(redis, lambda: time.sleep(seconds))
        with ready.readers(READERS) as readers:
            readers.wait_open()
            for rate in RECORD_RATES:
                calls = _calls_per_second(redis, lambda rate=rate: _send(ready, readers, rate, seconds)) - rest
                rows.append(_calls(f"{rate} records/s of the stream, {rate * READERS} delivered", calls))
        with over.readers(OVERLOADED_STREAMS) as streams:
            streams.wait_open()
            rate = 20 * NARROW["records_per_second"] // OVERLOADED_STREAMS
            calls = _calls_per_second(redis, lambda: _send(ready, None, rate, seconds)) - rest
            got = streams.stats()["deliveries"]
        what = f"20 times what it may, {OVERLOADED_STREAMS} streams wait ({got / seconds:.0f} delivered a second)"
        rows.append(_calls(what, calls))
    return rows


def _calls(what: str, calls: float) -> Row:
    return Row(f"{what}: calls a second", f"{calls:.1f}", f"≤ {MOST_CALLS}", calls <= MOST_CALLS)


def _calls_per_second(redis: RedisServer, work: Any) -> float:
    before, began = _scripts(redis), time.monotonic()
    work()
    return (_scripts(redis) - before) / (time.monotonic() - began)


def _scripts(redis: RedisServer) -> int:
    told = dict(line.split(":", 1) for line in str(redis.command("INFO", "commandstats")).splitlines() if ":" in line)
    found = [told.get(f"cmdstat_{name}", "calls=0,") for name in ("evalsha", "eval")]
    return sum(int(one.split(",")[0].removeprefix("calls=")) for one in found)


def _send(ready: Stage, readers: Readers | None, rate: int, seconds: float) -> None:
    chunks = min(rate, CHUNKS_PER_SECOND)
    began = time.monotonic()
    for number in range(int(seconds * chunks)):
        time.sleep(max(0.0, began + number / chunks - time.monotonic()))
        ready.source.send(rate // chunks, flush=False)
    ready.source.flush()
    if readers is not None:
        readers.wait_for(ready.source.vector)


def _light(running: KafkaBroker, *, tenants: int, rounds: int, times: int) -> list[Row]:
    """Two gateways that differ in their plans alone, by turns. All tenants read at both all the time, each its
    airline's records; ``times``: how many of them in a turn."""
    names = [f"tenant-{number}" for number in range(tenants)]
    airlines = {"limited": Airlines(), "unlimited": Airlines()}
    shares: dict[str, list[float]] = {name: [] for name in airlines}
    queries = [f"filter=airline:eq:A{number % AIRLINES:03d}" for number in range(tenants)]
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(server())
        stages, readers = {}, {}
        for name, records in airlines.items():
            records.whose = "many"
            plans = {"light": LIGHT if name == "limited" else {}}
            catalog = tenancy(plans, dict.fromkeys(names, "light"))
            one = stages[name] = stack.enter_context(
                _limited(running, f"tenants-{name}", redis, catalog, names, payload=records, exposed=EXPOSED)
            )
            readers[name] = stack.enter_context(one.readers(tenants, query=queries, first=[0], pause_us=1000))
            readers[name].wait_open()
        number = -1
        while len(shares["limited"]) < rounds and number < MOST_TURNS * rounds:
            before_turn, found = _outages(stages["limited"]), {}
            # Every second round the other way round: what follows what must not matter.
            for name in list(airlines)[:: -1 if number % 2 else 1]:
                began, before = time.monotonic(), cpu_seconds(stages[name].pid)
                stages[name].source.send_paced(times * AIRLINES, per_second=PER_SECOND)
                readers[name].wait_for(airlines[name].read("many"))
                found[name] = (cpu_seconds(stages[name].pid) - before) / (time.monotonic() - began) * 100
            outages = _outages(stages["limited"])
            # The first round warms up. Where Redis did not answer in time the gateway was alone, which is cheap.
            is_good = number >= 0 and outages == before_turn and outages[0] == outages[1]
            number += 1
            print("tenants:", {name: round(share, 1) for name, share in found.items()}, is_good, flush=True)
            for name, share in found.items() if is_good else ():
                shares[name].append(share)
    if not shares["limited"]:
        raise RuntimeError("in every round Redis did not answer in time: this machine is too busy to measure anything")
    more = [one - other for one, other in zip(shares["limited"], shares["unlimited"], strict=True)]
    what = f"{tenants} tenants, each a stream with a record each {USED_EVERY_SECONDS} s: % of a core"
    return [
        Row(f"{what}, unlimited", spread(shares["unlimited"], digits=1)),
        Row("the same with rates and seats, in Redis", spread(shares["limited"], digits=1)),
        Row(
            "what the limits take of a core: %",
            spread(more, digits=1),
            f"≤ {MOST_SHARE * 100:.0f}",
            median(more) <= MOST_SHARE * 100,
        ),
    ]


def _outages(of: Stage) -> tuple[int, int]:
    """How often the gateway held its limits alone, and how often that was over."""
    log = of.gateway.log()
    return log.count('"limits_degraded"'), log.count('"limits_recovered"')


def _limited(
    running: KafkaBroker, topic: str, redis: RedisServer, catalog: Mapping[str, Any], names: list[str], **more: Any
) -> contextlib.AbstractContextManager[Stage]:
    return stage(
        running,
        topic,
        partitions=4,
        linger_ms=5,
        catalog=catalog,
        clients=[client(one) for one in names],
        redis_url=redis.url,
        settings={"metering": {"enabled": False}},
        **more,
    )
