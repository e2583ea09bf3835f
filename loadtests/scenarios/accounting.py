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
from tests.parts.redis import RedisServer, server

READERS: Final = 500
TENANTS: Final = 10
PER_SECOND: Final = 50
WARM_UP_RECORDS: Final = 50
BURST_RECORDS: Final = 10
"""So many come to one gateway before it is the next one's turn."""
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
    "limits": Kind("rates and seats", RATES, is_metered=False, most=1.1),
    "quotas": Kind("rates, seats and two quotas", RATES | QUOTAS, is_metered=False, most=1.1),
    "metering": Kind("metered", {}, is_metered=True, most=1.05),
    "both": Kind("rates, seats and metered", RATES, is_metered=True),
}
Costs = dict[str, list[float]]


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """Turns of a fifth of a second at each gateway, all on one core, with all readers connected all the time: how
    fast the machine is changes within seconds by more than what is looked for, and so it changes for all alike.

    Two gateways that differ in nothing are up to a tenth apart as long as they live, so all of them are started anew
    several times. The limits are real ones, in a real Redis, far above what is used. Only ratios within a round count.
    """
    protocols: tuple[Protocol, ...] = ("sse",) if quick else ("sse", "ws")
    starts, records, rounds = (1, 100, 2) if quick else (4, 200, 2)
    what = f"{READERS} readers of {TENANTS} tenants, {PER_SECOND} records/s of 240 B; gateways started {starts} times"
    rows = [Row(f"**Limits and metering, per delivery**: {what}", "")]
    costs: dict[Protocol, Costs] = {protocol: {} for protocol in protocols}
    with server() as redis:
        for start in range(starts):
            with contextlib.ExitStack() as stack:
                stages = _stages(running, redis, stack, backwards=start % 2 == 1)
                for protocol in protocols:
                    for title, found in _costs(stages, protocol, records=records, rounds=rounds).items():
                        costs[protocol].setdefault(title, []).extend(found)
    for protocol in protocols:
        rows += _rows(costs[protocol], "SSE" if protocol == "sse" else "WebSocket")
    return rows


def _stages(
    running: KafkaBroker, redis: RedisServer, stack: contextlib.ExitStack, *, backwards: bool
) -> dict[str, Stage]:
    names = [f"tenant-{number}" for number in range(TENANTS)]
    return {
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
        for name, kind in list(KINDS.items())[:: -1 if backwards else 1]
    }


def _costs(stages: dict[str, Stage], protocol: Protocol, *, records: int, rounds: int) -> Costs:
    """µs for each write by kind, beside what the same records cost with few readers, one of each tenant: fetching
    them, and what limits and metering do for a tenant and for a second, whatever the number of its deliveries.

    As "… in all" the latter is left in: taken off is what few readers cost where there is neither.
    """
    few = _few(stages, protocol, records, rounds=1 + rounds // 2)
    costs: Costs = {}
    with contextlib.ExitStack() as stack:
        readers = {
            name: stack.enter_context(one.readers(READERS, protocol=protocol, pause_us=CALM_US))
            for name, one in stages.items()
        }
        for name, one in readers.items():
            one.wait_open()
            _send(stages[name], one, WARM_UP_RECORDS)
        for number in range(rounds):
            for name, (spent, writes) in _round(stages, readers, records, number).items():
                together = writes / READERS
                for title, before in ((name, few[name]), (f"{name} in all", few["plain"])):
                    cost = (spent - together * before) / (writes - together * TENANTS) * 1e6
                    costs.setdefault(title, []).append(cost)
            print(f"accounting: {protocol}", {name: round(costs[name][-1], 2) for name in KINDS}, flush=True)
    return costs


def _order(number: int) -> list[str]:
    """Another one first each time, and every second round the other way round."""
    names = [*KINDS]
    first = number % len(names)
    return (names[first:] + names[:first])[:: -1 if number % 2 else 1]


def _few(stages: dict[str, Stage], protocol: Protocol, records: int, *, rounds: int) -> dict[str, float]:
    """CPU seconds for one record, or for some that came together, with one reader of each tenant."""
    found: dict[str, list[float]] = {name: [] for name in KINDS}
    with contextlib.ExitStack() as stack:
        readers = {
            name: stack.enter_context(one.readers(TENANTS, protocol=protocol, pause_us=CALM_US))
            for name, one in stages.items()
        }
        for name, one in readers.items():
            one.wait_open()
            _send(stages[name], one, WARM_UP_RECORDS)
        for number in range(rounds):
            for name, (spent, writes) in _round(stages, readers, records, number).items():
                found[name].append(spent / writes * TENANTS)
    middle = {name: median(values) for name, values in found.items()}
    print(f"accounting: {protocol}, few readers, ms", {name: round(one * 1e3, 2) for name, one in middle.items()})
    return middle


def _round(
    stages: dict[str, Stage], readers: dict[str, Readers], records: int, number: int
) -> dict[str, tuple[float, float]]:
    """So many records to each gateway, a burst to one after the other: its CPU seconds, and how many writes it took."""
    before = {name: (one.writes(), cpu_seconds(one.pid)) for name, one in stages.items()}
    for turn in range(records // BURST_RECORDS):
        for name in _order(number + turn):
            _send(stages[name], readers[name], BURST_RECORDS)
    time.sleep(AFTER_SECONDS)
    # Asking for the writes costs a gateway something: it is done outside of what counts.
    return {
        name: (cpu_seconds(one.pid) - before[name][1], one.writes() - before[name][0]) for name, one in stages.items()
    }


def _send(ready: Stage, readers: Readers, records: int) -> None:
    """One record at a time, until every reader has each of them."""
    ready.source.send_paced(records, per_second=PER_SECOND)
    readers.wait_for(ready.source.vector)


def _rows(costs: Costs, title: str) -> list[Row]:
    def ratio(above: str) -> list[float]:
        return [one / beside for one, beside in zip(costs[above], costs["plain"], strict=True)]

    rows = [
        Row(f"{title}, {kind.title}: µs CPU per write, without fetch", spread(costs[name]))
        for name, kind in KINDS.items()
    ]
    for name, kind in KINDS.items():
        if name != "plain":
            found, bar = ratio(name), "" if kind.most is None else f"≤ {kind.most}"
            rows.append(
                Row(
                    f"{title}: {kind.title} ÷ neither",
                    spread(found),
                    bar,
                    median(found) <= kind.most if kind.most else None,
                )
            )
    in_all = " · ".join(f"{median(ratio(f'{name} in all')):.2f}" for name in KINDS if name != "plain")
    rows.append(Row("the same four, with all they do for a tenant or a second beside its deliveries", in_all))
    return rows
