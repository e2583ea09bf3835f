"""What a change of access costs a node with many open streams: those it is about, beside all of them. No Kafka."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date

from gateway.auth.revocation import Revocation, Revocations
from gateway.catalog.catalog import Catalog
from gateway.catalog.contracts import Contracts
from gateway.errors import GatewayError
from gateway.hub.block import Slice
from gateway.model import Application, Entitlement, Grant, Plan, Principal, Product, Tenant, Transport
from gateway.subscription.encode import FRAMINGS
from gateway.subscription.request import ReadRequest
from gateway.subscription.shape import Shape
from gateway.subscription.watch import Watch
from gateway.transport.snapshot import Snapshot
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker
from tests.parts.source import FAR, NEVER, Engine, MemoryKafka, contract

OPEN = 10_000
TENANTS = (100, 5_000)
ROUNDS = 9
STREAM = contract("s", "t")
FREE = Plan("free", 1, "Free", "EUR", {"connections": 100})


def run(_: KafkaBroker, *, quick: bool) -> list[Row]:
    """Rounds for one tenant and rounds for everybody in turns, so that what else the machine does falls on both."""
    return asyncio.run(_rows(rounds=3 if quick else ROUNDS))


async def _rows(*, rounds: int) -> list[Row]:
    rows = [Row(f"**Access withdrawn** among {OPEN} open streams", "")]
    for tenants in TENANTS:
        rows += await _measure(tenants, rounds=rounds)
    return rows


async def _measure(tenants: int, *, rounds: int) -> list[Row]:
    node = _Node(tenants)
    await node.open()
    running = asyncio.create_task(node.watch.run())
    own, everybody, visited = [], [], []
    for number in range(rounds):
        # Another tenant each time, whose streams end; then something that touches all and ends nobody.
        took, looks = await node.round(revoked=number)
        own.append(took)
        visited.append(looks)
        took, looks = await node.round(titled=number)
        everybody.append(took)
        assert looks == len(node.engine.registry)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await node.close()
    each = OPEN // tenants
    ratios = [one / all_ for one, all_ in zip(own, everybody, strict=True)]
    among = f"{tenants} tenants with {each} streams each"
    return [
        Row(f"{among}: streams decided on anew for one tenant", f"{max(visited)}", f"= {each}", set(visited) == {each}),
        Row(f"{among}: ms CPU to end them", spread(own)),
        Row(f"{among}: the same ÷ deciding on all ({median(everybody):.0f} ms)", spread(ratios, digits=3)),
    ]


class _Silent:
    framing = FRAMINGS["ndjson"]
    paused = False
    on_resume: Callable[[], None] | None = None
    on_close: Callable[[], None] | None = None

    def write(self, piece: Slice) -> None: ...

    def say(self, data: bytes) -> None: ...

    def accepted_monotonic(self) -> float:
        return math.inf

    def unsent(self) -> int:
        return 0

    def finish(self, error: GatewayError | None) -> None: ...

    def abort(self) -> None: ...


class _Node:
    """An engine with a watch over its streams, and what may be read by whom."""

    def __init__(self, tenants: int) -> None:
        self._names = [f"t{number}" for number in range(tenants)]
        self._revoked: list[Revocation] = []
        self._plan = FREE
        self._now = self._moment()
        self.looks = 0
        kafka = MemoryKafka()
        kafka.create_topic("t")
        self.engine = Engine(kafka)
        self.watch = Watch(
            self.engine.registry,
            self._decide,
            moment=lambda: self._now,
            clock=self.engine.clock,
            wheel=self.engine.wheel,
        )

    def _decide(self, principal: Principal, stream: str, transport: Transport) -> Grant:
        self.looks += 1
        return self._now.grant(principal, stream, transport, now=self.engine.clock.now())

    def _moment(self) -> Snapshot:
        # Made anew as when it was loaded anew: nothing is the same object as before.
        catalog = Catalog.build(
            [Product("all", "All", ("s",))], [self._plan], map(_tenant, self._names), issuers=["idp"]
        )
        contracts = Contracts([STREAM])
        return replace(NEVER, contracts=contracts, catalog=catalog, revocations=Revocations(self._revoked))

    async def open(self) -> None:
        """Every stream, evenly over the tenants."""
        opening = await self.engine.openings.open(STREAM, ReadRequest())
        for name in self._names:
            for _ in range(OPEN // len(self._names)):
                principal = Principal("idp", f"{name}-app", "user", frozenset(), "token", FAR)
                self.engine.registry.subscribe(
                    opening,
                    self._now.grant(principal, "s", "ndjson", now=self.engine.clock.now()),
                    Shape(),
                    session=self.engine.registry.new_session(),
                    transport="ndjson",
                    outlet=_Silent(),
                )

    async def round(self, *, revoked: int | None = None, titled: int | None = None) -> tuple[float, int]:
        """Milliseconds of CPU until a change has been carried out, and how many streams it decided on anew."""
        if revoked is not None:
            self._revoked.append(Revocation("tenant", self._names[revoked], FAR))
        if titled is not None:
            self._plan = replace(self._plan, title=f"Free {titled}")
        self._now = self._moment()
        self.looks = 0
        began = time.thread_time()
        self.watch.ring()
        # Nothing to wait by: the round is one of the loop's turns after another, and each of them is what is measured.
        while self.watch.seen is not self._now:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return (time.thread_time() - began) * 1e3, self.looks

    async def close(self) -> None:
        """Give everything back."""
        for subscription in self.engine.registry.subscriptions():
            subscription.leave()
        await self.engine.hub.close()


def _tenant(name: str) -> Tenant:
    entitled = Entitlement(name, "all", "free", date(2020, 1, 1))
    return Tenant(
        name, name, "active", "UTC", {"region": "eu"}, (Application(f"{name}-app", name, "App"),), (entitled,)
    )
