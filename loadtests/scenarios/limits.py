"""How closely limits hold over four processes, and what they cost: by themselves, and a delivery by a whole gateway."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, Final

from gateway.limits.pace import Pace
from gateway.limits.scopes import PACED
from gateway.model import Plan
from loadtests.machine import cpu_seconds
from loadtests.stage import STREAM, Stage, stage
from loadtests.table import Row, median, spread
from tests.parts.gateway import catalog
from tests.parts.kafka import KafkaBroker
from tests.parts.limits import Node, grant, node, overload, plan, windows
from tests.parts.redis import server

WINDOW_SECONDS: Final = 10
RATES: Final = {"records": 1000, "replayed": 50, "bytes": 65_536, "requests": 40}
TENANTS: Final = 10_000
USED_EVERY_SECONDS: Final = 5
READERS: Final = 500
PER_SECOND: Final = 50
WARM_UP_RECORDS: Final = 100
CALLS: Final = 20_000
RECORD_BYTES: Final = 200


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """Overload of four processes at once, then what a read's pace, many light tenants and a delivery cost."""
    rows = [Row("**Limits**: four processes, one tenant, each wants all of it", "")]
    rows += _accuracy(rates=RATES, seconds=16 if quick else 45)
    rows += asyncio.run(_costs(seconds=5 if quick else 20))
    rows += _deliveries(running, records=100 if quick else 500, rounds=1 if quick else 7)
    return rows


def _accuracy(*, rates: dict[str, int], seconds: float) -> list[Row]:
    with server() as redis:
        found = overload(redis.url, rates, seconds=seconds)
    rows = []
    for kind, rate in rates.items():
        whole = rate * WINDOW_SECONDS
        # The burst, a second's worth, is gone by then.
        admitted = windows(found.let_through[kind], WINDOW_SECONDS, after=3)
        worst = max(abs(one - whole) for one in admitted)
        rows.append(
            Row(
                f"{kind}, {rate}/s: let through in any {WINDOW_SECONDS} s ÷ the limit",
                f"{min(admitted) / whole:.4f} to {max(admitted) / whole:.4f}",
                "1 ± 0.01, or one",
                met=worst <= max(whole / 100, 1),
            )
        )
    calls = max(found.exchanges) / seconds / len(rates)
    rows.append(Row("questions a second, tenant and node", f"{calls:.1f}", "≤ 25", met=calls <= 25))
    return rows


async def _costs(*, seconds: float) -> list[Row]:
    async with node(None) as alone:
        pace = await _plentiful(alone)
        hot = [_hot_path_us(pace) for _ in range(5)]
        pace.close()
    with server() as redis:
        async with node(redis.url) as here:
            share, questions, trips = await _light_tenants(here, seconds)
    return [
        Row("room + bytes_room + spend, with plenty left: µs", spread(hot), "≤ 0.5", met=median(hot) <= 0.5),
        Row(
            f"{TENANTS} tenants, a record each {USED_EVERY_SECONDS} s: % of a core",
            f"{share * 100:.1f}",
            "≤ 5",
            met=share <= 0.05,
        ),
        Row("the same: questions and round trips a second", f"{questions:.0f} and {trips:.0f}"),
    ]


