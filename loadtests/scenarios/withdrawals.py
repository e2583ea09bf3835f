"""How soon access ends that is withdrawn: open streams of three protocols on two nodes, every kind of withdrawal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import yaml

from gateway.auth.revocation import Revocation
from gateway.auth.store import RevocationStore
from gateway.catalog.history import History
from gateway.config import load_settings
from gateway.config.adapters import database
from gateway.database.audit import Entry
from gateway.units import format_rfc3339, parse_rfc3339
from loadtests.machine import CLIENT_CORE, SERVER_CORE, on_core
from loadtests.readers import Protocol, request
from loadtests.table import Row
from tests.parts import postgres, redis
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, KafkaBroker
from tests.parts.redis import RedisServer

Phase = Literal["together", "redis-killed", "bell-lost"]
Outcome = tuple[str, int]
STREAMS: Final = 1000
PROTOCOLS: Final[tuple[Protocol, ...]] = ("sse", "ws", "ndjson")
BOUND_SECONDS: Final[dict[Phase, float]] = {"together": 5.0, "redis-killed": 30.0, "bell-lost": 5.0}
EXPIRY_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 60.0
ADMIN_TOKEN: Final = "an-operators-secret-of-some-length"
WITHDRAWN: Final[Outcome] = ("access_withdrawn", 4403)
INVALID: Final[Outcome] = ("token_invalid", 4401)
KINDS: Final[dict[str, Outcome]] = {
    "token revoked": INVALID,
    "subject revoked": INVALID,
    "application revoked": WITHDRAWN,
    "tenant revoked": WITHDRAWN,
    "tenant suspended": WITHDRAWN,
    "entitlement ended": WITHDRAWN,
    "contract retired": ("stream_ended", 4410),
    "contract wants a scope": WITHDRAWN,
    "token expired": ("token_expired", 4401),
}
PERSONAL: Final = ("token revoked", "subject revoked", "application revoked")
"""After these the tenant's other reads go on."""

STEADY: Final = "steady"
_GOODBYE: Final = re.compile(rb'goodbye.*?"code": ?"(\w+)", ?"close_code": ?(\d+)', re.DOTALL)
_KEPT_BYTES: Final = 8192


class NotWithdrawn(Exception):
    """A stream did not end, ended as another, or ended that was not to."""


