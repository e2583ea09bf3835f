"""Tickets in Redis, for all nodes: each step one script with the server's own time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from redis.exceptions import RedisError

from gateway.auth.tickets import HOLD_SECONDS, OPEN_SECONDS, RETURN_SECONDS
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
if hold and tonumber(redis.call('HGET', KEYS[1], 'held_until')) > millis then return 0 end
redis.call('HSET', KEYS[1], 'hold', ARGV[1], 'held_until', millis + tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) + tonumber(ARGV[3]))
return 1
"""
_KEEP: Final = """
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
_PREFIX: Final = "gateway:ticket:1:"
_OPEN_MS: Final = OPEN_SECONDS * 1000
_HOLD_MS: Final = HOLD_SECONDS * 1000
_RETURN_MS: Final = RETURN_SECONDS * 1000


class RedisTickets:
    """See ``tickets.TicketStore``."""

    def __init__(self, client: Any) -> None:
        """``client``: of ``limits.redis.RedisLink``."""
        self._client = client

    async def put(self, key: str, data: bytes) -> None:
        with _told():
            await self._client.execute_command("EVAL", _PUT, 1, _PREFIX + key, data, _OPEN_MS)

    async def look(self, key: str) -> bytes | None:
        with _told():
            data: bytes | None = await self._client.execute_command("HGET", _PREFIX + key, "data")
        return data

    async def take(self, key: str, hold: str) -> bool | None:
        with _told():
            taken = await self._client.execute_command("EVAL", _TAKE, 1, _PREFIX + key, hold, _HOLD_MS, _RETURN_MS)
        return None if taken < 0 else bool(taken)

    async def keep(self, holds: Sequence[tuple[str, str]]) -> None:
        with _told():
            pipeline = self._client.pipeline(transaction=False)
            for key, hold in holds:
                pipeline.execute_command("EVAL", _KEEP, 1, _PREFIX + key, hold, _HOLD_MS, _RETURN_MS)
            await pipeline.execute()

    async def release(self, key: str, hold: str) -> None:
        with _told():
            await self._client.execute_command("EVAL", _RELEASE, 1, _PREFIX + key, hold, _RETURN_MS)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise Unavailable("Tickets cannot be looked up now.", retry_after_ms=1_000) from error
