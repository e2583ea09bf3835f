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
from typing import Any, Literal

from gateway.clock import SystemClock
from gateway.limits.breaker import Breaker
from gateway.limits.limiter import Limiter
from gateway.limits.pace import Pace
from gateway.limits.redis import RedisLink
from gateway.limits.store import MemoryStore, RedisStore
from gateway.model import TRANSPORTS, Contract, Grant, Plan, Principal
from tests.parts.process import die_with_parent

RECORD_BYTES = 100
RATES = ("requests_per_second", "records_per_second", "replay_records_per_second", "bytes_per_second")
NOBODY = Principal("main", "app", "app", frozenset(), "t", 2**31)


def plan(name: str = "pro", **limits: Any) -> Plan:
    """A plan with these limits and no others."""
    return Plan(name, 1, name, "EUR", {**dict.fromkeys(RATES, "unlimited"), **limits})


def grant(under: Plan, *, tenant: str = "acme", stream: str = "flights") -> Grant:
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
    return Grant(NOBODY, tenant, "app", contract, under)


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
    """What nodes let through under overload. ``let_through``: moments (epoch seconds) and counts, in order."""

    let_through: list[tuple[float, int]]
    by_node: list[int]
    exchanges: list[int]
    calls: list[int]
    reasons: list[str]

    def windows(self, seconds: float, *, after: float) -> list[int]:
        """How much went through in each window of this length, from ``after`` seconds past the first on."""
        times, sums = [moment for moment, _ in self.let_through], [0]
        for _, count in self.let_through:
            sums.append(sums[-1] + count)
        begin, found = times[0] + after, []
        while begin + seconds < times[-1] - 0.3:
            upto, since = bisect.bisect_left(times, begin + seconds), bisect.bisect_left(times, begin)
            found.append(sums[upto] - sums[since])
            begin += 0.017
        return found


def overload(
    url: str,
    kind: Literal["records", "replayed", "bytes", "requests"],
    rate: int | float,
    *,
    burst: int,
    seconds: float,
    nodes: int = 4,
    tenant: str = "acme",
) -> Outcome:
    """Real processes of which each wants more of a limit than there is for all; what they let through, in the unit."""
    limit = {"replayed": "replay_records"}.get(kind, kind) + "_per_second"
    told = {
        "url": url,
        "kind": kind,
        "nodes": nodes,
        "tenant": tenant,
        "limits": {limit: {"rate": rate, "burst": burst}},
        "ends_at": time.time() + seconds,
    }
    arguments = [sys.executable, "-m", "tests.parts.limits"]
    root = Path(__file__).resolve().parents[2]
    running = [
        subprocess.Popen(
            [*arguments, json.dumps({**told, "node": f"node-{number}"})],
            stdout=subprocess.PIPE,
            cwd=root,
            preexec_fn=die_with_parent,
        )
        for number in range(nodes)
    ]
    found = [json.loads(process.communicate(timeout=seconds + 60)[0]) for process in running]
    size = RECORD_BYTES if kind == "bytes" else 1
    return Outcome(
        let_through=sorted((moment, count * size) for one in found for moment, count in one["let_through"]),
        by_node=[sum(count for _, count in one["let_through"]) for one in found],
        exchanges=[one["exchanges"] for one in found],
        calls=[one["calls"] for one in found],
        reasons=[one["reason"] for one in found],
    )


async def _run(told: dict[str, Any]) -> dict[str, Any]:
    """Be one of several nodes under overload; what was let through when."""
    under = plan(**told["limits"])
    let_through: list[tuple[float, int]] = []
    async with node(told["url"], name=told["node"], nodes=lambda: told["nodes"]) as here:
        ends = told["ends_at"]
        if told["kind"] == "requests":
            while time.time() < ends:
                if not await here.limiter.take(told["tenant"], under):
                    let_through.append((time.time(), 1))
                await asyncio.sleep(0.002)
        else:
            replayed = told["kind"] == "replayed"
            pace = [here.limiter.pace(grant(under, tenant=told["tenant"])) for _ in range(3)]
            reads = [Read(one, replayed=replayed) for one in pace if one is not None]
            for read in reads:
                read.wake()
            await asyncio.sleep(max(0.0, ends - time.time()))
            let_through = sorted(event for read in reads for event in read.sent)
            for read in reads:
                read.close()
        return {
            "let_through": let_through,
            "exchanges": here.limiter.exchanges,
            "calls": here.store.calls,
            "reason": here.breaker.reason,
        }


if __name__ == "__main__":
    json.dump(asyncio.run(_run(json.loads(sys.argv[1]))), sys.stdout)
