"""A node that holds limits, without the gateway around it: for tests of many nodes at one Redis."""

from __future__ import annotations

import asyncio
import bisect
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.clock import SystemClock
from gateway.limits.breaker import Breaker
from gateway.limits.limiter import Limiter
from gateway.limits.pace import Pace
from gateway.limits.redis import RedisLink
from gateway.limits.store import MemoryStore, RedisStore
from gateway.model import TRANSPORTS, Contract, Grant, Plan, Principal
from tests.parts.process import die_with_parent

RECORD_BYTES = 100
READY = b"ready\n"
RATES = ("requests_per_second", "records_per_second", "replay_records_per_second", "bytes_per_second")
NOBODY = Principal("main", "app", "app", frozenset(), "t", 2**31)


def plan(name: str = "pro", **limits: Any) -> Plan:
    """A plan with these limits and no others."""
    return Plan(name, 1, name, "EUR", {**dict.fromkeys(RATES, "unlimited"), **limits})


def grant(under: Plan, *, tenant: str = "acme", application: str = "app", stream: str = "flights") -> Grant:
    """A grant under a plan."""
    contract = Contract(
        stream=stream,
        id=f"urn:test:{stream}",
        title=stream,
        version="1.0.0",
        description="",
        lifecycle="published",
        owner="tests@example.com",
        visibility="public",
        scopes=(),
        transports=TRANSPORTS,
        cluster="main",
        topic=stream,
        content_type="application/json",
        message_name="event",
    )
    return Grant(NOBODY, tenant, application, contract, under)


class Node:
    """A limiter with its store."""

    def __init__(self, limiter: Limiter, store: MemoryStore | RedisStore, breaker: Breaker) -> None:
        self.limiter = limiter
        self.store = store
        self.breaker = breaker


@asynccontextmanager
async def node(url: str | None, *, name: str = "here", nodes: Callable[[], int] = lambda: 1) -> AsyncIterator[Node]:
    """One node, at the Redis of this address or by itself."""
    clock = SystemClock()
    breaker = Breaker(clock, nodes=nodes)
    if url is None:
        memory = MemoryStore()
        limiter = Limiter(memory, breaker=breaker, clock=clock)
        yield Node(limiter, memory, breaker)
        await limiter.close()
        return
    link = RedisLink(url)
    store = RedisStore(link.client, breaker, node=name)
    limiter = Limiter(store, breaker=breaker, clock=clock)
    probing = asyncio.create_task(breaker.run(store.probe))
    try:
        yield Node(limiter, store, breaker)
    finally:
        await limiter.close()
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        await link.close()


