"""Where limits are kept for all nodes together: scripts in Redis, many in one round trip; or this process's memory."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final, NamedTuple, Protocol

from redis.exceptions import NoScriptError

from gateway.limits.breaker import Away, Breaker
from gateway.limits.breakers import Breakers
from gateway.limits.bucket import Rate
from gateway.limits.lending import Account, Ask, Given, decode_given, encode_exchanges
from gateway.limits.parts import part_of, part_tag

COMMANDS: Final = ("EVALSHA", "EVAL", "GET", "SET", "TIME")
"""What lending asks of Redis, for an ACL user: ``+evalsha +eval +get +set +time``, on ``~gateway:limits:*``."""

KEY_PREFIX: Final = "gateway:limits:1"
SWEPT_AT_ONCE: Final = 1000
MOST_KEYS: Final = 50
"""So many accounts go into one call of the script: Redis does nothing else meanwhile."""


def tenant_tag(tenant: str) -> str:
    """A tenant in a key: its part in braces, so that all keys of a part share a slot, and a hash, so that no name
    leaves its key."""
    return f"{part_tag(part_of(tenant))}:{hashlib.sha256(tenant.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def name_tag(name: str) -> str:
    """A plan's, application's or stream's name in a key: a short hash."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def account_key(tenant: str, plan: str) -> str:
    """The key of what a tenant has left under a plan."""
    return f"{KEY_PREFIX}:account:{tenant_tag(tenant)}:{name_tag(plan)}"


class Script:
    """A Lua file beside this module. ``repeatable``: run twice with the same arguments it counts once.

    ``after``: a file that it goes on from.
    """

    def __init__(self, name: str, *, repeatable: bool = False, after: str | None = None) -> None:
        self.text = "".join(_read_lua(one) for one in (after, name) if one is not None)
        self.sha = hashlib.sha1(self.text.encode("utf-8"), usedforsecurity=False).hexdigest()
        self.repeatable = repeatable


def _read_lua(name: str) -> str:
    return resources.files("gateway.limits").joinpath("lua", f"{name}.lua").read_text("utf-8")


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

    async def lend(self, exchanges: Sequence[Exchange]) -> Sequence[list[Given] | Away]:
        """The answers, in order; Away in the place of one that nobody gave."""
        ...

    def sweep(self) -> None:
        """Forget here what nobody would miss."""
        ...


class Client(Protocol):
    """The link's: ``routed.Routed``, or the library's own for one server."""

    def pipeline(self, transaction: bool = False) -> Any:
        """Several commands in one round trip."""
        ...


class RedisStore:
    """Accounts in Redis. Keys hold hashes, all of them expire, and time is the server's.

    In a cluster, where ``breaker`` is several, what is of one part is asked together, beside the other parts.
    """

    def __init__(self, client: Client, breaker: Breaker | Breakers, *, node: str) -> None:
        self.breaker = breaker
        self.calls = 0
        self._client = client
        self._node = node
        self._borrow = Script("borrow", repeatable=True)

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run a script so many times in one round trip; the answers in order. Raises Away, and within 100 ms."""
        answers = await self.each(script, calls)
        for answer in answers:
            if isinstance(answer, Away):
                raise answer
        return answers

    async def each(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """As ``run``, with Away in the place of the answers that nobody gave."""
        self.calls += 1
        answers: list[Any] = [None] * len(calls)
        parts = self.apart([call.keys[0] for call in calls])
        asking = [self._ask(script, [calls[index] for index in indices]) for indices in parts]
        found = [await asking[0]] if len(asking) == 1 else await asyncio.gather(*asking)
        for indices, some in zip(parts, found, strict=True):
            for index, answer in zip(indices, some, strict=True):
                answers[index] = answer
        return answers

    def apart(self, keys: Sequence[str]) -> list[list[int]]:
        """The keys, by their place here, in groups of which one may be away while another is not."""
        parts: dict[Breaker, list[int]] = {}
        for index, key in enumerate(keys):
            parts.setdefault(self.breaker.of(key), []).append(index)
        return list(parts.values())

    async def _ask(self, script: Script, calls: Sequence[Call]) -> Sequence[Any]:
        try:
            return await self.breaker.of(calls[0].keys[0]).call(
                lambda: self._run(script, calls), repeatable=script.repeatable
            )
        except Away as error:
            return [error] * len(calls)

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

    async def lend(self, exchanges: Sequence[Exchange]) -> Sequence[list[Given] | Away]:
        """See ``Store``."""
        found: list[list[Given] | Away] = [Away()] * len(exchanges)
        parts = self.apart([one.key for one in exchanges])
        batches = [part[at : at + MOST_KEYS] for part in parts for at in range(0, len(part), MOST_KEYS)]
        calls = [self._call([exchanges[index] for index in batch]) for batch in batches]
        for batch, answer in zip(batches, await self.each(self._borrow, calls), strict=True):
            given: Sequence[list[Given] | Away] = (
                [answer] * len(batch) if isinstance(answer, Away) else decode_given(answer)
            )
            for index, one in zip(batch, given, strict=True):
                found[index] = one
        return found

    def _call(self, exchanges: Sequence[Exchange]) -> Call:
        return Call(
            [one.key for one in exchanges],
            [self._node, encode_exchanges((one.number, one.asks) for one in exchanges)],
        )

    def sweep(self) -> None:
        """See ``Store``: keys expire by themselves."""

    async def probe(self, part: int = 0) -> None:
        """Lend from an account of nobody, past the breaker: raises what stands in the way of lending in this part."""
        exchange = Exchange(
            f"{KEY_PREFIX}:probe:{part_tag(part)}",
            time.monotonic_ns() // 1000,
            [Ask("probe", Rate.of(1, 1), want=1, start=1)],
        )
        await self._run(self._borrow, [self._call([exchange])])


class MemoryStore:
    """Accounts of this process alone, for a gateway without Redis. The one given here asks nobody and is never away."""

    def __init__(self, *, node: str = "here") -> None:
        self.calls = 0
        self._node = node
        self._accounts: dict[str, Account] = {}
        self._unswept: list[str] = []

    async def lend(self, exchanges: Sequence[Exchange]) -> list[list[Given]]:
        """See ``Store``."""
        self.calls += 1
        now_us = time.monotonic_ns() // 1000
        return [
            self._accounts.setdefault(one.key, Account()).lend(self._node, one.number, one.asks, now_us=now_us)
            for one in exchanges
        ]

    def sweep(self) -> None:
        """Forget accounts that nobody would miss, being full and lent to nobody: of some, the others the next times."""
        now_us = time.monotonic_ns() // 1000
        self._unswept = self._unswept or list(self._accounts)
        some, self._unswept = self._unswept[:SWEPT_AT_ONCE], self._unswept[SWEPT_AT_ONCE:]
        for key in some:
            account = self._accounts.get(key)
            if account is not None and account.is_idle(now_us=now_us):
                del self._accounts[key]
