"""Seats of open reads: one cap over all nodes, which survives killed nodes, lost data and a Redis that is away."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.clock import SystemClock
from gateway.counters import Counters
from gateway.errors import GatewayError, TooManyConnections
from gateway.limits.breaker import Breaker
from gateway.limits.connections import Connections, Timing
from gateway.limits.parts import PARTS, part_of, part_tag
from gateway.limits.redis import RedisLink
from gateway.limits.seats import Seat, Shard, seats_key
from gateway.limits.store import RedisStore
from gateway.model import Contract, Grant, Plan, Principal
from tests.parts.redis import RedisServer, server

_tenants = (f"tenant-{number}" for number in itertools.count())


def plan(cap: int | str, *, name: str = "pro") -> Plan:
    return Plan(name, 1, "Plan", "EUR", limits={"connections": cap})


def granted(tenant: str, of: Plan) -> Grant:
    contract = Contract("s", "urn:s", "S", "1", "", "published", "o", "public", (), (), "main", "t", "", "m")
    return Grant(Principal("idp", "app", "sub", frozenset(), "jti", 2**40), tenant, "app", contract, of)


PATIENCE_SECONDS = 1.0
QUICK = Timing(life=1.2, beat=0.3, settle=0.5, change=0.02)
"""Short lives, so that who is gone is so within a test."""


async def test_a_read_that_fails_to_end_does_not_end_what_tells_of_all_seats(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(3))
    async with nodes(redis.url, 2) as (a, b):
        reads = [(await a.open(grant))[1] for _ in range(3)]
        failed: list[bool] = []

        def fail(error: GatewayError | None) -> None:
            failed.append(True)
            raise RuntimeError("it does not end")

        reads[2].end = fail  # type: ignore[method-assign]
        for read in reads:
            read.grant = granted(grant.tenant, plan(2))
        await until(lambda: bool(failed))
        for read in reads[:2]:
            read.grant = granted(grant.tenant, plan(1))
        await until(lambda: reads[1].ended is not None)
        assert not any(task.done() for task in a.tasks)
        with pytest.raises(TooManyConnections):
            await b.open(granted(grant.tenant, plan(1)))


LASTING = QUICK._replace(life=600)
"""No node is gone within a test, and nothing is told twice: what is put right, is so by other means."""
SWEEPING = LASTING._replace(beat=0.05, sweep=0.05)
"""Everything is told at every beat."""


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
        self.link = None if url is None else RedisLink(url, timeout_seconds=PATIENCE_SECONDS)
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

    async def stop(self) -> None:
        """As a process that is stopped for a while: nothing is told any more. ``start`` lets it go on."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.seats.settled()

    async def kill(self) -> None:
        """Nothing is given back, and nothing told any more."""
        await self.stop()
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


@pytest.fixture(autouse=True)
def _redis_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine that is busy with other things must not look like a Redis that is away.
    monkeypatch.setattr("gateway.limits.breaker.CALL_SECONDS", PATIENCE_SECONDS)


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


async def test_a_read_that_fails_to_end_is_told_to_again_and_the_others_end_meanwhile() -> None:
    grant = granted(next(_tenants), plan(3))
    async with nodes(None, 1) as (a,):
        reads = [(await a.open(grant))[1] for _ in range(3)]
        failed: list[bool] = []

        def fail(error: GatewayError | None) -> None:
            failed.append(True)
            raise RuntimeError("it does not end")

        reads[1].end = fail  # type: ignore[method-assign]
        for read in reads:
            read.grant = granted(grant.tenant, plan(1))
        await until(lambda: len(failed) > 1 and reads[2].ended is not None)
        del reads[1].end
        await until(lambda: reads[1].ended is not None)
        assert reads[0].ended is None


class Odd(Read):
    """Nobody can say what it is granted."""

    looked_at = 0

    @property
    def grant(self) -> Grant:
        self.looked_at += 1
        raise RuntimeError("there is no telling")

    @grant.setter
    def grant(self, grant: Grant) -> None:
        pass


async def test_seats_count_elsewhere_though_their_node_fails_to_look_at_them(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(1))
    async with nodes(redis.url) as (a, b):
        seat, odd = await a.seats.take(grant), Odd(grant)
        seat.bind(odd)
        # Looks are a beat apart: after so many of them a node that says nothing is long gone.
        await until(lambda: odd.looked_at > 3 * QUICK.life / QUICK.beat)
        with pytest.raises(TooManyConnections):
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
    async with nodes(redis.url, timing=LASTING._replace(settle=0)) as (a, b):
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


