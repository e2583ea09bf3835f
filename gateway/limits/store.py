"""Where limits are kept for all nodes together: scripts in Redis, many in one round trip; or this process's memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final, NamedTuple, Protocol

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from gateway.limits.breaker import Breaker
from gateway.limits.bucket import Rate
from gateway.limits.lending import Account, Ask, Given, decode_given, encode_exchange

COMMANDS: Final = ("EVALSHA", "EVAL", "GET", "SET", "TIME")
"""What lending asks of Redis, for an ACL user: ``+evalsha +eval +get +set +time``, on ``~gateway:limits:*``."""

KEY_PREFIX: Final = "gateway:limits:1"
MOST_KEYS: Final = 100
"""So many accounts go into one call of the script: Redis does nothing else meanwhile."""


def tenant_tag(tenant: str) -> str:
    """A tenant in a key: a hash in braces, so that no name leaves its key and all keys of a tenant share a slot."""
    return "{" + hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:32] + "}"


def name_tag(name: str) -> str:
    """A plan's, application's or stream's name in a key: a short hash."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def account_key(tenant: str, plan: str) -> str:
    """The key of what a tenant has left under a plan."""
    return f"{KEY_PREFIX}:account:{tenant_tag(tenant)}:{name_tag(plan)}"


class Script:
    """A Lua file beside this module. ``repeatable``: run twice with the same arguments it counts once."""

    def __init__(self, name: str, *, repeatable: bool = False) -> None:
        self.text = resources.files("gateway.limits").joinpath("lua", f"{name}.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.text.encode("utf-8"), usedforsecurity=False).hexdigest()
        self.repeatable = repeatable


class Call(NamedTuple):
    """One run of a script. In a cluster its keys are of one slot."""

    keys: Sequence[str]
    arguments: Sequence[str | int | bytes]


class Exchange(NamedTuple):
    """What this process asks of one account, see ``lending``."""

    key: str
    number: int
    asks: list[Ask]


class Store(Protocol):
    """Where accounts are kept."""

    async def lend(self, exchanges: Sequence[Exchange]) -> list[list[Given]]:
        """The answers, in order. Raises Away."""
        ...

    def sweep(self) -> None:
        """Forget here what nobody would miss."""
        ...


class RedisStore:
    """Accounts in Redis. Keys hold hashes, all of them expire, and time is the server's."""

    def __init__(self, client: Redis, breaker: Breaker, *, node: str, is_cluster: bool = False) -> None:
        self.breaker = breaker
        self.calls = 0
        self._client = client
        self._node = node
        self._keys_at_once = 1 if is_cluster else MOST_KEYS
        self._borrow = Script("borrow", repeatable=True)

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run a script so many times in one round trip; the answers in order. Raises Away, and within 100 ms."""
        self.calls += 1
        return await self.breaker.call(lambda: self._run(script, calls), repeatable=script.repeatable)

    async def _run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        answers = await self._send("EVALSHA", script.sha, calls)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            # Those were not run: the server was restarted or flushed. EVAL makes the script known again.
            for index, answer in zip(
                unknown, await self._send("EVAL", script.text, [calls[index] for index in unknown]), strict=True
            ):
                answers[index] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _send(self, command: str, script: str, calls: Sequence[Call]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(command, script, len(call.keys), *call.keys, *call.arguments)
        found: list[Any] = await pipeline.execute(raise_on_error=False)
        return found

    async def lend(self, exchanges: Sequence[Exchange]) -> list[list[Given]]:
        """See ``Store``."""
        return [decode_given(answer) for answer in await self._lend(exchanges)]

    async def _lend(self, exchanges: Sequence[Exchange]) -> list[bytes]:
        answers = await self.run(self._borrow, self._calls(exchanges))
        return [answer for several in answers for answer in several]

    def _calls(self, exchanges: Sequence[Exchange]) -> list[Call]:
        size = self._keys_at_once
        parts = [exchanges[begin : begin + size] for begin in range(0, len(exchanges), size)]
        return [
            Call(
                [one.key for one in part],
                [self._node, *(encode_exchange(one.number, one.asks) for one in part)],
            )
            for part in parts
        ]

    def sweep(self) -> None:
        """See ``Store``: keys expire by themselves."""

    async def probe(self) -> None:
        """Lend from an account of nobody, past the breaker: raises what stands in the way of lending."""
        exchange = Exchange(
            f"{KEY_PREFIX}:probe", time.monotonic_ns() // 1000, [Ask("probe", Rate.of(1, 1), want=1, start=1)]
        )
        await self._run(self._borrow, self._calls([exchange]))


class MemoryStore:
    """Accounts of this process alone, for a gateway without Redis. The one given here asks nobody and is never away."""

    def __init__(self, *, node: str = "here") -> None:
        self.calls = 0
        self._node = node
        self._accounts: dict[str, Account] = {}

    async def lend(self, exchanges: Sequence[Exchange]) -> list[list[Given]]:
        """See ``Store``."""
        self.calls += 1
        now_us = time.monotonic_ns() // 1000
        return [
            self._accounts.setdefault(one.key, Account()).lend(self._node, one.number, one.asks, now_us=now_us)
            for one in exchanges
        ]

    def sweep(self) -> None:
        """Forget accounts that nobody would miss: full, and lent to nobody."""
        now_us = time.monotonic_ns() // 1000
        for key in [key for key, account in self._accounts.items() if account.is_idle(now_us=now_us)]:
            del self._accounts[key]
