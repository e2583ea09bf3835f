"""Nodes ask and tell each other over a real Redis, through its bad days, and between versions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from gateway.errors import Unavailable
from gateway.limits.redis import RedisLink
from gateway.nodes.bus import Bus
from gateway.nodes.messages import VERSION, Message, decode, encode
from tests.parts.kafka import eventually
from tests.parts.redis import RedisServer


@contextlib.asynccontextmanager
async def node(server: RedisServer, **answers: Callable[[dict[str, Any]], dict[str, Any] | None]) -> AsyncIterator[Bus]:
    """A bus that listens."""
    link = RedisLink(server.url)
    bus = Bus(link.client)
    for topic, answer in answers.items():
        bus.on_question(topic, answer)
    heard = asyncio.Event()
    bus.on_bell("begun", heard.set)
    running = asyncio.create_task(bus.run())
    try:
        async with asyncio.timeout(30):
            await heard.wait()
        yield bus
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bus.close()
        await link.close()


async def test_a_question_is_answered_by_those_who_know(own_redis: RedisServer) -> None:
    def named(name: str) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
        return lambda question: {"by": name} if question["of"] in (name, "all") else None

    async with node(own_redis, who=named("a")) as a, node(own_redis, who=named("b")), node(own_redis, who=named("c")):
        assert sorted(one["by"] for one in await a.ask("who", {"of": "all"})) == ["b", "c"]
        assert await a.ask("who", {"of": "c"}, first=True) == [{"by": "c"}]
        assert await a.ask("who", {"of": "nobody"}) == []
        assert await a.ask("unheard of", {}) == [], "who does not know the question says so"


async def test_a_node_alone_asks_nobody(own_redis: RedisServer) -> None:
    async with node(own_redis) as alone:
        assert await alone.others() == []
        assert await alone.ask("who", {}) == []


async def test_a_bell_is_heard_by_the_others_and_not_by_who_rings(own_redis: RedisServer) -> None:
    rung: list[str] = []
    async with node(own_redis) as a, node(own_redis) as b:
        a.on_bell("catalog", lambda: rung.append("a"))
        b.on_bell("catalog", lambda: rung.append("b"))
        await a.ring("catalog")
        await eventually(lambda: rung == ["b"])


async def test_a_node_that_is_gone_without_a_word_is_told_from_one_that_does_not_know(own_redis: RedisServer) -> None:
    async with node(own_redis) as a, node(own_redis) as b:
        stopped = RedisLink(own_redis.url)
        # Present, and silent: as a node that was killed a moment ago.
        await stopped.client.zadd("gateway:{nodes}:1:present", {"silent": 2**40})
        with pytest.raises(Unavailable, match="does not answer"):
            await a.ask("who", {})
        await stopped.client.zrem("gateway:{nodes}:1:present", "silent")
        await stopped.close()
        assert await a.ask("who", {}) == []
        assert await b.others() == [a.node]


async def test_without_redis_a_question_is_refused_and_after_its_return_all_is_well(own_redis: RedisServer) -> None:
    rung = asyncio.Event()
    async with node(own_redis) as a, node(own_redis, who=lambda question: {"by": "b"}) as b:
        b.on_bell("catalog", rung.set)
        own_redis.kill()
        with pytest.raises(Unavailable, match="cannot reach its other nodes"):
            await a.ask("who", {})
        await a.ring("catalog")
        assert not rung.is_set()
        own_redis.start()
        async with asyncio.timeout(60):
            # Nobody rang since: whoever could not hear looks by itself.
            await rung.wait()
            while True:
                with contextlib.suppress(Unavailable):
                    if await a.ask("who", {}) == [{"by": "b"}]:
                        break
                await asyncio.sleep(0.1)


async def test_messages_of_other_versions_and_strangers_are_passed_over(own_redis: RedisServer) -> None:
    rung = asyncio.Event()
    async with node(own_redis) as a, node(own_redis) as b:
        b.on_bell("catalog", rung.set)
        link = RedisLink(own_redis.url)
        later = {"kind": "bell", "topic": "catalog", "sender": "x", "version": VERSION + 1}
        for foreign in (b"", b"\xff", b"[]", b'{"kind":"shout"}', msgspec.json.encode(later)):
            await link.client.publish("gateway:{nodes}:1:all", foreign)
        assert not rung.is_set()
        # Members that a later version adds are no obstacle.
        more = {"kind": "bell", "topic": "catalog", "sender": "x", "version": VERSION, "added": 1}
        await link.client.publish("gateway:{nodes}:1:all", msgspec.json.encode(more))
        async with asyncio.timeout(30):
            await rung.wait()
        await link.close()
        assert await a.others() == [b.node]


def test_a_message_comes_back_as_it_was() -> None:
    message = Message("question", "who", "n1", 7, {"a": ["b"]})
    assert decode(encode(message)) == message