async def test_reads_that_are_open_ask_nothing_of_redis_but_that_their_node_is_there(redis: RedisServer) -> None:
    def calls() -> dict[str, int]:
        told = [line.partition(":calls=") for line in str(redis.command("INFO", "commandstats")).splitlines()]
        found = {name.removeprefix("cmdstat_"): int(rest.split(",")[0]) for name, _, rest in told if rest}
        return {name: found.get(name, 0) for name in ("evalsha", "zadd", "zcard", "zrange", "zremrangebyscore")}

    async with nodes(redis.url, 1, timing=QUICK._replace(sweep=3600)) as (a,):
        await asyncio.gather(*(a.open(granted(next(_tenants), plan(1))) for _ in range(300)))
        before = calls()
        # A beat asks once for each shard.
        await until(lambda: calls()["evalsha"] >= before["evalsha"] + 10 * PARTS)
        after = calls()
    assert {name: after[name] - before[name] for name in after if name != "evalsha"} == dict.fromkeys(
        ("zadd", "zcard", "zrange", "zremrangebyscore"), 0
    )


async def test_a_node_that_was_stopped_for_long_tells_its_seats_again_and_the_newest_end_wherever_they_are(
    redis: RedisServer,
) -> None:
    grant = granted(next(_tenants), plan(2))
    async with nodes(redis.url) as (a, b):
        old = [(await a.open(grant))[1] for _ in range(2)]
        await a.stop()
        await used(b, grant.tenant, to_be=0)
        new = [(await b.open(grant))[1] for _ in range(2)]
        with pytest.raises(TooManyConnections):
            await b.open(grant)
        a.start()
        await until(lambda: all(read.ended is not None for read in new))
        assert [read.ended for read in old] == [None, None]


async def test_a_node_that_was_stopped_does_not_open_more_before_it_has_told_what_it_has(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(2))
    async with nodes(redis.url) as (a, b):
        for _ in range(2):
            await a.open(grant)
        await a.stop()
        await used(b, grant.tenant, to_be=0)
        with pytest.raises(TooManyConnections):
            await a.open(grant)


async def test_a_seat_given_back_while_redis_does_not_answer_is_free_when_it_does() -> None:
    grant = granted(next(_tenants), plan(1))
    with server() as own:
        async with nodes(own.url, timing=LASTING) as (a, b):
            seat, _ = await a.open(grant)
            own.pause()
            a.seats.release(seat)
            await until(lambda: a.breaker.is_open)
            own.resume()
            await used(b, grant.tenant, to_be=0)
            await b.open(grant)


async def test_a_seat_taken_while_redis_does_not_answer_is_told_when_it_does() -> None:
    grant = granted(next(_tenants), plan(4))
    with server() as own:
        async with nodes(own.url, timing=LASTING) as (a, b):
            await a.open(grant)
            own.pause()
            await a.open(grant)
            own.resume()
            await used(b, grant.tenant, to_be=2)


async def test_words_that_a_failover_loses_are_told_again(redis: RedisServer) -> None:
    """A replica that takes over may lack the last of what the master knew."""
    grant = granted(next(_tenants), plan(3))
    here = f"gateway:limits:1:seats:{part_tag(part_of(grant.tenant))}:here"
    async with nodes(redis.url, timing=LASTING) as (a, b):
        await a.open(grant)
        client = Redis.from_url(redis.url)
        kept, seats = await client.hgetall(here), await client.dump(seats_key((grant.tenant, "pro")))
        await a.open(grant)
        async with client.pipeline() as failover:
            failover.hset(here, mapping=kept)
            failover.restore(seats_key((grant.tenant, "pro")), 0, seats, replace=True)
            await failover.execute()
        await client.aclose()
        await used(b, grant.tenant, to_be=2)