class Read:
    """A read that always has more to send: it takes what it may, as often as it is woken."""

    def __init__(
        self, pace: Pace, *, record_bytes: int = RECORD_BYTES, at_most: int = 500, replayed: bool = False
    ) -> None:
        self.pace = pace
        self.sent: list[tuple[float, int]] = []
        self._record_bytes = record_bytes
        self._replayed = replayed

    @property
    def records(self) -> int:
        """How many it has sent."""
        return sum(count for _, count in self.sent)

    def wake(self) -> None:
        """See ``Waiter``."""
        pace, size = self.pace, self._record_bytes
        while (room := pace.room(replayed=self._replayed)) > 0 and (left := pace.bytes_room()) > 0:
            count = max(1, min(room, left // size, 500))
            pace.spend(0 if self._replayed else count, count if self._replayed else 0, count * size)
            self.sent.append((time.time(), count))
        pace.wait(self)

    def close(self) -> None:
        """It is over."""
        self.pace.close()


@dataclass(frozen=True)
class Outcome:
    """What nodes let through under overload, by kind. ``let_through``: moments (epoch seconds) and counts, in order."""

    let_through: dict[str, list[tuple[float, int]]]
    by_node: dict[str, list[int]]
    exchanges: list[int]
    calls: list[int]
    reasons: list[str]


def windows(let_through: list[tuple[float, int]], seconds: float, *, after: float) -> list[int]:
    """How much went through in each window of this length, from ``after`` seconds past the first on."""
    times, sums = [moment for moment, _ in let_through], [0]
    for _, count in let_through:
        sums.append(sums[-1] + count)
    begin, found = times[0] + after, []
    while begin + seconds < times[-1] - 0.3:
        upto, since = bisect.bisect_left(times, begin + seconds), bisect.bisect_left(times, begin)
        found.append(sums[upto] - sums[since])
        begin += 0.017
    return found


KINDS = {
    "records": "records_per_second",
    "replayed": "replay_records_per_second",
    "bytes": "bytes_per_second",
    "requests": "requests_per_second",
}


def overload(
    url: str, rates: dict[str, int], *, seconds: float, burst_seconds: float = 1, nodes: int = 4, tenant: str = "acme"
) -> Outcome:
    """Real processes of which each wants more of some limits than there is for all; what they let through."""
    told = {
        "url": url,
        "rates": rates,
        "burst_seconds": burst_seconds,
        "nodes": nodes,
        "tenant": tenant,
    }
    arguments = [sys.executable, "-m", "tests.parts.limits"]
    root = Path(__file__).resolve().parents[2]
    running = [
        subprocess.Popen(
            [*arguments, json.dumps({**told, "node": f"node-{number}"})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            preexec_fn=die_with_parent,
        )
        for number in range(nodes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == READY
    # All begin and end together, however long one of them took to come up.
    ends_at = json.dumps(time.time() + seconds).encode()
    for process in running:
        assert process.stdin is not None
        process.stdin.write(ends_at)
        process.stdin.close()
        process.stdin = None
    found = [json.loads(process.communicate(timeout=seconds + 60)[0]) for process in running]
    by_kind = {kind: [one["let_through"][kind] for one in found] for kind in rates}
    return Outcome(
        let_through={
            kind: sorted((moment, count) for events in several for moment, count in events)
            for kind, several in by_kind.items()
        },
        by_node={kind: [sum(count for _, count in events) for events in several] for kind, several in by_kind.items()},
        exchanges=[one["exchanges"] for one in found],
        calls=[one["calls"] for one in found],
        reasons=[one["reason"] for one in found],
    )


async def _request(here: Node, under: Plan, told: dict[str, Any]) -> list[tuple[float, int]]:
    found = []
    while time.time() < told["ends_at"]:
        if not await here.limiter.take(told["tenant"], under):
            found.append((time.time(), 1))
        await asyncio.sleep(0.002)
    return found


async def _read(here: Node, under: Plan, told: dict[str, Any], kind: str) -> list[tuple[float, int]]:
    # A plan of its own for each, or the records would hold the bytes.
    paces = [here.limiter.pace(grant(under, tenant=told["tenant"])) for _ in range(3)]
    reads = [Read(pace, replayed=kind == "replayed") for pace in paces if pace is not None]
    for read in reads:
        read.wake()
    await asyncio.sleep(max(0.0, told["ends_at"] - time.time()))
    for read in reads:
        read.close()
    size = RECORD_BYTES if kind == "bytes" else 1
    return sorted((moment, count * size) for read in reads for moment, count in read.sent)


async def _run(told: dict[str, Any]) -> dict[str, Any]:
    """Be one of several nodes under overload; what was let through when."""
    async with node(told["url"], name=told["node"], nodes=lambda: told["nodes"]) as here:
        kinds, work = list(told["rates"]), []
        for kind in kinds:
            rate = told["rates"][kind]
            limit = {"rate": rate, "burst": max(1, int(rate * told["burst_seconds"]))}
            under = plan(kind, **{KINDS[kind]: limit})
            work.append(_request(here, under, told) if kind == "requests" else _read(here, under, told, kind))
        let_through = await asyncio.gather(*work)
        return {
            "let_through": dict(zip(kinds, let_through, strict=True)),
            "exchanges": here.limiter.exchanges,
            "calls": here.store.calls,
            "reason": here.breaker.reason,
        }


def main() -> None:
    """One process of ``overload``."""
    told = json.loads(sys.argv[1])
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    told["ends_at"] = json.loads(sys.stdin.read())
    json.dump(asyncio.run(_run(told)), sys.stdout)


if __name__ == "__main__":
    main()
