"""Quotas: exact over all nodes, through Redis and through the database, and never given twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.clock import ManualClock, SystemClock
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.database.workers import Workers
from gateway.errors import QuotaExceeded
from gateway.limits.breaker import Breaker
from gateway.limits.period import period_of
from gateway.limits.quota import NEWS_PERCENT, Ask, Held, QuotaKey, Share, Told, quotas_of, share_out
from gateway.limits.quota_pace import QuotaPace
from gateway.limits.quota_redis import RedisQuotas
from gateway.limits.quota_store import QuotaStore
from gateway.limits.quotas import Quotas
from gateway.limits.redis import RedisLink
from gateway.limits.store import RedisStore
from tests.parts.redis import RedisServer, server

_tenants = (f"tenant-{number}" for number in itertools.count())
BERLIN = ZoneInfo("Europe/Berlin")


# ---- periods -------------------------------------------------------------------------------------------------------


def moment(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("length", "zone", "now", "name", "starts", "ends"),
    [
        ("day", "UTC", "2026-11-23T12:00:00", "2026-11-23", "2026-11-23T00:00:00", "2026-11-24T00:00:00"),
        ("month", "UTC", "2026-12-31T23:59:59", "2026-12", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        # 23:30 in UTC is tomorrow in Berlin, and yesterday's afternoon in New York.
        ("day", "Europe/Berlin", "2026-11-22T23:30:00", "2026-11-23", "2026-11-22T23:00:00", "2026-11-23T23:00:00"),
        ("month", "America/New_York", "2026-12-01T04:00:00", "2026-11", "2026-11-01T04:00:00", "2026-12-01T05:00:00"),
        # The day on which clocks go back has 25 hours.
        ("day", "Europe/Berlin", "2026-10-25T12:00:00", "2026-10-25", "2026-10-24T22:00:00", "2026-10-25T23:00:00"),
    ],
)
def test_a_period_is_the_tenants_own_day_or_month(
    length: Any, zone: str, now: str, name: str, starts: str, ends: str
) -> None:
    assert period_of(length, ZoneInfo(zone), now=moment(now)) == (name, moment(starts), moment(ends))


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), st.sampled_from(["Europe/Berlin", "Asia/Beirut"]))
def test_every_moment_is_in_the_period_it_names(when: datetime, zone: str) -> None:
    now = when.replace(tzinfo=UTC).timestamp()
    for length in ("day", "month"):
        found = period_of(length, ZoneInfo(zone), now=now)
        assert found.starts_at <= now < found.ends_at
        following = period_of(length, ZoneInfo(zone), now=found.ends_at)
        assert following.starts_at == found.ends_at
        assert following.name > found.name


# ---- one share, without anybody ------------------------------------------------------------------------------------


def share(limit: int, *, clock: ManualClock | None = None, name: str = "records_per_day") -> Share:
    return Share("acme", "free", name, limit=limit, zone=BERLIN, clock=clock or ManualClock(), on_need=lambda _: None)


def test_what_is_used_up_is_refused_with_the_moment_at_which_there_is_more() -> None:
    clock = ManualClock(now=moment("2026-11-23T12:00:00"))
    one = share(5, clock=clock)
    assert one.left() == 0
    ask = one.ask(nodes=1, now=0)
    one.take(ask, Told(5, 0, 0), now=0)
    one.spend(5)
    assert one.left() == 0  # it asks first: another node may have given back
    one.take(one.ask(nodes=1, now=1), Told(5, 0, 0), now=1)
    with pytest.raises(QuotaExceeded) as refused:
        one.left()
    assert refused.value.extensions["resets_at"] == "2026-11-23T23:00:00.000Z"
    assert refused.value.retry_after_ms == 11 * 3_600_000
    clock.advance(11 * 3_600)
    assert one.turn()
    assert one.left() == 0
    one.take(one.ask(nodes=1, now=2), Told(1, 0, 0), now=2)
    assert one.left() == 1


def test_what_was_used_stays_used_when_the_tenant_moves_to_another_zone() -> None:
    clock = ManualClock(now=moment("2026-11-23T12:00:00"))
    one = share(100, clock=clock, name="records_per_month")
    one.take(one.ask(nodes=1, now=0), Told(100, 0, 0), now=0)
    one.spend(30)
    one.renew(100, ZoneInfo("America/New_York"))
    assert (one.used, one.left()) == (30, 70)
    assert one.period.ends_at == moment("2026-12-01T00:00:00", "America/New_York")
    clock.advance(one.period.ends_at - clock.now() - 1)
    assert not one.turn()
    clock.advance(1)
    assert one.turn()
    assert one.used == 0


def test_nobody_is_told_that_a_quota_is_over_while_another_node_may_still_give_back() -> None:
    one = share(5)
    one.take(one.ask(nodes=2, now=0), Told(0, 5, 2), now=0)
    assert one.left() == 0
    one.take(one.ask(nodes=2, now=1), Told(2, 3, 0), now=1)
    assert one.left() == 2


def test_news_come_once_at_each_mark() -> None:
    one = share(1000)
    one.take(one.ask(nodes=1, now=0), Told(1000, 0, 0), now=0)
    pace, told = QuotaPace(None, [one]), []
    for _ in range(1000):
        pace.spend(1, 0, 10)
        if (news := pace.quota_news()) is not None:
            told.append(news)
    assert [news["used_percent"] for news in told] == list(NEWS_PERCENT)
    assert {(news["limit"], news["unit"]) for news in told} == {(1000, "records_per_day")}
    # Who comes later is told where it stands now, and only that.
    assert QuotaPace(None, [one]).quota_news() is not None


def test_waiters_are_woken_when_there_is_room_and_when_none_is_to_come() -> None:
    class Waiter:
        woken = 0

        def wake(self) -> None:
            self.woken += 1

    one, waiter = share(5), Waiter()
    pace = QuotaPace(None, [one])
    assert pace.room(replayed=False) == 0
    pace.wait(waiter)
    pace.wait(waiter)
    one.take(one.ask(nodes=1, now=0), Told(3, 0, 0), now=0)
    assert waiter.woken == 1
    pace.spend(3, 0, 0)
    assert pace.room(replayed=True) == 0
    pace.wait(waiter)
    one.take(one.ask(nodes=1, now=1), Told(3, 2, 0), now=1)
    assert waiter.woken == 2
    with pytest.raises(QuotaExceeded):
        pace.room(replayed=False)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.sampled_from(["ok", "lost", "twice"])), max_size=60)
)
def test_never_more_than_the_limit_whatever_becomes_of_the_answers(steps: list[tuple[int, int, str]]) -> None:
    """Nodes over one book, whose answers may be lost, come twice, or come after more was used."""
    limit, told_by = 100, dict.fromkeys(range(4), (0, 0))
    nodes = [share(limit) for _ in range(4)]
    delivered = 0

    def tell(number: int, ask: Ask) -> Told:
        others = sum(given for node, (given, _) in told_by.items() if node != number)
        loose = sum(given - used for node, (given, used) in told_by.items() if node != number)
        told = share_out(ask, others=others, loose=loose)
        told_by[number] = (told.given, ask.used)
        return told

    for at, (number, wanted, fate) in enumerate(steps):
        node = nodes[number]
        ask = node.ask(nodes=4, now=float(at))
        for _ in range(2 if fate == "twice" else 1):
            told = tell(number, ask)
        use = min(max(0, node.in_hand), wanted)
        node.spend(use)
        delivered += use
        if fate != "lost":
            node.take(ask, told, now=float(at))
        assert delivered <= limit
        assert sum(given for given, _ in told_by.values()) <= limit


def test_only_quotas_that_are_a_number_are_quotas() -> None:
    limits = {"records_per_day": 5, "bytes_per_month": "unlimited", "connections": 3}
    assert quotas_of(limits) == {"records_per_day": 5}


# ---- nodes ---------------------------------------------------------------------------------------------------------


class Node:
    """One process's shares over a real Redis and a real database."""

    def __init__(self, directory: Path, url: str | None, *, name: str) -> None:
        self.breaker = Breaker(SystemClock(), nodes=lambda: 2)
        self.link = None if url is None else RedisLink(url)
        self.store = None if self.link is None else RedisStore(self.link.client, self.breaker, node=name)
        self.database = Database(f"sqlite:///{directory / 'gateway.db'}")
        Schema(self.database).require(may_upgrade=True)
        self.workers = Workers(self.database)
        self.quotas = Quotas(
            shared=None
            if self.store is None
            else RedisQuotas(self.store, node=name, settle_seconds=0.5, loose_seconds=2),
            kept=QuotaStore(self.database, node=name),
            work=self.workers.run,
            node=name,
            nodes=self.breaker.nodes,
            zone=lambda tenant: "UTC",
            clock=SystemClock(),
            rest_seconds=0.5,
            grace_seconds=0.5,
        )
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.tasks = [asyncio.ensure_future(self.quotas.run())]
        if self.store is not None:
            self.tasks.append(asyncio.ensure_future(self.breaker.run(self.store.probe)))

    async def deliver(self, tenant: str, limits: dict[str, int], *, most: int = 10**9) -> int:
        """Read until the quota ends, as a stream does; how much was let through."""
        shares = await self.quotas.ready(tenant, "free", limits)
        pace, done, news = QuotaPace(None, shares), 0, asyncio.Event()

        class Waiter:
            def wake(self) -> None:
                news.set()

        waiter = Waiter()
        while done < most:
            try:
                room = min(pace.room(replayed=False), 7, most - done)
            except QuotaExceeded:
                break
            if room:
                pace.spend(room, 0, room)
                done += room
                await asyncio.sleep(0)
            else:
                news.clear()
                pace.wait(waiter)
                async with asyncio.timeout(60):
                    await news.wait()
        pace.forget(waiter)
        return done

    async def kill(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks = []
        await self.quotas.settled()
        if self.link is not None:
            await self.link.close()
        await self.workers.close()

    async def stop(self) -> None:
        await self.quotas.close()
        await self.kill()


@asynccontextmanager
async def nodes(directory: Path, url: str | None, names: str = "ab") -> AsyncIterator[list[Node]]:
    found = [Node(directory, url, name=f"{name}{next(_tenants)[7:]}") for name in names]
    for node in found:
        node.start()
    try:
        yield found
    finally:
        for node in found:
            await node.kill()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with server() as own:
        yield own


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0.02)