@dataclass
class Read:
    """One open stream on a raw connection, and how it ended."""

    node: str
    protocol: Protocol
    outcome: Outcome | None = None
    ended_at: float = 0.0
    tail: bytes = b""
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, port: int, asking: bytes) -> None:
        """Read to the end of the stream, or of the connection before it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(asking)
            while not self._is_complete() and (data := await reader.read(65536)):
                self._take(data)
        except ConnectionError:
            # An end like any other; whether it was in order, the goodbye says.
            pass
        finally:
            writer.transport.abort()
            self.is_over.set()

    def _take(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-_KEPT_BYTES:]
        if not self.is_open.is_set() and (b"checkpoint" in self.tail or b"welcome" in self.tail):
            self.is_open.set()
        found = _GOODBYE.search(self.tail) if self.outcome is None else None
        if found is not None:
            self.ended_at = time.time()
            self.outcome = (found[1].decode(), int(found[2]))

    def _is_complete(self) -> bool:
        """Whether goodbye and the response's or the socket's own end are here."""
        if self.outcome is None:
            return False
        said = self.tail[self.tail.rindex(b"goodbye") :]
        return self.outcome[1].to_bytes(2, "big") in said if self.protocol == "ws" else said.endswith(b"0\r\n\r\n")

    def problem(self, wanted: Outcome) -> str | None:
        """What is wrong with how it ended, None where nothing is."""
        if self.outcome != wanted:
            return f"{self.protocol} on {self.node}: {self.outcome} instead of {wanted}"
        return None if self._is_complete() else f"{self.protocol} on {self.node}: cut after its goodbye"


@dataclass
class Group:
    """The reads that one withdrawal ends, and those beside them that it must not."""

    name: str
    kind: str
    phase: Phase
    ids: dict[str, str]
    affected: list[Read] = field(default_factory=list)
    beside: list[Read] = field(default_factory=list)
    expires_at: int = 0


@dataclass
class Result:
    """How long after the withdrawal the first and the last stream had their goodbye."""

    kind: str
    phase: Phase
    ended: int
    first_seconds: float
    last_seconds: float
    bound_seconds: float

    @property
    def is_met(self) -> bool:
        return self.last_seconds <= self.bound_seconds

    def row(self) -> Row:
        when = {"together": "", "redis-killed": ", Redis killed", "bell-lost": ", nobody rang"}[self.phase]
        measured = f"{self.ended} streams: {self.first_seconds:.2f} to {self.last_seconds:.2f} s"
        return Row(f"{self.kind}{when}: goodbye after", measured, f"≤ {self.bound_seconds:g} s", met=self.is_met)


class Fleet:
    """Two nodes on one Redis and one database, groups of readers, and an operator."""

    def __init__(
        self,
        kafka: Kafka,
        cache: RedisServer,
        folder: Path,
        *,
        database_url: str = "",
        kinds: Mapping[Phase, Sequence[str]],
        each: int,
    ) -> None:
        """``kinds`` of withdrawal by phase, in the phases' order; ``each``: reads of a group on each node and
        protocol."""
        self._kafka, self._redis, self._each = kafka, cache, each
        self.topic = f"withdrawals.{secrets.token_hex(4)}"
        self.groups = [
            Group(f"{phase}-{at}", kind, phase, {"jti": f"jti-{phase}-{at}", "sub": f"sub-{phase}-{at}"})
            for phase, wanted in kinds.items()
            for at, kind in enumerate(wanted)
        ]
        self.bystanders: list[Read] = []
        changing = [one.name for one in self.groups if one.kind.startswith("contract")]
        told = catalog([STEADY, *changing])
        for group in self.groups:
            applications = [{"client_id": f"{group.name}-{which}", "title": which} for which in ("app", "other")]
            told["tenants"].append({**told["tenants"][0], "name": group.name, "applications": applications})
        settings: dict[str, Any] = {
            "admin": {"port": 0, "tokens": [ADMIN_TOKEN]},
            "redis": {"url": cache.url},
            "auth": {"leeway_seconds": 0},
        } | ({"database": {"url": database_url}} if database_url else {})
        documents = [contract(name, self.topic, partitions=1) for name in (STEADY, *changing)]
        self.deployment = Deployment(folder, kafka.bootstrap, documents, told, settings)
        self.nodes = {name: GatewayProcess(self.deployment, name) for name in ("one", "two")}
        self._tasks: list[asyncio.Task[None]] = []
        self._catalog = asyncio.Lock()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Both nodes, ready; stopped at the end."""
        asyncio.run(self._kafka.create_topic(self.topic, 1))
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            try:
                list(pool.map(GatewayProcess.start, self.nodes.values()))
                yield
            finally:
                list(pool.map(GatewayProcess.stop, self.nodes.values()))

    async def open(self, *, bystanders: int, ttl_seconds: float) -> None:
        """Open everything; those whose token is to end last, ``ttl_seconds`` before its end."""
        self.bystanders = [self._read("acme-web", STEADY, at) for at in range(bystanders)]
        await self._opened(self.bystanders)
        for group in sorted(self.groups, key=lambda one: one.kind == "token expired"):
            stream = group.name if group.kind.startswith("contract") else STEADY
            claims: dict[str, Any] = dict(group.ids)
            if group.kind == "token expired":
                now = int(time.time())
                # Redis is away later in the run.
                group.expires_at = now + int(ttl_seconds * (2 if group.phase == "redis-killed" else 1))
                claims |= {"iat": now - 10, "exp": group.expires_at}
            count = self._each * len(PROTOCOLS) * len(self.nodes)
            group.affected = [self._read(f"{group.name}-app", stream, at, **claims) for at in range(count)]
            if group.kind in PERSONAL:
                client = f"{group.name}-{'other' if group.kind == 'application revoked' else 'app'}"
                group.beside = [self._read(client, stream, at) for at in range(len(PROTOCOLS) * len(self.nodes))]
            await self._opened(group.affected + group.beside)

    def _read(self, client_id: str, stream: str, at: int, **claims: Any) -> Read:
        names = list(self.nodes)
        read = Read(names[at % 2], PROTOCOLS[at // 2 % len(PROTOCOLS)])
        port = int(self.nodes[read.node].base_url.rpartition(":")[2])
        asking = request(stream, self.deployment.token(client_id, **claims), protocol=read.protocol)
        self._tasks.append(asyncio.create_task(read.run(port, asking)))
        return read

    async def _opened(self, reads: Sequence[Read]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for read in reads:
                await read.is_open.wait()

    async def close(self) -> None:
        """Let go of every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- withdrawing ---------------------------------------------------------------------------------------------

    async def withdraw(self, group: Group) -> Result:
        """Withdraw, and wait until each that it affects has ended as it has to. Raises NotWithdrawn."""
        done: dict[str, Callable[[Group], Awaitable[float]]] = {
            "token revoked": lambda one: self._revoke({"jti": one.ids["jti"]}),
            "subject revoked": lambda one: self._revoke({"sub": one.ids["sub"]}),
            "application revoked": lambda one: self._revoke({"client_id": f"{one.name}-app"}),
            "tenant revoked": self._revoke_tenant,
            "tenant suspended": self._suspend,
            "entitlement ended": self._end_entitlement,
            "contract retired": lambda one: self._change_contract(one, lifecycle="retired"),
            "contract wants a scope": lambda one: self._change_contract(one, scopes=["streams:read", "more:read"]),
            "token expired": self._wait_for_the_end,
        }
        began = await done[group.kind](group)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                for read in group.affected:
                    await read.is_over.wait()
        wrong = [problem for one in group.affected if (problem := one.problem(KINDS[group.kind])) is not None]
        wrong += [f"beside it: {one.outcome}" for one in group.beside if one.is_over.is_set()]
        if wrong:
            raise NotWithdrawn(f"{group.kind} ({group.phase}): {len(wrong)} wrong, first: {wrong[:3]}")
        took = [max(0.0, one.ended_at - began) for one in group.affected]
        bound = EXPIRY_SECONDS if group.kind == "token expired" else BOUND_SECONDS[group.phase]
        return Result(group.kind, group.phase, len(took), min(took), max(took), bound)

    async def _admin(self, method: str, path: str, body: dict[str, str]) -> float:
        """Ask node one; returns when that was, before the request left."""
        began = time.time()
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            answer = await client.request(method, f"{self.nodes['one'].admin_url}{path}", headers=headers, json=body)
        answer.raise_for_status()
        return began

    async def _revoke(self, what: dict[str, str]) -> float:
        return await self._admin("POST", "/admin/revocations", what)

    async def _revoke_tenant(self, group: Group) -> float:
        if group.phase != "bell-lost":
            return await self._revoke({"tenant": group.name})
        # As by a node that ends between its commit and the bell: the database says it, and nobody has heard.
        began = time.time()
        await asyncio.to_thread(self._write_revocation, group.name)
        return began

    def _write_revocation(self, tenant: str) -> None:
        now = time.time()
        entry = Entry(format_rfc3339(round(now * 1000)), "loadtest", "revocation.add", f"tenant:{tenant}")
        with contextlib.closing(database(self._settings())) as opened:
            RevocationStore(opened).add(Revocation("tenant", tenant, now + 3600), now=now, audit=entry)

    def _settings(self) -> Any:
        return load_settings(Path(self.deployment.options("operator")[1]), environ={}, overrides={})

    async def _suspend(self, group: Group) -> float:
        return await self._admin("PUT", f"/admin/tenants/{group.name}", {"status": "suspended"})

    async def _end_entitlement(self, group: Group) -> float:
        async with self._catalog:
            path = self.deployment.directory / "catalog.yaml"
            document = yaml.safe_load(path.read_text())
            (tenant,) = [one for one in document["tenants"] if one["name"] == group.name]
            tenant["entitlements"] = [{**tenant["entitlements"][0], "to": date.today() - timedelta(days=2)}]
            path.write_text(yaml.safe_dump(document, sort_keys=False))
            running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "apply", *self.deployment.options("operator"), str(path),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said, _ = await running.communicate()
            if running.returncode != 0:
                raise NotWithdrawn(said.decode())
            return await asyncio.to_thread(self._last_change)

    def _last_change(self) -> float:
        """When the apply wrote, by its own clock: starting the command is not the gateways' time."""
        with contextlib.closing(database(self._settings())) as opened:
            steps = History(opened).read(limit=20)
        return parse_rfc3339(next(one.at for one in steps if one.action == "apply")) / 1000

    async def _change_contract(self, group: Group, **members: Any) -> float:
        path = self.deployment.directory / "asyncapi" / "streams" / f"{group.name}.yaml"
        document = yaml.safe_load(path.read_text())
        document["channels"][group.name]["x-gateway"] |= members
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        began = time.time()
        for node in self.nodes.values():
            node.signal(signal.SIGHUP)
        return began

    async def _wait_for_the_end(self, group: Group) -> float:
        early = [one for one in group.affected if one.is_over.is_set() and one.ended_at < group.expires_at]
        if early:
            raise NotWithdrawn(f"{len(early)} ended before their token")
        return float(group.expires_at)

    async def check_bystanders(self) -> int:
        """Nobody else has ended: each of them gets the next record. Returns how many they are."""
        mark = secrets.token_hex(8)
        await self._kafka.produce(self.topic, [json.dumps({"mark": mark}).encode()])
        others = [*self.bystanders, *(read for group in self.groups for read in group.beside)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            for read in others:
                while mark.encode() not in read.tail:
                    if read.is_over.is_set():
                        raise NotWithdrawn(f"a bystander on {read.node} ended: {read.protocol}, {read.outcome}")
                    await asyncio.sleep(0.02)
        return len(others)


@contextlib.asynccontextmanager
async def reading(fleet: Fleet, *, bystanders: int, ttl_seconds: float) -> AsyncIterator[None]:
    """Every stream open."""
    try:
        await fleet.open(bystanders=bystanders, ttl_seconds=ttl_seconds)
        yield
    finally:
        await fleet.close()


async def measure(
    fleet: Fleet, cache: RedisServer, *, bystanders: int, ttl_seconds: float, at_once: bool = False
) -> tuple[list[Result], int]:
    """Every withdrawal of every phase: one after the other, or all of a phase ``at_once``. And who was untouched."""
    results: list[Result] = []
    async with reading(fleet, bystanders=bystanders, ttl_seconds=ttl_seconds):
        # Whose token ends, ends whatever the operator does meanwhile.
        ending = {
            group.phase: asyncio.create_task(fleet.withdraw(group))
            for group in fleet.groups
            if group.kind == "token expired"
        }
        for phase in dict.fromkeys(group.phase for group in fleet.groups):
            groups = [one for one in fleet.groups if one.phase == phase and one.kind != "token expired"]
            if phase == "redis-killed":
                cache.kill()
            if at_once:
                results += await asyncio.gather(*(fleet.withdraw(group) for group in groups))
            else:
                for group in groups:
                    results.append(await fleet.withdraw(group))
                    print(f"withdrawals: {results[-1].row().name} {results[-1].row().measured}", flush=True)
            if phase in ending:
                results.append(await ending[phase])
            if phase == "redis-killed":
                cache.start()
        untouched = await fleet.check_bystanders()
    return results, untouched


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """1 000 streams, each withdrawal with Redis, without it, and where the bell is lost."""
    everything = list(KINDS)
    kinds: dict[Phase, list[str]] = {
        "together": everything,
        "bell-lost": ["tenant revoked"],
        "redis-killed": everything,
    }
    each = 1 if quick else 7
    with redis.server() as cache, postgres.server() as server, tempfile.TemporaryDirectory() as folder:
        url = server.create_database()
        fleet = Fleet(running, cache, Path(folder) / "d", database_url=url, kinds=kinds, each=each)
        taken = sum(each * 6 + (6 if group.kind in PERSONAL else 0) for group in fleet.groups)
        bystanders = 12 if quick else STREAMS - taken
        with on_core(SERVER_CORE), fleet.running(), on_core(CLIENT_CORE):
            measured = measure(fleet, cache, bystanders=bystanders, ttl_seconds=8 if quick else 15)
            results, untouched = asyncio.run(measured)
    rows = [Row(f"**Withdrawals** among {taken + bystanders} open streams on two nodes", "")]
    rows += [result.row() for result in results]
    return [*rows, Row("streams that no withdrawal was about, open at the end", f"{untouched} of {untouched}")]
