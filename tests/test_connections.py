"""Seats of open reads: one cap over all nodes, which survives killed nodes, lost data and a Redis that is away."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.counters import Counters
from gateway.errors import GatewayError, TooManyConnections
from gateway.limits.breaker import Breaker
from gateway.limits.connections import Connections, Seat, Timing
from gateway.limits.redis import RedisLink
from gateway.limits.store import RedisStore
from gateway.model import Contract, Grant, Plan, Principal
from tests.parts.redis import RedisServer, server

_tenants = (f"tenant-{number}" for number in itertools.count())


def plan(cap: int | str, *, name: str = "pro") -> Plan:
    return Plan(name, 1, "Plan", "EUR", limits={"connections": cap})


def granted(tenant: str, of: Plan) -> Grant:
    contract = Contract("s", "urn:s", "S", "1", "", "published", "o", "public", (), (), "main", "t", "", "m")
    return Grant(Principal("idp", "app", "sub", frozenset(), "jti", 2**40), tenant, "app", contract, of)


QUICK = Timing(seat=1.2, beat=0.3, settle=0.5, change=0.02)
"""Short lives, so that what lapses does so within a test."""


class Read:
    """An open read as far as a seat knows it."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.ended: GatewayError | None = None

    def end(self, error: GatewayError | None) -> None:
        self.ended = error


