"""Which Redis server takes writes for a key: one server, the master that sentinels name, or a cluster's by its slot."""

from __future__ import annotations

import asyncio
import bisect
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

SLOTS: Final = 16_384
ASKED_AT_ONCE: Final = 8
LATER_SECONDS: Final = 0.05
"""How long the other answers are waited for when the first is there: one that is frozen must not hold the rest."""

Answer = TypeVar("Answer")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``host:port``, IPv6 in brackets."""
    host, _, port = text.rpartition(":")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


class Topology(Protocol):
    """Who has what, as far as it is known now."""

    def server_of(self, key: str | bytes | None) -> Address | None:
        """The server of a key, or of nothing in particular; None: not known, look first."""
        ...

    def servers(self) -> Sequence[Address]:
        """All that take writes."""
        ...

    async def look(self) -> None:
        """Find out anew. Raises ConnectionError where nobody knows; what was known stays then."""
        ...

    def correct(self, slot: int, server: Address) -> None:
        """A server said that another one has this slot."""
        ...

    async def close(self) -> None:
        """Close what is asked."""
        ...


class OneServer:
    """There is one, and it is where it always was."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def server_of(self, key: str | bytes | None) -> Address:
        """See ``Topology``."""
        return self._address

    def servers(self) -> Sequence[Address]:
        """See ``Topology``."""
        return (self._address,)

    async def look(self) -> None:
        """See ``Topology``."""

    def correct(self, slot: int, server: Address) -> None:
        """See ``Topology``. Raises ConnectionError: only a cluster says so, and this was called a single server."""
        raise ConnectionError(f"the server at {self._address} is one of a cluster: redis.mode has to be cluster")

    async def close(self) -> None:
        """See ``Topology``."""


class Sentinels:
    """The master that sentinels watch under a name. All are asked; the latest election among their answers counts."""

    def __init__(self, service: str, sentinels: Mapping[Address, Redis]) -> None:
        self.answered = 0
        """How many sentinels answered when last they were asked."""
        self.asked = len(sentinels)
        self._service = service
        self._sentinels = sentinels
        self._master: Address | None = None

    def server_of(self, key: str | bytes | None) -> Address | None:
        """See ``Topology``."""
        return self._master

    def servers(self) -> Sequence[Address]:
        """See ``Topology``."""
        return () if self._master is None else (self._master,)

    async def look(self) -> None:
        """See ``Topology``."""
        found, problems = await first_answers(
            {address: self._ask(client, address) for address, client in self._sentinels.items()}
        )
        self.answered = len(found)
        if not found:
            raise ConnectionError(f"no sentinel names a master for {self._service!r}: {'; '.join(problems)}")
        self._master = max(found, key=lambda one: one[0])[1]

    async def _ask(self, client: Redis, address: Address) -> tuple[int, Address]:
        # Together: while a master is being replaced the address and the number of the election belong together.
        pipeline = client.pipeline(transaction=False)
        pipeline.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        pipeline.execute_command("SENTINEL", "MASTER", self._service)
        named, told = await pipeline.execute(raise_on_error=False)
        if named is None:
            raise ConnectionError(f"the sentinel at {address} watches no master of this name")
        for one in (named, told):
            if isinstance(one, Exception):
                raise one
        about = {_text(told[at]): told[at + 1] for at in range(0, len(told) - 1, 2)}
        return int(about.get("config-epoch", 0)), Address(_text(named[0]), int(named[1]))

    def correct(self, slot: int, server: Address) -> None:
        """See ``Topology``."""

    async def close(self) -> None:
        """See ``Topology``."""
        await asyncio.gather(*(client.aclose() for client in self._sentinels.values()), return_exceptions=True)


