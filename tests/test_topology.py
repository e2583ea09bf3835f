"""Who has a key: what sentinels and clusters say, when they disagree, are late, or lie half dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import MovedError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.limits.parts import PARTS, part_in, part_of, part_tag
from gateway.limits.redis import RedisLink
from gateway.limits.topology import Address, parse_address, parse_slots, slot_of
from gateway.nodes.bus import Bus
from tests.parts.kafka import eventually

SILENT = None
"""Takes what is asked, and says nothing."""


def spelt(value: Any) -> bytes:
    """In RESP2."""
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(spelt, value))
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, Exception):
        return b"-%s\r\n" % str(value).encode()
    return b"$%d\r\n%s\r\n" % (len(value), value.encode())


class Scripted:
    """A server that says to each command what it is told to, and counts."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {"PING": "PONG"}
        self.heard: list[str] = []
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2].decode())
                for name in (" ".join(words[:2]), words[0]):
                    if name in self.says:
                        self.heard.append(name)
                        if self.says[name] is not SILENT:
                            writer.write(spelt(self.says[name]))
                        break
                else:
                    raise AssertionError(f"nobody expected {words}")
        finally:
            writer.close()


@asynccontextmanager
async def servers(count: int) -> AsyncIterator[list[Scripted]]:
    scripted = [Scripted() for _ in range(count)]
    listening = []
    for one in scripted:
        server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
        one.port = server.sockets[0].getsockname()[1]
        listening.append(server)
    try:
        yield scripted
    finally:
        for server in listening:
            server.close()


def watched(sentinel: Scripted, master: Scripted, *, epoch: int) -> None:
    sentinel.says["SENTINEL GET-MASTER-ADDR-BY-NAME"] = ["127.0.0.1", str(master.port)]
    sentinel.says["SENTINEL MASTER"] = ["name", "limits", "config-epoch", str(epoch)]


def sentinel_link(*sentinels: Scripted) -> RedisLink:
    nodes = [one.address for one in sentinels]
    return RedisLink("redis:///0", mode="sentinel", nodes=nodes, service="limits", timeout_seconds=1)


async def test_the_latest_election_counts_and_not_the_first_answer() -> None:
    async with servers(5) as (old, new, first, second, third):
        for sentinel in (first, second):
            watched(sentinel, old, epoch=3)
        watched(third, new, epoch=4)
        old.says["GET"], new.says["GET"] = "old", "new"
        link = sentinel_link(first, second, third)
        assert await link.client.execute_command("GET", "key") == b"new"
        assert not old.heard
        await link.close()


async def test_sentinels_that_are_frozen_or_gone_hold_nobody() -> None:
    async with servers(3) as (master, frozen, good):
        frozen.says |= {"SENTINEL GET-MASTER-ADDR-BY-NAME": SILENT, "SENTINEL MASTER": SILENT}
        watched(good, master, epoch=1)
        gone = Scripted()
        gone.port = 1
        link = sentinel_link(frozen, gone, good)
        await link.ping()
        assert link.described().endswith("1 of 3 sentinels answer")
        assert "PING" in master.heard
        await link.close()


async def test_a_master_that_became_a_replica_is_asked_no_more() -> None:
    async with servers(3) as (old, new, sentinel):
        watched(sentinel, old, epoch=1)
        # As a script's error has it before Redis 7.
        old.says["EVALSHA"] = RuntimeError("ERR Error running script: @user_script:1: -READONLY You can't write")
        new.says["EVALSHA"] = "done"
        link = sentinel_link(sentinel)
        with pytest.raises(ResponseError, match="READONLY"):
            await link.client.execute_command("EVALSHA", "sha", 1, "key")
        watched(sentinel, new, epoch=2)

        async def is_done() -> bool:
            try:
                return bool(await link.client.execute_command("EVALSHA", "sha", 1, "key") == b"done")
            except ResponseError:
                return False

        await eventually(is_done)
        assert new.heard.count("EVALSHA") == 1
        await link.close()


async def test_a_frozen_master_is_left_when_another_is_elected_also_by_those_who_listen() -> None:
    async with servers(3) as (old, new, sentinel):
        watched(sentinel, old, epoch=1)
        subscribed = ["subscribe", "gateway:{nodes}:1:all", 1]
        for one in (old, new):
            one.says |= {"SUBSCRIBE": subscribed, "EVAL": ["somebody"], "ZREM": 1}
        link = sentinel_link(sentinel)
        bus = Bus(link.client, heartbeat_seconds=0.2)
        running = asyncio.create_task(bus.run())
        try:
            await eventually(lambda: "SUBSCRIBE" in old.heard)
            old.says |= {"EVAL": SILENT, "SUBSCRIBE": SILENT, "PING": SILENT}
            watched(sentinel, new, epoch=2)
            await eventually(lambda: "SUBSCRIBE" in new.heard, seconds=30)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await bus.close()
            await link.close()