async def test_a_clock_that_is_put_back_by_an_hour_changes_nothing_for_long(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(2))
    here = f"gateway:limits:1:seats:{part_tag(part_of(grant.tenant))}:here"
    async with nodes(redis.url) as (a, b):
        await a.open(grant)
        client = Redis.from_url(redis.url)
        # What was written before the clock was put back is of the future now.
        later = {
            name: b" ".join(str(int(moment) + 3_600_000_000).encode() for moment in told.split())
            for name, told in (await client.hgetall(here)).items()
        }
        await client.hset(here, mapping=later)
        await client.aclose()
        await used(b, grant.tenant, to_be=1)
        await b.open(grant)
        with pytest.raises(TooManyConnections):
            await b.open(grant)
        await a.kill()
        await used(b, grant.tenant, to_be=1)


async def test_whatever_is_lost_or_left_over_is_put_right_in_time(redis: RedisServer) -> None:
    lost, left = granted(next(_tenants), plan(3)), granted(next(_tenants), plan(3))
    async with nodes(redis.url, timing=SWEEPING) as (a, b):
        client = Redis.from_url(redis.url)
        for grant in (lost, left):
            await a.open(grant)
        ((name, filed),) = await client.zrange(seats_key((lost.tenant, "pro")), 0, -1, withscores=True)
        await client.zrem(seats_key((lost.tenant, "pro")), name)
        await client.zadd(seats_key((left.tenant, "pro")), {f"{name.decode()}0": filed})
        await client.aclose()
        for grant in (lost, left):
            await used(b, grant.tenant, to_be=1)


async def test_what_is_told_and_what_is_taken_at_the_same_time_undo_nothing_of_each_other(redis: RedisServer) -> None:
    cap, chance = 3, random.Random(7)
    grants = [granted(next(_tenants), plan(cap)) for _ in range(4)]

    async with nodes(redis.url, 3, timing=SWEEPING) as found:

        def open_now(grant: Grant) -> int:
            return sum(node.seats.by_key().get((grant.tenant, "pro"), 0) for node in found)

        given: Counter[str] = Counter()
        most = 0

        async def read_on_and_on(node: Node) -> None:
            nonlocal most
            for _ in range(60):
                grant = chance.choice(grants)
                try:
                    seat = await node.seats.take(grant)
                except TooManyConnections:
                    await asyncio.sleep(0.001)
                    continue
                given[grant.tenant] += 1
                most = max(most, given[grant.tenant])
                await asyncio.sleep(chance.random() * 0.01)
                given[grant.tenant] -= 1
                node.seats.release(seat)

        await asyncio.gather(*(read_on_and_on(node) for node in found for _ in range(8)))
        assert most == cap
        for grant in grants:
            assert open_now(grant) == 0
            await used(found[0], grant.tenant, to_be=0)


async def test_a_seat_is_taken_after_what_is_just_being_told_of_the_same_tenant() -> None:
    """Where the seat came first, it would be undone by what knows nothing of it."""
    grant, shard = granted(next(_tenants), plan(5)), Shard(0)
    key = (grant.tenant, "pro")
    seat = Seat("1", grant)
    shard.add(seat)
    shard.give(seat)
    shard.tell_anew()
    batch = shard.next_told(is_whole=True)
    assert [(one.key, one.held) for one in batch] == [(key, ["1"])]
    shard.begin(batch)
    waiting = asyncio.ensure_future(shard.settled(key))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    # Of others nothing is told.
    await shard.settled((grant.tenant, "other"))
    shard.finish(is_told=False)
    await waiting
    # It is told once more: nobody knows whether it was.
    assert [one.key for one in shard.next_told(is_whole=True)] == [key]


async def test_a_node_that_closes_leaves_its_seats_to_the_others_at_once(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(1))
    async with nodes(redis.url, timing=LASTING) as (a, b):
        await a.open(grant)
        await a.stop()
        await a.seats.close()
        assert await b.seats.used((grant.tenant, "pro")) == 0
        await b.open(grant)


async def test_keys_outlast_what_tells_them_and_end_by_themselves(redis: RedisServer) -> None:
    grant = granted(next(_tenants), plan(1))
    client = Redis.from_url(redis.url)
    async with nodes(redis.url, 1) as (a,):
        await a.open(grant)
        for key in (seats_key((grant.tenant, "pro")), f"gateway:limits:1:seats:{part_tag(part_of(grant.tenant))}:here"):
            assert 2 * QUICK.sweep < await client.ttl(key) <= 3 * QUICK.sweep
    await client.aclose()


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
