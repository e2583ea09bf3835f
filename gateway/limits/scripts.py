"""The port of what needs Redis beside the rates: scripts that say what is so, and may therefore be run twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from gateway.limits.store import Call, Script

__all__ = ["COMMANDS", "Call", "Script", "Scripts", "whole"]

T = TypeVar("T")

COMMANDS = (
    *("EVALSHA", "EVAL", "TIME", "EXISTS", "PEXPIRE", "GET", "SET"),
    *("ZADD", "ZREM", "ZREMRANGEBYSCORE", "ZCARD", "ZCOUNT", "ZRANGE"),
    *("HGETALL", "HGET", "HSET", "HEXISTS"),
)
"""What seats and quotas ask of Redis, for the user's ACL: on ``~gateway:limits:*``."""


class Scripts(Protocol):
    """``store.RedisStore`` is one."""

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """What each run returns, all in one round trip. Raises Away."""
        ...

    def apart(self, keys: Sequence[str]) -> list[list[int]]:
        """The keys, by their place here, in groups of which one may be away while another is not."""
        ...

    async def each(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """As ``run``; in a cluster some may be away and the others not: with Away in the place of their answers."""
        ...


async def whole(asking: Coroutine[Any, Any, T]) -> T:
    """What ``asking`` of Redis returns or raises. Whoever waits for it can be cancelled; the asking then goes on.

    The client may lose a cancellation that reaches it while it talks to the server: whoever was cancelled would go on
    for ever, and whoever waits for that with it.
    """
    task = asyncio.ensure_future(asking)
    # Its error is ours to raise, and nobody's where we were cancelled.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)