async def test_a_connection_that_listens_and_hears_nothing_is_made_anew() -> None:
    async with servers(1) as (server,):
        # What is asked is answered, as if over another way.
        server.says |= {"SUBSCRIBE": ["subscribe", "gateway:{nodes}:1:all", 1], "EVAL": ["somebody"], "ZREM": 1}
        server.says["PING"] = SILENT
        link = RedisLink(f"redis://{server.address}", timeout_seconds=1)
        bus = Bus(link.client, heartbeat_seconds=0.4)
        running = asyncio.create_task(bus.run())
        try:
            await eventually(lambda: server.heard.count("SUBSCRIBE") >= 2)
            server.says["PING"] = ["pong", ""]
            beats = server.heard.count("PING")
            await eventually(lambda: server.heard.count("PING") > beats + 2)
            begun = server.heard.count("SUBSCRIBE")
            await eventually(lambda: server.heard.count("PING") > beats + 4)
            assert server.heard.count("SUBSCRIBE") == begun
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await bus.close()
            await link.close()


async def test_nothing_is_sent_twice_but_what_was_not_done() -> None:
    async with servers(2) as (one, other):
        slot = slot_of("key")
        layout = [[0, 16_383, ["127.0.0.1", one.port, "id"]]]
        for server in (one, other):
            server.says["CLUSTER SLOTS"] = layout
        one.says["INCR"] = RuntimeError(f"MOVED {slot} 127.0.0.1:{other.port}")
        other.says["INCR"] = 7
        link = RedisLink(f"redis://{one.address}", mode="cluster", timeout_seconds=1)
        assert await link.client.execute_command("INCR", "key") == 7
        assert (one.heard.count("INCR"), other.heard.count("INCR")) == (1, 1)
        other.says["INCR"] = RuntimeError(f"MOVED {slot} 127.0.0.1:{one.port}")
        with pytest.raises(MovedError):
            await link.client.execute_command("INCR", "key")
        other.says["INCR"] = SILENT
        before = other.heard.count("INCR")
        with pytest.raises(RedisTimeoutError):
            await link.client.execute_command("INCR", "key")
        assert other.heard.count("INCR") == before + 1
        await link.close()


async def test_a_layout_that_leaves_slots_out_is_told() -> None:
    async with servers(1) as (one,):
        one.says["CLUSTER SLOTS"] = [[0, 99, ["", one.port, "id"]], [200, 16_383, ["", one.port, "id"]]]
        link = RedisLink(f"redis://{one.address}", mode="cluster", timeout_seconds=1)
        with pytest.raises(ConnectionError, match="100 of 16384 slots have no server"):
            await link.ping()
        await link.close()


def test_a_server_that_names_no_host_means_the_one_that_was_asked() -> None:
    told = [[5, 9, [b"", 1, b"a"], [b"::1", 2, b"b"]], [0, 4, [None, 3, b"c"]]]
    ranges = parse_slots(told, asked=Address("here", 9))
    assert ranges.begins == (0, 5)
    assert ranges.owners == (Address("here", 3), Address("here", 1))
    assert ranges.replicas == {Address("::1", 2)}
    assert ranges.covered() == 10


def test_addresses_are_read_and_written_alike() -> None:
    for text in ("redis-1:6379", "10.0.0.1:1", "[::1]:26379"):
        assert str(parse_address(text)) == text


def test_parts_are_slots_of_their_own_and_all_have_tenants() -> None:
    assert len({slot_of(part_tag(part)) for part in range(PARTS)}) == PARTS
    tenants = [f"tenant-{number}" for number in range(2_000)]
    assert {part_of(tenant) for tenant in tenants} == set(range(PARTS))
    for hostile in ("{3}", "}{", "\r\nFLUSHALL\r\n", "\0", "*", "\udc80"):
        key = f"gateway:{part_tag(part_of(hostile))}:x"
        assert part_in(key) == part_of(hostile)
        assert slot_of(key) == slot_of(part_tag(part_of(hostile)))