async def flush(url: str) -> None:
    client = Redis.from_url(url)
    await client.flushall()
    await client.aclose()


@pytest.mark.parametrize("through", ["redis", "database"])
async def test_two_nodes_deliver_a_quota_to_the_record(redis: RedisServer, tmp_path: Path, through: str) -> None:
    tenant, limits = next(_tenants), {"records_per_month": 1000}
    async with nodes(tmp_path, redis.url if through == "redis" else None) as (a, b):
        delivered = await asyncio.gather(*(node.deliver(tenant, limits) for node in (a, b, a)))
        assert sum(delivered) == 1000
        for node in (a, b):
            assert await node.deliver(tenant, limits) == 0
            (share,) = await node.quotas.refresh(tenant, "free", limits)
            assert share.standing().remaining == 0


async def test_what_a_node_leaves_over_another_one_gets(redis: RedisServer, tmp_path: Path) -> None:
    tenant, limits = next(_tenants), {"records_per_day": 300}
    async with nodes(tmp_path, redis.url) as (a, b):
        assert await a.deliver(tenant, limits, most=100) == 100
        assert await b.deliver(tenant, limits) == 200
        # A process that stops gives back at once.
        tenant = next(_tenants)
        assert await a.deliver(tenant, limits, most=50) == 50
        await a.stop()
        assert await b.deliver(tenant, limits) == 250


