"""Tickets: one read, one connection at a time; kept by one process, or by all nodes in a real Redis and a database."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway.auth.shared_tickets import ASK_AGAIN_SECONDS, SharedTickets
from gateway.auth.ticket_rows import Claim, Row, TicketRows
from gateway.auth.ticket_search import LOOK_AGAIN_SECONDS
from gateway.auth.ticket_store import RedisTickets
from gateway.auth.tickets import (
    HOLD_SECONDS,
    OPEN_SECONDS,
    RENEW_SECONDS,
    RETURN_SECONDS,
    Held,
    MemoryTickets,
    Ticket,
    Tickets,
    TicketStore,
)
from gateway.clock import ManualClock, SystemClock
from gateway.database.database import Database
from gateway.database.schema import Schema
from gateway.database.workers import Workers
from gateway.errors import TicketInUse, TokenExpired, TokenInvalid, Unavailable
from gateway.limits.redis import RedisLink
from gateway.model import Principal
from tests.parts.redis import RedisServer
from tests.parts.switch import switch

T = TypeVar("T")
Pass = Callable[[float], Awaitable[None]]
QUICK_SECONDS = 0.5
"""How often nodes renew here."""

BEGAN = 1_700_000_000.0


def principal(expires_at: int = 2**31) -> Principal:
    return Principal("idp", "web", "user", frozenset({"streams:read"}), "t1", expires_at, {"airport": ["ORD"]})


TICKET = Ticket(principal(), "s", None)


class Parts:
    """A store, a way to let time pass for it, and a key of its own."""

    def __init__(self, store: TicketStore, let_pass: Pass, *, key: str = "k") -> None:
        self.store = store
        self.let_pass = let_pass
        self.key = key

    def held(self, hold: str) -> Held:
        return Held(self.key, hold, TICKET)

    async def keep(self, hold: str) -> None:
        await self.store.keep([self.held(hold)])
        if isinstance(self.store, SharedTickets):
            await self.store.catch_up()


@contextlib.asynccontextmanager
async def on_database(url: str) -> AsyncIterator[tuple[Database, Workers]]:
    database = Database(url)
    Schema(database).upgrade()
    workers = Workers(database)
    try:
        yield database, workers
    finally:
        await workers.close()


@pytest.fixture(params=["memory", "redis", "shared", "sqlite", "postgres"])
async def parts(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Parts]:
    clock = ManualClock(now=BEGAN)

    async def advance(seconds: float) -> None:
        clock.advance(seconds)

    if request.param == "memory":
        yield Parts(MemoryTickets(clock), advance)
        return
    postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if postgres else f"sqlite:///{tmp_path}/gateway.db"
    async with on_database(url) as (database, workers):
        if request.param in ("sqlite", "postgres"):
            link = RedisLink("redis://127.0.0.1:1/0")
            rows = TicketRows(database, node="a")
            shared = SharedTickets(RedisTickets(link.client), rows, work=workers.run, clock=clock)
            yield Parts(shared, advance, key="s:k")
            await link.close()
            return
        server: RedisServer = request.getfixturevalue("redis_server")
        link = RedisLink(server.url)
        await link.client.flushdb()

        async def age(seconds: float) -> None:
            # Redis keeps its own time: every deadline is moved towards us instead.
            async for key in link.client.scan_iter("gateway:ticket:1:k*"):
                left = await link.client.pttl(key)
                await link.client.pexpire(key, max(0, left - round(seconds * 1000)))
                until = await link.client.hget(key, "held_until")
                if until is not None:
                    await link.client.hset(key, "held_until", int(until) - round(seconds * 1000))

        store: TicketStore = RedisTickets(link.client)
        if request.param == "shared":
            rows = TicketRows(database, node="a")
            store = SharedTickets(RedisTickets(link.client), rows, work=workers.run, clock=SystemClock())
        yield Parts(store, age)
        await link.close()


async def test_a_ticket_is_there_for_its_first_connection_and_then_gone(parts: Parts) -> None:
    await parts.store.put(parts.key, TICKET)
    assert await parts.store.look(parts.key) == TICKET
    await parts.let_pass(OPEN_SECONDS - 1)
    assert await parts.store.look(parts.key) == TICKET
    await parts.let_pass(2)
    assert await parts.store.look(parts.key) is None
    assert await parts.store.take(parts.held("h")) is None
    assert await parts.store.look(parts.key + "never") is None


async def test_one_connection_at_a_time(parts: Parts) -> None:
    await parts.store.put(parts.key, TICKET)
    assert await parts.store.take(parts.held("first")) is True
    assert await parts.store.take(parts.held("second")) is False
    await parts.store.release(parts.held("second"))
    assert await parts.store.take(parts.held("second")) is False, "only who holds it gives it back"
    await parts.store.release(parts.held("first"))
    assert await parts.store.take(parts.held("second")) is True


async def test_of_many_that_try_at_once_one_gets_it(parts: Parts) -> None:
    await parts.store.put(parts.key, TICKET)
    taken = await asyncio.gather(*(parts.store.take(parts.held(f"h{n}")) for n in range(20)))
    assert sorted(map(bool, taken)) == [False] * 19 + [True]


async def test_a_connection_that_is_renewed_holds_as_long_as_it_lasts(parts: Parts) -> None:
    await parts.store.put(parts.key, TICKET)
    first = parts.held("first")
    await parts.store.take(first)
    for _ in range(4):
        await parts.let_pass(HOLD_SECONDS - 1)
        await parts.keep("first")
    assert await parts.store.take(parts.held("second")) is False


async def test_what_a_killed_node_held_lapses(parts: Parts) -> None:
    await parts.store.put(parts.key, TICKET)
    await parts.store.take(parts.held("first"))
    await parts.let_pass(HOLD_SECONDS + 0.5)
    assert await parts.store.take(parts.held("second")) is True
    await parts.store.release(parts.held("first"))
    assert await parts.store.take(parts.held("third")) is False, "the one that came back late holds nothing any more"


async def test_after_its_connection_a_ticket_may_come_back_for_a_while(parts: Parts) -> None:
    await parts.store.put(parts.key, TICKET)
    for _ in range(3):
        assert await parts.store.take(parts.held("h")) is True
        await parts.store.release(parts.held("h"))
        await parts.let_pass(RETURN_SECONDS - 1)
    await parts.let_pass(2)
    assert await parts.store.take(parts.held("h")) is None


async def test_a_ticket_speaks_for_its_principal_on_its_stream_and_origin_alone(parts: Parts) -> None:
    clock = ManualClock(now=BEGAN)
    tickets = Tickets(parts.store, clock)
    who = principal(int(BEGAN) + 100)
    paged = await tickets.issue(who, "s", "https://a.example")
    plain = await tickets.issue(who, "s", None)
    assert paged != plain
    assert len(paged) in (32, 33)
    for text, origin in ((paged, "https://a.example"), (plain, None)):
        ticket = (await tickets.look(text)).ticket
        ticket.check(stream="s", origin=origin)
        assert ticket.principal == who
    for text, stream, origin in (
        (paged, "other", "https://a.example"),
        (paged, "s", "https://b.example"),
        (paged, "s", None),
        (plain, "s", "https://a.example"),
        (paged[:-1] + "~", "s", "https://a.example"),
        ("A" * 33, "s", None),
        ("s" + "A" * 32, "s", None),
        ("", "s", None),
    ):
        with pytest.raises(TokenInvalid):
            (await tickets.look(text)).ticket.check(stream=stream, origin=origin)
    clock.advance(100)
    with pytest.raises(TokenExpired):
        await tickets.look(plain)


async def test_a_connection_that_is_over_frees_its_ticket(parts: Parts) -> None:
    tickets = Tickets(parts.store, SystemClock())
    shown = await tickets.look(await tickets.issue(principal(), "s", None))
    for _ in range(2):
        held = await tickets.take(shown)
        with pytest.raises(TicketInUse):
            await tickets.take(shown)
        await tickets.give_back(held)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_rows_are_made_once_and_held_by_whoever_has_the_connection(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    postgres = kind == "postgres"
    url = request.getfixturevalue("postgres_url") if postgres else f"sqlite:///{tmp_path}/gateway.db"
    database = Database(url)
    Schema(database).upgrade()
    a, b = (TicketRows(database, node=node) for node in "ab")
    now = round(BEGAN * 1000)
    try:
        a.add([Row("free", "1", now + 30_000, now + 4_500), Row("open", "2", now + 30_000, now + 4_500)], now_ms=now)
        b.add([Row("open", "other", now + 9, now, "h"), Row("mine", "3", now + 30_000, now, "m")], now_ms=now)
        assert (a.look("open", now_ms=now), a.look("mine", now_ms=now)) == ("2", "3")
        for key in ("open", "mine"):
            assert a.take(key, "late", now_ms=now) == Claim(taken=False)
        assert a.take("free", "f", now_ms=now) == Claim(taken=False, wait_ms=4_500)
        assert sorted(b.keep([("free", "g")], now_ms=now)) == [("free", "g"), ("mine", "m"), ("open", "h")]
        assert a.take("free", "f", now_ms=now + 4_500) == Claim(taken=False)
        assert a.keep([("free", "f")], now_ms=now) == [], "who came too late holds nothing"
        b.release([("free", "g"), ("open", "another")], now_ms=now)
        assert a.take("free", "f", now_ms=now + 4_500) == Claim(taken=True)
        b.drop([("open", "h"), ("mine", "another")])
        assert a.keys(now_ms=now) == {"free", "mine"}
        assert a.take("open", "f", now_ms=now) == Claim(taken=None)
        later = now + (HOLD_SECONDS + RETURN_SECONDS) * 1000
        assert a.keys(now_ms=later) == {"free"}
        a.keep([], now_ms=later)
        assert a.keys(now_ms=now) == {"free"}, "what was over is gone"
    finally:
        database.close()


# ---- two nodes, a Redis that comes and goes, one database ------------------------------------------------------------


class Pair:
    """Two nodes as they are without their gateways: their tickets, and what runs for them."""

    def __init__(self, urls: Sequence[str], database: Database, workers: Workers) -> None:
        self.links = [RedisLink(url) for url in urls]
        self.stores = [
            SharedTickets(
                RedisTickets(link.client),
                TicketRows(database, node=node),
                work=workers.run,
                clock=SystemClock(),
                renew_seconds=QUICK_SECONDS,
            )
            for link, node in zip(self.links, "ab", strict=True)
        ]
        self.a, self.b = (Tickets(one, SystemClock(), renew_seconds=QUICK_SECONDS) for one in self.stores)
        self.database = database
        self._running = [asyncio.create_task(one.run()) for one in (*self.stores, self.a, self.b)]

    async def close(self) -> None:
        for one in self._running:
            one.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for link in self.links:
            await link.close()

    def rows(self) -> int:
        with self.database.reading() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM tickets").scalar() or 0)


@pytest.fixture
async def pair(own_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Pair]:
    async with on_database(f"sqlite:///{tmp_path}/gateway.db") as (database, workers):
        pair = Pair([own_redis.url] * 2, database, workers)
        yield pair
        await pair.close()


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in Redis and in the database
            await asyncio.sleep(0.1)


async def in_use(tickets: Tickets, text: str) -> bool:
    """Whether the ticket is known and its one connection open; gives back what it took."""
    shown = await tickets.look(text)
    try:
        held = await tickets.take(shown)
    except TicketInUse:
        return True
    await tickets.give_back(held)
    return False


@contextlib.contextmanager
def away(server: RedisServer, how: str) -> Iterator[None]:
    """Redis killed, which forgets everything, or frozen, which answers late what it was asked."""
    server.kill() if how == "killed" else server.pause()
    try:
        yield
    finally:
        server.start() if how == "killed" else server.resume()


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_redis_tickets_go_on_and_none_is_used_twice(pair: Pair, own_redis: RedisServer, how: str) -> None:
    old = {name: await pair.a.issue(principal(), name, None) for name in ("waiting", "open", "over")}
    held = await pair.b.take(await pair.b.look(old["open"]))
    await pair.b.give_back(await pair.b.take(await pair.b.look(old["over"])))
    assert pair.rows() == 0, "while Redis is there the database has none"
    with away(own_redis, how):
        text = await pair.a.issue(principal(), "new", None)
        shown = await pair.b.look(text)
        new = await pair.b.take(shown)
        with pytest.raises(TicketInUse):
            await pair.a.take(await pair.a.look(text))
        # What was known before is known still, on either node, and what is open is open.
        assert await in_use(pair.a, old["open"])
        assert not await in_use(pair.b, old["waiting"])
        assert not await in_use(pair.a, old["over"])
        for garbage in ("A" * 32, "s" + "A" * 32):
            with pytest.raises(TokenInvalid):
                await pair.a.look(garbage)
    for tickets in (pair.a, pair.b):
        assert await in_use(tickets, old["open"])
        assert await in_use(tickets, text)

    async def is_back() -> bool:
        return len(await pair.a.issue(principal(), "s", None)) == 32

    await eventually(is_back)
    await pair.b.give_back(new)
    assert not await in_use(pair.a, text)
    await pair.b.give_back(held)
    assert not await in_use(pair.a, old["open"])


async def test_with_redis_back_open_tickets_return_to_it(pair: Pair, own_redis: RedisServer) -> None:
    text = await pair.a.issue(principal(), "s", None)
    held = await pair.b.take(await pair.b.look(text))
    with away(own_redis, "killed"):

        async def is_moved() -> bool:
            return pair.rows() == 1

        await eventually(is_moved)

    async def has_returned() -> bool:
        assert await in_use(pair.a, text), "at no moment is it free"
        return pair.rows() == 0

    await eventually(has_returned)
    await pair.b.give_back(held)
    assert not await in_use(pair.a, text)


async def test_a_redis_that_forgot_everything_between_two_looks_takes_no_ticket_along(
    pair: Pair, own_redis: RedisServer
) -> None:
    waiting, text = await pair.a.issue(principal(), "s", None), await pair.a.issue(principal(), "s", None)
    held = await pair.a.take(await pair.a.look(text))
    for tickets in (pair.a, pair.b):
        # That there is no such ticket, a node believes of a Redis that it knows.
        with pytest.raises(TokenInvalid):
            await tickets.look("A" * 32)
    own_redis.command("FLUSHALL")
    assert await in_use(pair.b, text)
    assert not await in_use(pair.b, waiting)
    await pair.a.give_back(held)


async def test_one_call_that_fails_moves_nothing(pair: Pair, own_redis: RedisServer) -> None:
    text = await pair.a.issue(principal(), "s", None)
    with away(own_redis, "frozen"):
        looking = asyncio.create_task(pair.a.look(text))
        await asyncio.sleep(ASK_AGAIN_SECONDS / 2)
    await looking
    assert pair.rows() == 0


async def test_without_redis_and_database_tickets_are_refused_for_now(own_redis: RedisServer, tmp_path: Path) -> None:
    link, place = RedisLink(own_redis.url), tmp_path / "gateway.db"
    async with on_database(f"sqlite:///{place}") as (database, workers):
        rows = TicketRows(database, node="a")
        store = SharedTickets(RedisTickets(link.client), rows, work=workers.run, clock=SystemClock())
        tickets = Tickets(store, SystemClock())
        text = await tickets.issue(principal(), "s", None)
        shown = await tickets.look(text)
        own_redis.kill()
        database.close()
        place.unlink()
        place.mkdir()
        for attempt in (lambda: tickets.issue(principal(), "s", None), lambda: tickets.look(text)):
            with pytest.raises(Unavailable):
                await attempt()
        with pytest.raises(Unavailable):
            await tickets.take(shown)
    await link.close()


async def test_unknown_tickets_cost_the_database_one_read_for_all_of_them(tmp_path: Path) -> None:
    reads: Counter[str] = Counter()
    async with on_database(f"sqlite:///{tmp_path}/gateway.db") as (database, workers):

        async def work(asked: Callable[..., T], /, *arguments: Any, **named: Any) -> T:
            reads[asked.__name__] += 1
            return await workers.run(asked, *arguments, **named)

        link, rows = RedisLink("redis://127.0.0.1:1/0"), TicketRows(database, node="a")
        store = SharedTickets(
            RedisTickets(link.client), rows, work=work, clock=SystemClock(), renew_seconds=QUICK_SECONDS
        )
        async with asyncio.TaskGroup() as group:
            unknown = [group.create_task(store.look(f"{number:064x}")) for number in range(60)]
            late = group.create_task(store.look("late"))
            while not reads:  # noqa: ASYNC110 - what is waited for happens in the database
                await asyncio.sleep(0.01)
            # Another node that knew it puts it here.
            now_ms = round(SystemClock().now() * 1000)
            await workers.run(rows.add, [Row("late", TICKET.encode().decode(), now_ms + 60_000)], now_ms=now_ms)
        assert late.result() == TICKET
        assert {one.result() for one in unknown} == {None}
        # One in 0.2 seconds until it is settled, were each of them done in no time.
        assert reads.keys() == {"look_all"}
        assert reads["look_all"] <= store.settle_seconds / LOOK_AGAIN_SECONDS + 2
        await asyncio.gather(*(store.look(f"{number:064x}") for number in range(60)))
        assert reads["look_all"] <= store.settle_seconds / LOOK_AGAIN_SECONDS + 4, "the same when it is settled"
    await link.close()


async def test_a_node_that_alone_has_lost_redis_gives_away_nothing_that_is_open_elsewhere(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        database, workers = await stack.enter_async_context(on_database(f"sqlite:///{tmp_path}/gateway.db"))
        cable = await stack.enter_async_context(contextlib.AsyncExitStack())
        way = await cable.enter_async_context(switch([own_redis.url]))
        pair = Pair([way.replace("http", "redis"), own_redis.url], database, workers)
        stack.push_async_callback(pair.close)
        text = await pair.a.issue(principal(), "s", None)
        held = await pair.b.take(await pair.b.look(text))
        await cable.aclose()
        assert await in_use(pair.a, text)
        assert await in_use(pair.b, text)
        await pair.b.give_back(held)

        async def is_free() -> bool:
            return not await in_use(pair.a, text)

        await eventually(is_free)


async def test_nodes_have_the_time_to_say_what_is_open_before_anything_is_claimed(pair: Pair) -> None:
    usual = pair.stores[0].settle_seconds - QUICK_SECONDS + RENEW_SECONDS
    assert RENEW_SECONDS + ASK_AGAIN_SECONDS < usual < HOLD_SECONDS, "what Redis knows as open does not lapse meanwhile"
