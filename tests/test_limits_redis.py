"""The link to Redis: it says who is away and why, and neither waits long nor asks twice."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.limits.redis import RedisLink
from tests.parts.ports import free_port
from tests.parts.redis import RedisServer


async def test_a_running_server_answers(redis_server: RedisServer) -> None:
    link = RedisLink(redis_server.url)
    await link.ping()
    await link.close()


async def test_an_absent_server_is_named_without_its_password() -> None:
    port = free_port()
    link = RedisLink(f"redis://user:hunter2@127.0.0.1:{port}/0")
    with pytest.raises(ConnectionError, match=f"redis://127.0.0.1:{port} ") as caught:
        await link.ping()
    assert "hunter2" not in str(caught.value)
    await link.close()


async def test_a_frozen_server_holds_nobody_and_is_back_when_it_thaws(own_redis: RedisServer) -> None:
    link = RedisLink(own_redis.url)
    await link.ping()
    own_redis.pause()
    started = time.monotonic()
    with pytest.raises(ConnectionError):
        await link.ping()
    waited = time.monotonic() - started
    own_redis.resume()
    await link.ping()
    await link.close()
    # The library's default would be many seconds; the bar is generous because the machine may be busy.
    assert waited < 3


async def test_a_command_whose_reply_is_cut_off_is_sent_once() -> None:
    commands = 0

    async def cut_the_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal commands
        while received := await reader.read(4096):
            if b"PING" in received:
                commands += 1
                break
            # CLIENT SETINFO, before the first command: two of them, and the client goes on where they are refused.
            writer.write(b"-ERR unknown command\r\n" * received.count(b"SETINFO"))
        writer.transport.abort()

    server = await asyncio.start_server(cut_the_reply, "127.0.0.1", 0)
    link = RedisLink(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0?protocol=2")
    with pytest.raises(ConnectionError):
        await link.ping()
    await link.close()
    server.close()
    assert commands == 1
