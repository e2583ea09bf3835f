"""The port of what needs Redis beside the rates: scripts that say what is so, and may therefore be run twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.limits.store import Call, Script

__all__ = ["COMMANDS", "Call", "Script", "Scripts"]

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
