"""Tickets in Redis, for all nodes: each step one script with the server's own time."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from redis.exceptions import RedisError

from gateway.auth.tickets import HOLD_SECONDS, OPEN_SECONDS, RETURN_SECONDS, Held, Ticket
from gateway.errors import Unavailable

_PUT: Final = """
redis.call('HSET', KEYS[1], 'data', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
_TAKE: Final = """
local hold = redis.call('HGET', KEYS[1], 'hold')
if redis.call('HEXISTS', KEYS[1], 'data') == 0 then return -1 end
local now = redis.call('TIME')
local millis = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
if hold and hold ~= ARGV[1] and tonumber(redis.call('HGET', KEYS[1], 'held_until')) > millis then return 0 end
redis.call('HSET', KEYS[1], 'hold', ARGV[1], 'held_until', millis + tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) + tonumber(ARGV[3]))
return 1
"""
_KEEP: Final = """
if redis.call('HEXISTS', KEYS[1], 'data') == 0 then return -1 end
if redis.call('HGET', KEYS[1], 'hold') ~= ARGV[1] then return 0 end
local now = redis.call('TIME')
local millis = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
redis.call('HSET', KEYS[1], 'held_until', millis + tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) + tonumber(ARGV[3]))
return 1
"""
_RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'hold') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'hold', 'held_until')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
_RESTORE: Final = """
local hold = redis.call('HGET', KEYS[1], 'hold')
local now = redis.call('TIME')
local millis = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
if hold and hold ~= ARGV[1] and tonumber(redis.call('HGET', KEYS[1], 'held_until')) > millis then return 0 end
redis.call('HSET', KEYS[1], 'data', ARGV[4], 'hold', ARGV[1], 'held_until', millis + tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) + tonumber(ARGV[3]))
return 1
"""
_NAME: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""
_PREFIX: Final = "gateway:ticket:1:"
_MEMORY: Final = "gateway:ticket:1:memory"
_OPEN_MS: Final = OPEN_SECONDS * 1000
_HOLD_MS: Final = HOLD_SECONDS * 1000
_RETURN_MS: Final = RETURN_SECONDS * 1000


class RedisTickets:
    """See ``tickets.TicketStore``."""

    def __init__(self, client: Any) -> None:
        """``client``: of ``limits.redis.RedisLink``."""
        self._client = client

    async def put(self, key: str, ticket: Ticket) -> None:
        with _told():
            await self._client.execute_command("EVAL", _PUT, 1, _PREFIX + key, ticket.encode(), _OPEN_MS)

    async def look(self, key: str) -> Ticket | None:
        with _told():
            data: bytes | None = await self._client.execute_command("HGET", _PREFIX + key, "data")
        return None if data is None else Ticket.decode(data)

    async def take(self, held: Held) -> bool | None:
        with _told():
            taken = await self._client.execute_command(
                "EVAL", _TAKE, 1, _PREFIX + held.key, held.hold, _HOLD_MS, _RETURN_MS
            )
        return None if taken < 0 else bool(taken)

    async def keep(self, held: Sequence[Held]) -> Collection[str]:
        if not held:
            return ()
        with _told():
            pipeline = self._client.pipeline(transaction=False)
            for one in held:
                pipeline.execute_command("EVAL", _KEEP, 1, _PREFIX + one.key, one.hold, _HOLD_MS, _RETURN_MS)
            answers = await pipeline.execute()
        return [one.key for one, answer in zip(held, answers, strict=True) if answer < 0]

    async def release(self, held: Held) -> None:
        with _told():
            await self._client.execute_command("EVAL", _RELEASE, 1, _PREFIX + held.key, held.hold, _RETURN_MS)

    async def restore(self, held: Sequence[Held]) -> Collection[str]:
        """Put tickets whose connections are open; the keys of those that are here then. Raises Unavailable."""
        with _told():
            pipeline = self._client.pipeline(transaction=False)
            for one in held:
                words = (_PREFIX + one.key, one.hold, _HOLD_MS, _RETURN_MS, one.ticket.encode())
                pipeline.execute_command("EVAL", _RESTORE, 1, *words)
            answers = await pipeline.execute()
        return [one.key for one, answer in zip(held, answers, strict=True) if answer]

    async def memory(self) -> str:
        """Names what Redis knows: another name, and it has forgotten what it was told before. Raises Unavailable."""
        with _told():
            name: bytes = await self._client.execute_command("EVAL", _NAME, 1, _MEMORY, secrets.token_hex(8))
        return name.decode("ascii")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise Unavailable("Tickets cannot be looked up now.", retry_after_ms=1_000) from error