async def test_a_flush_in_the_middle_gives_nothing_twice(redis: RedisServer, tmp_path: Path) -> None:
    tenant, limits = next(_tenants), {"records_per_month": 2000}
    async with nodes(tmp_path, redis.url) as (a, b):
        for node, other in ((a, b), (b, a)):
            node.quotas.on_loss = _ringing(other)
        done = sum(await asyncio.gather(*(node.deliver(tenant, limits, most=400) for node in (a, b))))
        kept = QuotaStore(a.database, node="nobody")
        await until(
            lambda: sum(one.given for one in kept.load([a.quotas.shares(tenant, "free", limits)[0].key])) >= 800
        )
        await flush(redis.url)
        done += sum(await asyncio.gather(*(node.deliver(tenant, limits) for node in (a, b))))
        assert done == 2000


def _ringing(other: Node) -> Callable[[], Any]:
    async def ring() -> None:
        other.quotas.ring()

    return ring


async def test_while_redis_is_away_the_database_counts_and_afterwards_nothing_is_forgotten(tmp_path: Path) -> None:
    tenant, limits = next(_tenants), {"records_per_month": 1500}
    with server() as own:
        async with nodes(tmp_path, own.url) as (a, b):
            done = sum(await asyncio.gather(*(node.deliver(tenant, limits, most=200) for node in (a, b))))
            own.kill()
            done += sum(await asyncio.gather(*(node.deliver(tenant, limits, most=300) for node in (a, b))))
            assert done == 1000
            own.start()
            await until(lambda: not (a.breaker.is_open or b.breaker.is_open))
            done += sum(await asyncio.gather(*(node.deliver(tenant, limits) for node in (a, b))))
            assert done == 1500


