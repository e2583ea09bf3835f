"""What is open is decided on again when it has to be, and only then: whose access changed, and nobody else's."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from gateway.auth.reach import Reach
from gateway.auth.revocation import Kind, Revocation, Revocations
from gateway.catalog.catalog import Catalog
from gateway.catalog.contracts import Contracts
from gateway.clock import Clock, ManualClock
from gateway.errors import AccessWithdrawn, GatewayError, Internal, StreamEnded, TokenInvalid
from gateway.hub.block import Slice
from gateway.model import (
    Application,
    Contract,
    Entitlement,
    Grant,
    Plan,
    Principal,
    Product,
    Tenant,
    Transport,
)
from gateway.subscription.encode import FRAMINGS
from gateway.subscription.request import ReadRequest
from gateway.subscription.sessions import Sessions
from gateway.subscription.shape import Shape
from gateway.subscription.subscription import Subscription
from gateway.subscription.watch import BATCH, Watch
from gateway.transport.gate import Gate
from gateway.transport.snapshot import Snapshot
from tests.parts.serving import until
from tests.parts.source import FAR, NEVER, Engine, MemoryKafka, contract

PLAIN = replace(contract("plain", "t.plain"), visibility="entitled")
OTHER = replace(contract("other", "t.other"), visibility="entitled")
FREE = Plan("free", 1, "Free", "EUR", {"connections": 2})
STREAMS_EACH = 3


def tenants_of(count: int, **changes: Mapping[str, Any]) -> list[Tenant]:
    """``t0`` … as their files say, with what ``changes`` says of single ones."""
    return [replace(tenant_of(name), **changes.get(name, {})) for name in (f"t{at}" for at in range(count))]


def tenant_of(name: str) -> Tenant:
    applications = (Application(f"{name}-web", name, "Web"), Application(f"{name}-job", name, "Job"))
    return Tenant(name, name, "active", "UTC", {"region": 1}, applications, (entitled(name),))


def entitled(tenant: str, *, plan: str = "free", end: date | None = None) -> Entitlement:
    return Entitlement(tenant, "all", plan, date(2020, 1, 1), end)


def catalog_of(
    tenants: list[Tenant], *, plans: tuple[Plan, ...] = (FREE,), streams: tuple[str, ...] = ("plain", "other")
) -> Catalog:
    return Catalog.build([Product("all", "All", streams)], plans, tenants, issuers=["idp"])


def moment(catalog: Catalog, *revoked: Revocation, contracts: tuple[Contract, ...] = (PLAIN, OTHER)) -> Snapshot:
    return replace(NEVER, contracts=Contracts(contracts), catalog=catalog, revocations=Revocations(revoked))


class Silent:
    """A client of which only the end matters."""

    framing = FRAMINGS["ndjson"]
    paused = False
    on_resume: Callable[[], None] | None = None
    on_close: Callable[[], None] | None = None
    said = b""

    def write(self, piece: Slice) -> None:
        self.say(piece.body)

    def say(self, data: bytes) -> None:
        self.said += data

    def accepted_monotonic(self) -> float:
        return 0.0

    def unsent(self) -> int:
        return 0

    def finish(self, error: GatewayError | None) -> None: ...

    def abort(self) -> None: ...


@dataclass
class Post:
    """A node with open streams and a watch over them, whose decisions are counted by tenant."""

    engine: Engine
    now: Snapshot
    decided: Counter[str]
    watch: Watch

    def decide(self, principal: Principal, stream: str, transport: Transport) -> Grant:
        found = self.now.catalog.application(principal.issuer, principal.client_id)
        self.decided[found[0].name if found is not None else "nobody"] += 1
        return self.now.grant(principal, stream, transport, now=self.engine.clock.now())

    async def open(self, client_id: str, *, stream: str = "plain", **claims: Any) -> Subscription:
        principal = Principal(
            "idp", client_id, claims.pop("sub", "user"), frozenset(), claims.pop("jti", "token"), FAR, claims
        )
        granted = self.now.grant(principal, stream, "ndjson", now=self.engine.clock.now())
        opening = await self.engine.openings.open(granted.contract, ReadRequest())
        return self.engine.registry.subscribe(
            opening,
            granted,
            Shape(),
            session=self.engine.registry.new_session(),
            transport="ndjson",
            outlet=Silent(),
        )

    async def change(self, now: Snapshot) -> Counter[str]:
        """Let this be what holds, and return on how many reads of whom was decided."""
        self.decided.clear()
        self.now = now
        self.watch.ring()
        await self.settled()
        return self.decided

    async def settled(self) -> None:
        await until(lambda: self.watch.seen is self.now, within_seconds=60)


@asynccontextmanager
async def post(now: Snapshot, *, clock: Clock | None = None) -> AsyncIterator[Post]:
    kafka = MemoryKafka()
    for topic in ("t.plain", "t.other"):
        kafka.create_topic(topic)
    engine = Engine(kafka, clock=clock)
    made: list[Post] = []
    watch = Watch(
        engine.registry,
        lambda principal, stream, transport: made[0].decide(principal, stream, transport),
        moment=lambda: made[0].now if made else now,
        clock=engine.clock,
        wheel=engine.wheel,
    )
    made.append(Post(engine, now, Counter(), watch))
    running = asyncio.create_task(watch.run())
    try:
        yield made[0]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for subscription, _ in engine.registry.made:
            subscription.leave()
        await engine.hub.close()


async def test_a_change_of_one_tenant_among_ten_thousand_streams_visits_its_own_alone() -> None:
    tenants = 100
    async with post(moment(catalog_of(tenants_of(tenants)))) as p:
        first = await p.open("t0-web")
        opening = await p.engine.openings.open(first.grant.contract, ReadRequest())
        for at in range(tenants):
            held = (await p.open(f"t{at}-web")).grant
            for _ in range(99):
                p.engine.registry.subscribe(
                    opening,
                    held,
                    Shape(),
                    session=p.engine.registry.new_session(),
                    transport="ndjson",
                    outlet=Silent(),
                )
        assert len(p.engine.registry) == 10_001
        revoked = Revocation("tenant", "t7", FAR)
        same = catalog_of(tenants_of(tenants))
        assert await p.change(moment(same, revoked)) == {"t7": 100}
        assert len(p.engine.registry) == 10_001 - 100
        suspended = catalog_of(tenants_of(tenants, t8={"status": "suspended"}))
        assert await p.change(moment(suspended, revoked)) == {"t8": 100}
        assert len(p.engine.registry) == 10_001 - 200
        assert await p.change(moment(suspended, revoked)) == {}, "the same again touches nobody"


CHANGES: dict[str, tuple[Callable[[], Snapshot], type[GatewayError] | None]] = {
    "its status": (lambda: moment(catalog_of(tenants_of(3, t1={"status": "suspended"}))), AccessWithdrawn),
    "its application is gone": (
        lambda: moment(catalog_of(tenants_of(3, t1={"applications": tenant_of("t1").applications[:1]}))),
        AccessWithdrawn,
    ),
    "its entitlement is gone": (lambda: moment(catalog_of(tenants_of(3, t1={"entitlements": ()}))), AccessWithdrawn),
    "its entitlement is over": (
        lambda: moment(catalog_of(tenants_of(3, t1={"entitlements": (entitled("t1", end=date(2021, 1, 1)),)}))),
        AccessWithdrawn,
    ),
    "its plan": (
        lambda: moment(
            catalog_of(
                tenants_of(3, t1={"entitlements": (entitled("t1", plan="pro"),)}),
                plans=(FREE, replace(FREE, name="pro")),
            )
        ),
        None,
    ),
    "an attribute that Python takes for the same": (
        lambda: moment(catalog_of(tenants_of(3, t1={"attributes": {"region": True}}))),
        None,
    ),
    "the tenant itself is gone": (lambda: moment(catalog_of([tenant_of("t0"), tenant_of("t2")])), AccessWithdrawn),
    "revoked as a tenant": (
        lambda: moment(catalog_of(tenants_of(3)), Revocation("tenant", "t1", FAR)),
        AccessWithdrawn,
    ),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_what_is_said_of_a_tenant_reaches_its_reads_and_no_others(what: str) -> None:
    make, error = CHANGES[what]
    async with post(moment(catalog_of(tenants_of(3)))) as p:
        reads = {name: await p.open(f"{name}-job") for name in ("t0", "t1", "t2")}
        decided = await p.change(make())
        assert set(decided) <= {"t1", "nobody"} and decided.total() == 1, decided
        ended = reads["t1"].ended
        assert isinstance(ended, error) if error is not None else ended is False
        assert [reads[name].ended for name in ("t0", "t2")] == [False, False]
        assert reads["t1"].grant.plan.name == ("pro" if what == "its plan" else "free")


@pytest.mark.parametrize(
    ("kind", "value", "issuer", "error"),
    [
        ("jti", "their-token", None, TokenInvalid),
        ("sub", "them", None, TokenInvalid),
        ("sub", "them", "idp", TokenInvalid),
        ("client_id", "t1-job", "idp", AccessWithdrawn),
    ],
)
async def test_who_is_revoked_in_person_is_found_wherever_he_reads(
    kind: Kind, value: str, issuer: str | None, error: type[GatewayError]
) -> None:
    async with post(moment(catalog_of(tenants_of(3)))) as p:
        theirs = [await p.open("t1-job", sub="them", jti="their-token", stream=name) for name in ("plain", "other")]
        others = [await p.open(f"{name}-web") for name in ("t0", "t1", "t2")]
        revoked = Revocation(kind, value, FAR, issuer)
        assert await p.change(moment(catalog_of(tenants_of(3)), revoked)) == {"t1": 2}
        assert all(isinstance(one.ended, error) for one in theirs)
        assert not any(one.ended for one in others)
        foreign = Revocation(kind, value, FAR, "another-idp")
        assert await p.change(moment(catalog_of(tenants_of(3)), revoked, foreign)) == {}


async def test_a_contract_that_changed_reaches_the_reads_of_its_stream() -> None:
    catalog = catalog_of(tenants_of(2))
    async with post(moment(catalog)) as p:
        plain = [await p.open(f"t{at}-web") for at in range(2)]
        other = await p.open("t0-web", stream="other")
        retired = replace(PLAIN, lifecycle="retired")
        assert await p.change(moment(catalog, contracts=(retired, OTHER))) == {"t0": 1, "t1": 1}
        assert all(isinstance(one.ended, StreamEnded) for one in plain)
        assert other.ended is False


async def test_a_product_or_a_plan_reaches_every_tenant_that_has_it() -> None:
    async with post(moment(catalog_of(tenants_of(2)))) as p:
        reads = [await p.open(f"t{at}-web", stream="other") for at in range(2)]
        second = replace(FREE, revision=2, limits={"connections": 9})
        assert await p.change(moment(catalog_of(tenants_of(2), plans=(FREE, second)))) == {"t0": 1, "t1": 1}
        assert [one.grant.plan.revision for one in reads] == [2, 2]
        less = catalog_of(tenants_of(2), plans=(FREE, second), streams=("plain",))
        assert await p.change(moment(less)) == {"t0": 1, "t1": 1}
        assert all(isinstance(one.ended, AccessWithdrawn) for one in reads)


async def test_an_application_that_moved_is_found_under_its_new_tenant() -> None:
    def moved(status: str) -> Catalog:
        job = Application("t0-job", "t1", "Job")
        first, second = tenant_of("t0"), tenant_of("t1")
        return catalog_of(
            [
                replace(first, applications=first.applications[:1]),
                replace(second, applications=(*second.applications, job), status=status),  # type: ignore[arg-type]
            ]
        )

    async with post(moment(catalog_of(tenants_of(2)))) as p:
        read = await p.open("t0-job")
        await p.change(moment(moved("active")))
        assert (read.ended, read.grant.tenant) == (False, "t1")
        assert p.engine.registry.roster.tenants() == ["t1"]
        assert await p.change(moment(moved("suspended"))) == {"t1": 1}
        assert isinstance(read.ended, AccessWithdrawn)
        assert (len(p.engine.registry), p.engine.registry.roster.tenants()) == (0, [])


async def test_changes_during_a_long_round_are_found_by_the_next() -> None:
    """More tenants than one turn takes: the second change comes while the first is being looked for."""
    count = 2 * BATCH + 10
    async with post(moment(catalog_of(tenants_of(count)))) as p:
        reads = [await p.open(f"t{at}-web") for at in range(count)]
        last = f"t{count - 1}"
        first = moment(catalog_of(tenants_of(count, **{last: {"status": "suspended"}})))
        p.now = first
        p.watch.ring()
        await asyncio.sleep(0)
        p.now = moment(catalog_of(tenants_of(count, t0={"status": "suspended"}, **{last: {"status": "suspended"}})))
        p.watch.ring()
        await p.settled()
        assert [at for at, one in enumerate(reads) if one.ended] == [0, count - 1]


async def test_who_has_a_next_entitlement_goes_on_under_it_when_it_begins_and_the_others_end() -> None:
    pro = replace(FREE, name="pro")
    turn = datetime(2030, 1, 1, tzinfo=UTC)
    first = {name: entitled(name, end=turn.date()) for name in ("t0", "t1", "t2")}
    following = {
        name: (Entitlement(name, "all", "pro", date(2030, 1, day), date(2031, 1, 1)),)
        for name, day in (("t1", 1), ("t2", 2))
    }
    until_then: dict[str, Mapping[str, Any]] = {
        name: {"entitlements": (one, *following.get(name, ()))} for name, one in first.items()
    }
    clock = ManualClock(now=turn.timestamp() - 3600)
    async with post(moment(catalog_of(tenants_of(4, **until_then), plans=(FREE, pro))), clock=clock) as p:
        reads = [await p.open(f"t{at}-web") for at in range(4)]
        await asyncio.sleep(0)

        def pass_time(seconds: float) -> None:
            clock.advance(seconds)
            p.engine.wheel.advance()

        pass_time(3599)
        await asyncio.sleep(0)
        assert [(one.ended, one.grant.plan.name) for one in reads] == [(False, "free")] * 4
        p.decided.clear()
        for _ in range(20):
            pass_time(0.1)
        await until(lambda: reads[1].grant.plan.name == "pro", within_seconds=60)
        assert [type(one.ended) for one in reads] == [AccessWithdrawn, bool, AccessWithdrawn, bool]
        assert p.decided == {"t1": 1}, "a day without any is an end, and whom it is not about nobody asks"
        assert reads[1].grant.entitled_until == datetime(2031, 1, 1, tzinfo=UTC).timestamp()


async def test_one_that_cannot_be_decided_on_ends_and_the_others_are_looked_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with post(moment(catalog_of(tenants_of(2)))) as p:
        reads = [await p.open(f"t{at}-web") for at in range(2)]
        decide = p.decide

        def broken(principal: Principal, stream: str, transport: Transport) -> Grant:
            if principal.client_id == "t0-web":
                raise ZeroDivisionError("a bug in a rule")
            return decide(principal, stream, transport)

        p.decide = broken  # type: ignore[method-assign]
        with caplog.at_level(logging.ERROR, "gateway.subscription"):
            suspended: dict[str, Mapping[str, Any]] = {f"t{at}": {"status": "suspended"} for at in range(2)}
            await p.change(moment(catalog_of(tenants_of(2, **suspended))))
        assert [type(one.ended) for one in reads] == [Internal, AccessWithdrawn]
        assert caplog.records


async def test_what_was_withdrawn_while_a_read_was_on_its_way_in_is_found_when_it_is_there() -> None:
    """The round has passed by before the read is known: nobody would look at it again."""
    async with post(moment(catalog_of(tenants_of(2)))) as p:
        gate = Gate(
            snapshot=lambda: p.now,
            openings=p.engine.openings,
            registry=p.engine.registry,
            sessions=Sessions(p.engine.registry, p.watch, others=None),
            tickets=None,  # type: ignore[arg-type]
            counters=p.engine.counters,
            clock=p.engine.clock,
            public_url=lambda: "http://gateway.example",
        )
        granted = (await p.open("t1-web")).grant
        opening = await p.engine.openings.open(granted.contract, ReadRequest())
        await p.change(moment(catalog_of(tenants_of(2, t1={"status": "suspended"}))))
        scope: dict[str, Any] = {"state": {"access_fields": {}}}
        late = gate.subscribe(scope, opening, granted, Shape(), session="late", transport="ndjson", outlet=Silent())
        assert isinstance(late.ended, AccessWithdrawn)
        assert p.engine.registry.session("late") is None


def test_another_list_of_issuers_reaches_everybody() -> None:
    """An application that names none belongs to the only one: with a second it belongs to nobody."""
    one = catalog_of(tenants_of(1))
    two = Catalog.build(one.products, one.plans, one.tenants, issuers=["idp", "second"])
    assert Reach(moment(one), moment(two)).takes_in_tenant("t0")
    assert not Reach(moment(one), moment(catalog_of(tenants_of(1)))).takes_in_tenant("t0")
