"""What limits and metering add to a delivery: gateways that differ in nothing else, beside one with neither."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any, Final

from loadtests.machine import cpu_seconds
from loadtests.readers import Protocol, Readers
from loadtests.stage import Stage, stage
from loadtests.table import Row, median, spread
from loadtests.tenancy import client, tenancy
from tests.parts.kafka import KafkaBroker
from tests.parts.redis import server

READERS: Final = 500
TENANTS: Final = 10
PER_SECOND: Final = 50
WARM_UP_RECORDS: Final = 50
CALM_US: Final = 1000
AFTER_SECONDS: Final = 1.5
"""The clock stops so long after the last delivery, when what was counted is published and in the ledger too."""

RATES: Final = {
    "requests_per_second": 1_000,
    "connections": 10_000,
    "records_per_second": 100_000,
    "bytes_per_second": 100_000_000,
    "replay_records_per_second": 100_000,
}
QUOTAS: Final = {"records_per_month": 10**11, "bytes_per_month": 10**14}


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the gateways. ``most``: its bar, as a multiple of what a delivery costs without anything."""

    title: str
    limits: dict[str, Any]
    is_metered: bool
    most: float | None = None


KINDS: Final = {
    "plain": Kind("unlimited and not metered", {}, is_metered=False),
    "limits": Kind("limited", RATES, is_metered=False, most=1.1),
    "metering": Kind("metered", {}, is_metered=True, most=1.05),
    "both": Kind("limited and metered", RATES, is_metered=True),
    "all": Kind("limited, with quotas too, and metered", RATES | QUOTAS, is_metered=True),
}
Costs = dict[str, list[float]]


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """Turns of a few seconds at each gateway, all on one core, with all readers connected all the time.

    The limits are real ones, in a real Redis, far above what is used. Only ratios within a round count.
    """
    protocols: tuple[Protocol, ...] = ("sse",) if quick else ("sse", "ws")
    records, rounds = (100, 2) if quick else (200, 9)
    what = f"{READERS} readers of {TENANTS} tenants, {PER_SECOND} records/s of 240 B"
    rows = [Row(f"**Limits and metering, per delivery**: {what}", "")]
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(server())
        names = [f"tenant-{number}" for number in range(TENANTS)]
        stages = {
            name: stack.enter_context(
                stage(
                    running,
                    f"accounting-{name}",
                    partitions=1,
                    linger_ms=5,
                    catalog=tenancy({"only": kind.limits}, dict.fromkeys(names, "only")),
                    clients=[client(one) for one in names],
                    redis_url=redis.url,
                    settings={"metering": {"enabled": kind.is_metered}},
                )
            )
            for name, kind in KINDS.items()
        }
        for protocol in protocols:
            costs = _costs(stages, protocol, records=records, rounds=rounds)
            rows += _rows(costs, "SSE" if protocol == "sse" else "WebSocket")
    return rows


def _costs(stages: dict[str, Stage], protocol: Protocol, *, records: int, rounds: int) -> Costs:
    """µs for each write by kind. What a record costs to fetch is taken off all of them alike, as it is without
    anything: whatever limits and metering do beside the deliveries is on their account."""
    fetch = _fetch_seconds(stages["plain"], protocol, records)
    costs: Costs = {name: [] for name in KINDS}
    with contextlib.ExitStack() as stack:
        readers = {
            name: stack.enter_context(one.readers(READERS, protocol=protocol, pause_us=CALM_US))
            for name, one in stages.items()
        }
        for name, one in readers.items():
            one.wait_open()
            _send(stages[name], one, WARM_UP_RECORDS)
        for number in range(rounds):
            # Another one first each time, and every second round the other way round.
            names = [*KINDS][number % len(KINDS) :] + [*KINDS][: number % len(KINDS)]
            for name in names if number % 2 == 0 else names[::-1]:
                spent, writes = _turn(stages[name], readers[name], records)
                together = writes / READERS
                costs[name].append((spent - together * fetch) / (writes - together) * 1e6)
            print(f"accounting: {protocol}", {name: round(found[-1], 2) for name, found in costs.items()}, flush=True)
    return costs


def _fetch_seconds(ready: Stage, protocol: Protocol, records: int) -> float:
    """CPU for one record, or for some that came together, with one delivery."""
    with ready.readers(1, protocol=protocol, pause_us=CALM_US) as reader:
        reader.wait_open()
        _send(ready, reader, WARM_UP_RECORDS)
        spent, writes = _turn(ready, reader, records)
    return spent / writes


def _turn(ready: Stage, readers: Readers, records: int) -> tuple[float, float]:
    """CPU seconds of the gateway, and how many writes it took."""
    writes, before = ready.writes(), cpu_seconds(ready.pid)
    _send(ready, readers, records)
    time.sleep(AFTER_SECONDS)
    spent = cpu_seconds(ready.pid) - before
    return spent, ready.writes() - writes


def _send(ready: Stage, readers: Readers, records: int) -> None:
    """One record at a time, until every reader has each of them."""
    ready.source.send_paced(records, per_second=PER_SECOND)
    readers.wait_for(ready.source.vector)


def _rows(costs: Costs, title: str) -> list[Row]:
    rows = []
    for name, kind in KINDS.items():
        rows.append(Row(f"{title}, {kind.title}: µs CPU per write, without fetch", spread(costs[name])))
    for name, kind in KINDS.items():
        if name == "plain":
            continue
        ratios = [one / beside for one, beside in zip(costs[name], costs["plain"], strict=True)]
        bar = "" if kind.most is None else f"≤ {kind.most}"
        met = None if kind.most is None else median(ratios) <= kind.most
        rows.append(Row(f"{title}: {kind.title} ÷ neither", spread(ratios), bar, met))
    return rows