class Ranges(NamedTuple):
    """Slots by their owners: ``begins`` and ``ends`` in order, ``owners`` beside them."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    owners: tuple[Address, ...]
    replicas: frozenset[Address]

    def covered(self) -> int:
        """How many of the slots have an owner."""
        return sum(end - begin + 1 for begin, end in zip(self.begins, self.ends, strict=True))


class Cluster:
    """The map of a cluster's slots, as most of the servers that were asked tell it."""

    def __init__(self, start: Sequence[Address], server: Callable[[Address], Redis]) -> None:
        """``start``: who is asked first; ``server`` gives the connection to a server."""
        self._start = tuple(start)
        self._server = server
        self._ranges = Ranges((), (), (), frozenset())
        self._corrected: dict[int, Address] = {}

    def server_of(self, key: str | bytes | None) -> Address | None:
        """See ``Topology``."""
        ranges = self._ranges
        if key is None:
            return ranges.owners[0] if ranges.owners else None
        slot = slot_of(key)
        corrected = self._corrected.get(slot)
        if corrected is not None:
            return corrected
        at = bisect.bisect_right(ranges.begins, slot) - 1
        return ranges.owners[at] if at >= 0 and slot <= ranges.ends[at] else None

    def servers(self) -> Sequence[Address]:
        """See ``Topology``."""
        return tuple(dict.fromkeys((*self._ranges.owners, *self._corrected.values())))

    @property
    def replicas(self) -> frozenset[Address]:
        """Those that take no writes."""
        return self._ranges.replicas

    @property
    def covered(self) -> int:
        """How many slots have an owner."""
        return self._ranges.covered()

    async def look(self) -> None:
        """See ``Topology``."""
        problems: list[str] = []
        # Where those who have something are all away, somebody else may know who took over.
        for known in (self.servers(), {*self._start, *self._ranges.replicas} - set(self.servers())):
            asked = random.sample(sorted(known), min(ASKED_AT_ONCE, len(known)))
            found, wrong = await first_answers({address: self._ask(address) for address in asked})
            problems += wrong
            told = Counter(one for one in found if one.owners)
            if told:
                self._ranges = told.most_common(1)[0][0]
                self._corrected = {}
                return
        raise ConnectionError(f"no server tells how the cluster is laid out: {'; '.join(problems)}")

    async def _ask(self, address: Address) -> Ranges:
        told = await self._server(address).execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
        return parse_slots(told, asked=address)

    def correct(self, slot: int, server: Address) -> None:
        """See ``Topology``."""
        self._corrected[slot] = server

    async def close(self) -> None:
        """See ``Topology``."""


def parse_slots(told: Any, *, asked: Address) -> Ranges:
    """What ``CLUSTER SLOTS`` says. A server that names no host for one means the host that was asked."""
    rows = sorted(told, key=lambda row: int(row[0]))
    servers = [[Address(_text(one[0]) or asked.host, int(one[1])) for one in row[2:]] for row in rows]
    return Ranges(
        tuple(int(row[0]) for row in rows),
        tuple(int(row[1]) for row in rows),
        tuple(row[0] for row in servers),
        frozenset(replica for row in servers for replica in row[1:]),
    )


def slot_of(key: str | bytes) -> int:
    """The slot of a key, by the part of it in braces if there is one."""
    return int(key_slot(key.encode() if isinstance(key, str) else key))


async def first_answers(questions: Mapping[Address, Awaitable[Answer]]) -> tuple[list[Answer], list[str]]:
    """The answers that come soon after the first good one, and what was wrong with the others."""
    waiting = {asyncio.ensure_future(question): address for address, question in questions.items()}
    found: list[Answer] = []
    problems: list[str] = []
    pending = set(waiting)
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending,
                timeout=LATER_SECONDS if found else None,
                return_when=asyncio.ALL_COMPLETED if found else asyncio.FIRST_COMPLETED,
            )
            had = bool(found)
            for one in done:
                error = one.exception()
                if error is None:
                    found.append(one.result())
                elif isinstance(error, RedisError | OSError):
                    problems.append(f"{waiting[one]}: {error}")
                else:
                    raise error
            if had:
                break
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return found, problems


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