class Node:
    """One process's seats."""

    def __init__(self, url: str | None, *, name: str, nodes: int = 2, timing: Timing = QUICK) -> None:
        self.breaker = Breaker(SystemClock(), nodes=lambda: nodes)
        self.link = None if url is None else RedisLink(url)
        store = None if self.link is None else RedisStore(self.link.client, self.breaker, node=name)
        self.store = store
        self.seats = Connections(
            store, node=name, nodes=self.breaker.nodes, clock=SystemClock(), counters=Counters(), timing=timing
        )
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.tasks = [asyncio.ensure_future(self.seats.run())]
        if self.store is not None:
            self.tasks.append(asyncio.ensure_future(self.breaker.run(self.store.probe)))

    async def open(self, grant: Grant) -> tuple[Seat, Read]:
        seat, read = await self.seats.take(grant), Read(grant)
        seat.bind(read)
        return seat, read

    async def kill(self) -> None:
        """Nothing is given back, and nothing renewed any more."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.seats.settled()
        if self.link is not None:
            await self.link.close()


@asynccontextmanager
async def nodes(url: str | None, count: int = 2, timing: Timing = QUICK) -> AsyncIterator[list[Node]]:
    found = [Node(url, name=f"n{number}{next(_tenants)[7:]}", nodes=count, timing=timing) for number in range(count)]
    for node in found:
        node.start()
    try:
        yield found
    finally:
        for node in found:
            await node.kill()


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0.02)


async def used(node: Node, tenant: str, plan: str = "pro", *, to_be: int) -> None:
    """Return when the node finds so many seats taken."""
    async with asyncio.timeout(30):
        while await node.seats.used((tenant, plan)) != to_be:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with server() as own:
        yield own


async def test_two_nodes_share_one_cap_and_a_freed_seat_is_anybodys(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(3))
    async with nodes(redis.url) as (a, b):
        first, _ = await a.open(grant)
        await b.open(grant)
        await a.open(grant)
        for node in (a, b):
            with pytest.raises(TooManyConnections) as refused:
                await node.open(grant)
            assert refused.value.retry_after_ms
        assert await b.seats.used((grant.tenant, "pro")) == 3
        a.seats.release(first)
        await used(b, grant.tenant, to_be=2)
        await b.open(grant)


async def test_a_seat_given_back_is_free_for_the_next_of_the_same_node_at_once(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(1))
    async with nodes(redis.url) as (a, _):
        for _ in range(20):
            seat, _read = await a.open(grant)
            a.seats.release(seat)
            a.seats.release(seat)


async def test_many_at_once_get_exactly_what_there_is(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(7))
    async with nodes(redis.url) as (a, b):
        opened = await asyncio.gather(*((a, b)[number % 2].open(grant) for number in range(40)), return_exceptions=True)
        assert [type(one) for one in opened if isinstance(one, BaseException)] == [TooManyConnections] * 33
        assert len(a.seats) + len(b.seats) == 7


async def test_what_a_killed_node_held_lapses_and_what_a_living_one_holds_does_not(
    redis: RedisServer,
) -> None:
    grant = granted(next(_tenants), plan(2))
    async with nodes(redis.url) as (a, b):
        await a.open(grant)
        await b.open(grant)
        await a.kill()
        await used(b, grant.tenant, to_be=1)
        await b.open(grant)
        with pytest.raises(TooManyConnections):
            await b.open(grant)


async def test_a_cap_that_comes_down_closes_the_newest_wherever_they_are(redis: RedisServer) -> None:
    tenant = next(_tenants)
    async with nodes(redis.url) as (a, b):
        reads = []
        for number in range(6):
            reads.append((await (a, b)[number % 2].open(granted(tenant, plan("unlimited"))))[1])
            await asyncio.sleep(0.003)  # apart by a millisecond at least, so that it is known which are the newest
        for read in reads:
            read.grant = granted(tenant, plan(2))
        for node in (a, b):
            node.seats.ring()
        await until(lambda: all(read.ended is not None for read in reads[2:]))
        assert all(isinstance(read.ended, TooManyConnections) for read in reads[2:])
        assert [read.ended for read in reads[:2]] == [None, None]


async def test_a_read_that_goes_on_under_another_plan_counts_there(redis: RedisServer) -> None:
    tenant = next(_tenants)
    async with nodes(redis.url) as (a, b):
        _, read = await a.open(granted(tenant, plan(1)))
        read.grant = granted(tenant, plan(1, name="other"))
        a.seats.ring()
        await used(b, tenant, "other", to_be=1)
        await used(b, tenant, to_be=0)
        await b.open(granted(tenant, plan(1)))
        with pytest.raises(TooManyConnections):
            await b.open(granted(tenant, plan(1, name="other")))


async def test_a_flush_opens_nothing_up(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(4))
    async with nodes(redis.url) as (a, b):
        for _ in range(4):
            await a.open(grant)
        client = Redis.from_url(redis.url)
        await client.flushall()
        await client.aclose()
        opened = await asyncio.gather(*(b.open(grant) for _ in range(4)), return_exceptions=True)
        # Its own share it may take at once; all others wait until those who are there have said so.
        assert [isinstance(one, TooManyConnections) for one in opened].count(False) <= 2


async def test_while_redis_is_away_each_node_has_its_share() -> None:
    grant = granted(next(_tenants), plan(5))
    with server() as own:
        async with nodes(own.url) as (a, b):
            own.kill()
            for node in (a, b):
                opened = await asyncio.gather(*(node.open(grant) for _ in range(5)), return_exceptions=True)
                assert [isinstance(one, TooManyConnections) for one in opened].count(False) == 2
            own.start()
            await until(lambda: not (a.breaker.is_open or b.breaker.is_open))
            await used(a, grant.tenant, to_be=4)
            await a.open(grant)
            with pytest.raises(TooManyConnections):
                await b.open(grant)


async def test_without_redis_a_process_has_the_whole_cap_and_closes_what_is_above_it() -> None:
    grant = granted(next(_tenants), plan(2))
    async with nodes(None, 1) as (a,):
        reads = [(await a.open(grant))[1] for _ in range(2)]
        with pytest.raises(TooManyConnections):
            await a.open(grant)
        for read in reads:
            read.grant = granted(grant.tenant, plan(1))
        await until(lambda: reads[1].ended is not None)
        assert reads[0].ended is None


async def test_a_take_that_is_cancelled_leaves_no_seat_behind(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(1))
    # Seats that nobody gives back stay for longer than the test is patient.
    async with nodes(redis.url, timing=Timing(seat=600, beat=0.3, settle=0, change=0)) as (a, b):
        for turns in range(20):
            taking = asyncio.ensure_future(a.open(grant))
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            taking.cancel()
            (outcome,) = await asyncio.gather(taking, return_exceptions=True)
            if not isinstance(outcome, BaseException):
                a.seats.release(outcome[0])
        assert len(a.seats) == 0
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(TooManyConnections):
                    await b.open(grant)
                    break
                await asyncio.sleep(0.02)


async def test_names_of_tenants_stay_out_of_redis(redis: RedisServer) -> None:
    client = Redis.from_url(redis.url)
    async with nodes(redis.url) as (a, _):
        for tenant in ("{brace}", "line\r\nbreak", "nul\0", "glob*?[", "x" * 60):
            seat, _read = await a.open(granted(tenant, plan(1)))
            a.seats.release(seat)
    keys: list[Any] = await client.keys("*")
    await client.aclose()
    assert keys
    assert all(re.fullmatch(r"gateway:limits:1:seats:[!-~]+", key.decode()) for key in keys)
    assert not any(part in key for key in keys for part in (b"brace", b"nul", b"glob", b"xxx"))