class Woken:
    """Takes one record when there is room."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.is_woken = asyncio.Event()

    def wake(self) -> None:
        self.is_woken.set()
        self._pace.spend(1, 0, RECORD_BYTES)

    def use(self) -> None:
        """One more record has come."""
        pace = self._pace
        if pace.room(replayed=False) > 0 and pace.bytes_room() > 0:
            pace.spend(1, 0, RECORD_BYTES)
        else:
            pace.wait(self)


async def _plentiful(here: Node) -> Pace:
    """A read whose plan has far more than it takes."""
    much = {"rate": 10**9, "burst": 10**9}
    pace = here.limiter.pace(grant(plan(records_per_second=much, bytes_per_second=much)))
    assert pace is not None
    woken = Woken(pace)
    pace.wait(woken)
    await woken.is_woken.wait()
    return pace


def _hot_path_us(pace: Pace) -> float:
    began = time.process_time()
    for _ in range(CALLS):
        pace.room(replayed=False)
        pace.bytes_room()
        pace.spend(1, 0, RECORD_BYTES)
    return (time.process_time() - began) / CALLS * 1e6


async def _light_tenants(here: Node, seconds: float) -> tuple[float, float, float]:
    """The share of a core that they cost, less what drives them; questions and round trips a second."""
    under = plan(records_per_second={"rate": 50, "burst": 50}, bytes_per_second={"rate": 65_536, "burst": 65_536})
    driving = await _drive([], seconds / 2)
    readers = [_reader(here, under, f"tenant-{number}") for number in range(TENANTS)]
    await _drive(readers, 2 * USED_EVERY_SECONDS)
    asked, called = here.limiter.exchanges, here.store.calls
    share = await _drive(readers, seconds) - driving
    return share, (here.limiter.exchanges - asked) / seconds, (here.store.calls - called) / seconds


def _reader(here: Node, under: Plan, tenant: str) -> Woken:
    pace = here.limiter.pace(grant(under, tenant=tenant))
    assert pace is not None
    return Woken(pace)


async def _drive(readers: list[Woken], seconds: float) -> float:
    """Let each use one record every so often, one after the other; the share of a core that all of it took."""
    began, cpu, done = time.monotonic(), time.process_time(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * len(readers) / USED_EVERY_SECONDS)
        for number in range(done, due):
            readers[number % len(readers)].use()
        done = due
        await asyncio.sleep(0.01)
    return (time.process_time() - cpu) / (time.monotonic() - began)


def _deliveries(running: KafkaBroker, *, records: int, rounds: int) -> list[Row]:
    """The same readers of one gateway, in turns of a tenant that nothing limits and of one whose plan has plenty."""
    rates = {name: {"rate": 10**8, "burst": 10**8} for name in PACED}
    ratios = []
    with server() as redis, stage(running, "limits", catalog=_two_tenants(rates), redis_url=redis.url) as free:
        limited = replace(free, tokens=[free.deployment.token("globex-app") for _ in free.tokens])
        for number in range(rounds + 1):
            # Every second round the other way round: what follows what must not matter.
            order = (free, limited) if number % 2 else (limited, free)
            found = {one is limited: _each_us(one, records) for one in order}
            print(f"limits: {found[False]:.2f} µs without, {found[True]:.2f} µs with", flush=True)
            if number:
                # The first one warms both up.
                ratios.append(found[True] / found[False])
    return [
        Row(
            f"a delivery to {READERS} SSE readers with rates, ÷ without",
            spread(ratios),
            "≤ 1.1",
            met=median(ratios) <= 1.1,
        )
    ]


def _two_tenants(rates: dict[str, object]) -> dict[str, Any]:
    """The usual catalog, in which globex reads the same under a plan with these rates."""
    found = catalog([STREAM])
    plan_of_globex = {**found["plans"][0], "name": "limited", "limits": {**found["plans"][0]["limits"], **rates}}
    found["plans"].append(plan_of_globex)
    found["tenants"][1]["entitlements"] = [{"product": "all", "plan": "limited", "from": "2020-01-01"}]
    return found


def _each_us(ready: Stage, records: int) -> float:
    """CPU time of the gateway for a delivery, records coming one at a time; fetching costs both the same."""
    with ready.readers(READERS, pause_us=1000) as readers:
        readers.wait_open()

        def send(count: int) -> None:
            ready.source.send_paced(count, per_second=PER_SECOND)
            readers.wait_for(ready.source.vector)

        send(WARM_UP_RECORDS)
        before = cpu_seconds(ready.pid)
        send(records)
        return (cpu_seconds(ready.pid) - before) / records / READERS * 1e6
