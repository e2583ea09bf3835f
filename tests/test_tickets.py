"""Tickets: one read, one connection at a time; kept by one process or, in a real Redis, by all nodes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gateway.auth.ticket_store import RedisTickets
from gateway.auth.tickets import (
    HOLD_SECONDS,
    OPEN_SECONDS,
    RETURN_SECONDS,
    MemoryTickets,
    Tickets,
    TicketStore,
)
from gateway.clock import ManualClock, SystemClock
from gateway.errors import TicketInUse, TokenExpired, TokenInvalid, Unavailable
from gateway.limits.redis import RedisLink
from gateway.model import Principal
from tests.parts.redis import RedisServer

Pass = Callable[[float], Awaitable[None]]


class Parts:
    """A store, and a way to let time pass for it."""

    def __init__(self, store: TicketStore, let_pass: Pass) -> None:
        self.store = store
        self.let_pass = let_pass


@pytest.fixture(params=["memory", "redis"])
async def parts(request: pytest.FixtureRequest) -> AsyncIterator[Parts]:
    if request.param == "memory":
        clock = ManualClock(now=1_700_000_000.0)

        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        yield Parts(MemoryTickets(clock), advance)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    link = RedisLink(server.url)
    await link.client.flushdb()

    async def age(seconds: float) -> None:
        # Redis keeps its own time: every deadline is moved towards us instead.
        async for key in link.client.scan_iter("gateway:ticket:*"):
            left = await link.client.pttl(key)
            await link.client.pexpire(key, max(0, left - round(seconds * 1000)))
            until = await link.client.hget(key, "held_until")
            if until is not None:
                await link.client.hset(key, "held_until", int(until) - round(seconds * 1000))

    yield Parts(RedisTickets(link.client), age)
    await link.close()


async def test_a_ticket_is_there_for_its_first_connection_and_then_gone(parts: Parts) -> None:
    await parts.store.put("k", b"data")
    assert await parts.store.look("k") == b"data"
    await parts.let_pass(OPEN_SECONDS - 1)
    assert await parts.store.look("k") == b"data"
    await parts.let_pass(2)
    assert await parts.store.look("k") is None
    assert await parts.store.take("k", "h") is None
    assert await parts.store.look("never") is None


async def test_one_connection_at_a_time(parts: Parts) -> None:
    await parts.store.put("k", b"data")
    assert await parts.store.take("k", "first") is True
    assert await parts.store.take("k", "second") is False
    await parts.store.release("k", "second")
    assert await parts.store.take("k", "second") is False, "only who holds it gives it back"
    await parts.store.release("k", "first")
    assert await parts.store.take("k", "second") is True


async def test_a_connection_that_is_renewed_holds_as_long_as_it_lasts(parts: Parts) -> None:
    await parts.store.put("k", b"data")
    await parts.store.take("k", "first")
    for _ in range(50):
        await parts.let_pass(HOLD_SECONDS - 1)
        await parts.store.keep([("k", "first"), ("gone", "x")])
    assert await parts.store.take("k", "second") is False


async def test_what_a_killed_node_held_lapses(parts: Parts) -> None:
    await parts.store.put("k", b"data")
    await parts.store.take("k", "first")
    await parts.let_pass(HOLD_SECONDS + 0.5)
    assert await parts.store.take("k", "second") is True
    await parts.store.keep([("k", "first")])
    await parts.store.release("k", "first")
    assert await parts.store.take("k", "third") is False, "the one that came back late holds nothing any more"


async def test_after_its_connection_a_ticket_may_come_back_for_a_while(parts: Parts) -> None:
    await parts.store.put("k", b"data")
    for _ in range(3):
        assert await parts.store.take("k", "h") is True
        await parts.store.release("k", "h")
        await parts.let_pass(RETURN_SECONDS - 1)
    await parts.let_pass(2)
    assert await parts.store.take("k", "h") is None


def principal(expires_at: int) -> Principal:
    return Principal("idp", "web", "user", frozenset({"streams:read"}), "t1", expires_at, {"airport": ["ORD"]})


async def test_a_ticket_speaks_for_its_principal_on_its_stream_and_origin_alone(parts: Parts) -> None:
    clock = ManualClock(now=1_700_000_000.0)
    tickets = Tickets(parts.store, clock)
    who = principal(1_700_000_100)
    paged = await tickets.issue(who, "s", "https://a.example")
    plain = await tickets.issue(who, "s", None)
    assert paged != plain
    assert len(paged) == 32
    assert await tickets.look(paged, stream="s", origin="https://a.example") == who
    assert await tickets.look(plain, stream="s", origin=None) == who
    for text, stream, origin in (
        (paged, "other", "https://a.example"),
        (paged, "s", "https://b.example"),
        (paged, "s", None),
        (plain, "s", "https://a.example"),
        (paged[:-1] + "~", "s", "https://a.example"),
        ("A" * 32, "s", None),
        ("", "s", None),
    ):
        with pytest.raises(TokenInvalid):
            await tickets.look(text, stream=stream, origin=origin)
    clock.advance(100)
    with pytest.raises(TokenExpired):
        await tickets.look(plain, stream="s", origin=None)


async def test_a_held_ticket_is_free_again_whatever_ended_the_connection(parts: Parts) -> None:
    tickets = Tickets(parts.store, SystemClock())
    text = await tickets.issue(principal(2**31), "s", None)
    with contextlib.suppress(ValueError):
        async with tickets.held(text):
            with pytest.raises(TicketInUse):
                await tickets.held(text).__aenter__()
            raise ValueError
    async with tickets.held(text):
        pass


async def test_without_redis_tickets_are_refused_for_now(own_redis: RedisServer) -> None:
    link = RedisLink(own_redis.url)
    tickets = Tickets(RedisTickets(link.client), SystemClock())
    text = await tickets.issue(principal(2**31), "s", None)
    async with tickets.held(text):
        own_redis.kill()
        for attempt in (tickets.issue(principal(2**31), "s", None), tickets.look(text, stream="s", origin=None)):
            with pytest.raises(Unavailable):
                await attempt
    await link.close()
