"""One client for all who use Redis: each command goes to the server that has its key, wherever that is now."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.commands import AsyncCoreCommands
from redis.event import EventDispatcher
from redis.exceptions import AskError, MovedError, RedisError, ResponseError

from gateway.limits.topology import Address, Topology

log = logging.getLogger("gateway.limits")

LOOK_SECONDS: Final = 0.2
"""After a fault it is looked anew who has what, at most so often."""

_CHANGED: Final = ("READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK")
"""What a server says that has lost its part, in whatever else a script's error has around it."""

_KEY_AT: Final = {"EVAL": 3, "EVALSHA": 3}
_KEYLESS: Final = frozenset(
    {"PING", "FLUSHALL", "FLUSHDB", "SCAN", "KEYS", "CONFIG", "INFO", "DBSIZE", "SCRIPT", "ACL"}
)


class Routed(AsyncCoreCommands):
    """Commands of one key. None is sent twice, but where a server said that it has not done it: the key is elsewhere.

    A fault is raised to whoever asked, and remembered: who has what is then found out anew beside, so that a failover
    mends itself without a restart. Connections to a server that has no place any more are closed, under readers too.
    """

    def __init__(self, topology: Topology, connect: Callable[[Address], Redis]) -> None:
        self._topology = topology
        self._connect = connect
        self._event_dispatcher = EventDispatcher()
        self._servers: dict[Address, Redis] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    # ---- servers ---------------------------------------------------------------------------------------------------

    def server(self, address: Address) -> Redis:
        """The connections to one server."""
        client = self._servers.get(address)
        if client is None:
            client = self._servers[address] = self._connect(address)
        return client

    async def _server_of(self, key: str | bytes | None) -> Address:
        self._is_closed = False
        found = self._topology.server_of(key)
        if found is None:
            await self.look()
            found = self._topology.server_of(key)
        if found is None:
            raise ConnectionError("no server has the slot of this key")
        return found

    async def look(self) -> None:
        """Find out who has what; whoever asks meanwhile gets the same answer. Raises ConnectionError."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._looked_at:
            await asyncio.sleep(max(0.0, self._looked_at + LOOK_SECONDS - loop.time()))
        self._looked_at = loop.time()
        try:
            await self._topology.look()
        finally:
            self._looked_at = loop.time()
        present = set(self._topology.servers())
        for address in self._servers.keys() - present:
            self._drop(address)

    def _looked(self, looking: asyncio.Task[None]) -> None:
        self._looking = None
        if not looking.cancelled() and (error := looking.exception()) is not None:
            # Whoever waits is told as well. The prober says, once, that Redis is away.
            log.debug("it is not known which server has what: %s", error)

    def _suspect(self, address: Address, error: BaseException) -> None:
        """Perhaps another server has taken over."""
        told = str(error)
        if isinstance(error, ResponseError) and not any(word in told for word in _CHANGED):
            # The server is there and has its part; what it says is about the command.
            return
        if "READONLY" in told:
            # It is a master no more, and its connections would stay with it for ever. A name may stand for another now.
            self._drop(address)
        if self._looking is None and not self._is_closed:
            # Who was still asking when all was closed is no reason to begin anew.
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(self._looked)

    def _drop(self, address: Address) -> None:
        client = self._servers.pop(address, None)
        if client is not None:
            closing = asyncio.ensure_future(_close(client))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    # ---- commands --------------------------------------------------------------------------------------------------

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        """What the server answers. Raises RedisError, OSError."""
        address = await self._server_of(_key_of(words))
        try:
            return await self.server(address).execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except (MovedError, AskError) as error:
            return await self._elsewhere(address, error, words)
        except (RedisError, OSError, asyncio.CancelledError) as error:
            # Also where whoever asked has no more time: a frozen server says nothing at all.
            self._suspect(address, error)
            raise

    async def _elsewhere(self, asked: Address, error: AskError, words: Sequence[Any]) -> Any:
        """Once more, where the server said: it has done nothing itself."""
        address = Address(error.host or asked.host, int(error.port))
        has_moved = isinstance(error, MovedError)
        if has_moved:
            self._topology.correct(error.slot_id, address)
            # More may have moved than this one.
            self._suspect(asked, error)
        pipeline = self.server(address).pipeline(transaction=False)
        if not has_moved:
            pipeline.execute_command("ASKING")
        pipeline.execute_command(*words)
        try:
            answer = (await pipeline.execute(raise_on_error=False))[-1]
        except (RedisError, OSError) as broken:
            self._suspect(address, broken)
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pipeline(self, transaction: bool = False) -> RoutedPipeline:
        """Several commands in one round trip to each server that has some of their keys. There are no transactions."""
        if transaction:
            raise ValueError("keys of different servers know no transaction: use a script")
        return RoutedPipeline(self)

    async def execute_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers in order, each of which may be an exception."""
        answers: list[Any] = [None] * len(commands)
        by_server: dict[Address, list[int]] = {}
        for index, words in enumerate(commands):
            try:
                address = await self._server_of(_key_of(words))
            except (RedisError, OSError) as error:
                answers[index] = error
            else:
                by_server.setdefault(address, []).append(index)
        if len(by_server) == 1:
            for address, indices in by_server.items():
                await self._execute_some(address, commands, indices, answers)
        elif by_server:
            await asyncio.gather(
                *(self._execute_some(address, commands, indices, answers) for address, indices in by_server.items())
            )
        return answers

    async def _execute_some(
        self, address: Address, commands: Sequence[Sequence[Any]], indices: list[int], answers: list[Any]
    ) -> None:
        pipeline = self.server(address).pipeline(transaction=False)
        for index in indices:
            pipeline.execute_command(*commands[index])
        try:
            found = await pipeline.execute(raise_on_error=False)
        except asyncio.CancelledError as error:
            self._suspect(address, error)
            raise
        except (RedisError, OSError) as error:
            self._suspect(address, error)
            found = [error] * len(indices)
        for index, answer in zip(indices, found, strict=True):
            if isinstance(answer, MovedError | AskError):
                try:
                    answers[index] = await self._elsewhere(address, answer, commands[index])
                except (RedisError, OSError) as error:
                    answers[index] = error
                continue
            if isinstance(answer, Exception):
                self._suspect(address, answer)
            answers[index] = answer

    @asynccontextmanager
    async def pubsub(self, *, near: str | None = None, **options: Any) -> AsyncIterator[PubSub]:
        """Channels at the server that has the key ``near``; in a cluster any server passes on what is published."""
        address = await self._server_of(near)
        async with self.server(address).pubsub(**options) as channels:
            try:
                yield channels
            except (RedisError, OSError) as error:
                self._suspect(address, error)
                raise

    async def aclose(self) -> None:
        """Close all connections; used again it opens new ones."""
        self._is_closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for address in list(self._servers):
            self._drop(address)
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._topology.close()


class RoutedPipeline:
    """Commands put together, as the library's own pipeline has it."""

    def __init__(self, routed: Routed) -> None:
        self._routed = routed
        self._commands: list[tuple[Any, ...]] = []

    def execute_command(self, *words: Any) -> RoutedPipeline:
        """Add one."""
        self._commands.append(words)
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send them all; the answers in order. All have been sent when the first error among them is raised."""
        commands, self._commands = self._commands, []
        answers = await self._routed.execute_all(commands)
        if raise_on_error:
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers


def _key_of(words: Sequence[Any]) -> str | bytes | None:
    """The key of a command as the gateway's users of Redis write them; None: it has none."""
    command = str(words[0]).partition(" ")[0].upper()
    if command in _KEYLESS:
        return None
    at = _KEY_AT.get(command, 1)
    key = words[at] if len(words) > at else None
    return key if isinstance(key, str | bytes) else None


async def _close(client: Redis) -> None:
    with contextlib.suppress(RedisError, OSError):
        await client.aclose()