async def test_what_a_killed_node_had_counts_as_used_and_a_new_one_goes_on_from_there(
    redis: RedisServer, tmp_path: Path
) -> None:
    tenant, limits = next(_tenants), {"records_per_month": 1000}
    async with nodes(tmp_path, redis.url, "a") as (a,):
        assert await a.deliver(tenant, limits, most=500) == 500
        await a.kill()
    async with nodes(tmp_path, redis.url, "b") as (b,):
        rest = await b.deliver(tenant, limits)
        # What the killed one had borrowed and not used is lost to the tenant: a portion at most.
        assert 400 <= rest <= 500


# ---- the database --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/gateway.db"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_url"))
    one = Database(url, bounds=Bounds(statement_seconds=30))
    Schema(one).upgrade()
    yield one
    one.close()


def asked(number: int, *, used: int = 0, want: int = 1, ends_at: float = 2_000_000_000.0) -> Ask:
    key = QuotaKey("acme", "free", ("records_per_day", "bytes_per_day")[number], "2026-11-23")
    return Ask(key, 100, ends_at, used, used, want)


def test_nodes_that_ask_the_database_at_once_get_no_more_than_there_is(database: Database) -> None:
    stores = [QuotaStore(database, node=f"n{number}") for number in range(4)]

    def ask(store: QuotaStore) -> list[int]:
        had = [0, 0]
        for turn in range(40):
            # In both orders: two nodes must not wait for each other's quotas.
            asks = [asked(number, used=had[number]) for number in ((0, 1) if turn % 2 else (1, 0))]
            told = dict(zip([one.key.name for one in asks], store.tell(asks, now=1_900_000_000.0), strict=True))
            had = [told["records_per_day"].given, told["bytes_per_day"].given]
        return had

    with ThreadPoolExecutor(4) as threads:
        given = list(threads.map(ask, stores))
    assert [sum(one[number] for one in given) for number in range(2)] == [100, 100]


def test_what_is_kept_is_loaded_and_what_is_long_over_is_forgotten(database: Database) -> None:
    store = QuotaStore(database, node="n1")
    now = 2_000_000_000.0
    old, new = asked(0, ends_at=now - 41 * 86_400).key, asked(1).key
    store.keep([Held(old, now - 41 * 86_400, "n1", 5, 4)], now=now - 50 * 86_400)
    assert [one.given for one in store.load([old])] == [5]
    store.keep([Held(new, now, "n1", 7, 6)], now=now)
    store.keep([Held(new, now, "n1", 9, 8)], now=now)
    assert store.load([old, new]) == [Held(new, now, "n1", 9, 8)]
