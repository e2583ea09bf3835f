"""The ledger seen by people, put together when it is old, and proved by evidence; on SQLite and Postgres."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.clock import ManualClock
from gateway.counters import Counters
from gateway.database.audit import AuditLog
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.errors import Unavailable
from gateway.metering.audit import Delivery, DeliveryAudit, ranges
from gateway.metering.audit_store import AuditStore
from gateway.metering.chores import UsageChores
from gateway.metering.drifts import Drifts
from gateway.metering.ledger import Ledger, Place, UnreadTopic
from gateway.metering.process_check import Hour, ProcessCheck
from gateway.metering.question import parse_question
from gateway.metering.reconcile import Drift, Whom
from gateway.metering.report import Row, read_page
from gateway.metering.rollup import DAY, RollUp
from gateway.metering.totals import CellTotals, SourceWord, Totals
from gateway.metering.upkeep import Upkeep
from gateway.model import ABSENT, Contract, Grant, Plan, Principal, Transport
from gateway.usage import Usage

BERLIN, KATHMANDU = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kathmandu")
TODAY = int(datetime(2026, 11, 23, tzinfo=UTC).timestamp())
NOW = TODAY + 10 * 3600
EXAMPLES = Path(__file__).resolve().parents[1] / "asyncapi"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/gateway.db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    one = Database(url, bounds=Bounds(statement_seconds=30))
    Schema(one).upgrade()
    yield one
    one.close()


def totals(bucket: int, *, source: str = "s1", tenant: str = "acme", sequence: int = 1, **counts: Any) -> Totals:
    about = {"application": "acme-web", "stream": "flights", "plan": "standard", "revision": 1}
    about |= {"transport": "sse", "is_billable": True}
    about |= {name: counts.pop(name) for name in list(counts) if name in about}
    usage = Usage(**counts)
    return Totals(1, source, sequence, tenant, bucket, (CellTotals(**about, counts=tuple(usage)),))  # type: ignore[arg-type]


def word(source: str = "s1", *, through: int = NOW, state: Any = "live") -> SourceWord:
    return SourceWord(1, source, 9, state, "node", 0, through)


def sums(ledger: Ledger, *, by: str = "tenant") -> dict[str, Usage]:
    found: dict[str, Usage] = defaultdict(Usage)
    for key, _, usage in ledger.cells(tenant=None, start=0, end=2 * NOW):
        found[getattr(key, by)] += usage
    return dict(found)


# ---- roll-up -------------------------------------------------------------------------------------------------------


def rolling(database: Database) -> RollUp:
    zones = {"acme": BERLIN, "globex": KATHMANDU}
    return RollUp(database, zone=zones.__getitem__, hours_after_days=40, days_after_days=400)


def roll(database: Database, *, now: int = NOW, complete_until: int = NOW) -> int:
    one = rolling(database)
    while one.step(now=now, complete_until=complete_until):
        pass
    return one.removed


def seed(ledger: Ledger, *, days_ago: int, days: int, seed: int = 1) -> list[Totals]:
    """Quarters at random, of two tenants from two processes, from a change of clocks on."""
    rnd = random.Random(seed)
    begin = TODAY - days_ago * DAY
    messages = [
        totals(
            begin + rnd.randrange(days * 96) * 900,
            source=rnd.choice(["s1", "s2"]),
            tenant=rnd.choice(["acme", "globex"]),
            transport=rnd.choice(["sse", "ws"]),
            records=rnd.randrange(1, 100),
            bytes=rnd.randrange(1, 10_000),
        )
        for _ in range(400)
    ]
    ledger.merge([*messages, word(), word("s2")])
    return messages


def test_old_usage_is_kept_by_the_hour_and_the_day_and_no_total_changes(database: Database) -> None:
    ledger = Ledger(database)
    seed(ledger, days_ago=410, days=5)
    seed(ledger, days_ago=36, days=1)
    seed(ledger, days_ago=45, days=3)
    before, by_transport = sums(ledger), sums(ledger, by="transport")
    count = len(list(ledger.cells(tenant=None, start=0, end=NOW)))
    assert roll(database) > 200
    assert (sums(ledger), sums(ledger, by="transport")) == (before, by_transport)
    cells = list(ledger.cells(tenant=None, start=0, end=NOW))
    assert len(cells) < count
    lengths = defaultdict(set)
    for key, seconds, _ in cells:
        zone = BERLIN if key.tenant == "acme" else KATHMANDU
        wall = datetime.fromtimestamp(key.bucket, zone)
        lengths[(NOW - key.bucket) // DAY].add(seconds)
        if seconds >= 3600:
            assert wall.minute == 0, "hours are the zone's"
        if seconds > 3600:
            assert (wall.hour, wall.minute) == (0, 0), "and so are days"
    assert {900} == set.union(*(lengths[age] for age in lengths if age < 39))
    assert {3600} == lengths[43]
    assert {86_400} == lengths[408]
    assert roll(database) == 0, "there is nothing left to do"


def test_months_and_days_of_a_tenant_come_out_the_same_before_and_after(database: Database) -> None:
    ledger = Ledger(database)
    seed(ledger, days_ago=412, days=10)

    def by_day() -> dict[Any, Usage]:
        found: dict[Any, Usage] = defaultdict(Usage)
        for key, _, usage in ledger.cells(tenant=None, start=0, end=NOW):
            zone = BERLIN if key.tenant == "acme" else KATHMANDU
            found[key.tenant, key.transport, datetime.fromtimestamp(key.bucket, zone).date()] += usage
        return dict(found)

    before = by_day()
    assert roll(database) > 0
    assert by_day() == before


def test_what_comes_again_after_it_was_rolled_up_counts_once(database: Database) -> None:
    ledger = Ledger(database)
    messages = seed(ledger, days_ago=60, days=2)
    before = sums(ledger)
    roll(database)
    Ledger(database).merge([*messages, word(), word("s2")])
    assert sums(ledger) == before


def test_what_is_not_complete_is_left_alone(database: Database) -> None:
    ledger = Ledger(database)
    seed(ledger, days_ago=60, days=2)
    before = ledger.digest()
    assert roll(database, complete_until=TODAY - 70 * DAY) == 0
    assert roll(database, complete_until=0) == 0
    assert ledger.digest() == before
    ledger.merge([totals(TODAY - 60 * DAY, records=10**6)])
    assert sums(ledger)["acme"].records > 10**6, "and still takes in what comes late"


def test_a_crash_in_the_midst_leaves_totals_as_they_are_and_is_made_good_later(database: Database) -> None:
    ledger = Ledger(database)
    seed(ledger, days_ago=60, days=3)
    before = sums(ledger)
    half = rolling(database)
    running = half._next_pass(now=NOW, complete_until=NOW)
    assert running is not None
    half._put_together(running, "acme")
    assert sums(ledger) == before
    assert roll(database) > 0
    assert sums(ledger) == before
    assert {seconds for _, seconds, _ in ledger.cells(tenant=None, start=0, end=NOW)} == {3600}


# ---- evidence ------------------------------------------------------------------------------------------------------


def grant(tenant: str = "acme") -> Grant:
    contract = Contract(
        "flights",
        "id",
        "t",
        "1.0.0",
        "",
        "published",
        "o",
        "public",
        (),
        ("sse",),
        "main",
        "topic",
        "application/json",
        "m",
    )
    principal = Principal("i", "acme-web", "s", frozenset(), "j", NOW)
    return Grant(principal, tenant, "acme-web", contract, Plan("standard", 1, "t", "EUR"))


class Notes:
    """Keeps what it is given, unless it is away."""

    def __init__(self) -> None:
        self.kept: list[Delivery] = []
        self.is_away = False
        self.said: list[str] = []

    def append(self, deliveries: Any, *, source: str) -> None:
        if self.is_away:
            raise Unavailable
        self.kept += deliveries

    def begin(self, source: str) -> None:
        self.said.append(f"begin {source}")

    def close(self, source: str) -> None:
        self.said.append(f"close {source}")

    def mark(self, source: str, until: int) -> None:
        self.said.append(f"mark {source} {until - NOW}")

    def lose(self, source: str) -> None:
        self.said.append(f"lose {source}")


async def at_once(work: Any, *arguments: Any, **named: Any) -> Any:
    return work(*arguments, **named)


def note(
    audit: DeliveryAudit, start: Any, end: Any, records: int, *, began: float, session: str = "x", **more: Any
) -> None:
    transport: Transport = "sse"
    audit.note(
        grant(),
        session=session,
        transport=transport,
        start=start,
        end=end,
        records=records,
        data_bytes=records * 10,
        began=began,
        ended=began + 10,
        **more,
    )


async def test_stretches_of_one_read_that_follow_on_each_other_are_one_up_to_a_minute() -> None:
    notes = Notes()
    audit = DeliveryAudit(notes, source="s1", run=at_once)
    note(audit, (0, 5), (4, 5), 4, began=NOW)
    note(audit, (4, 5), (4, 9), 3, began=NOW + 10, filtered=1)
    note(audit, (0, 0), (2, 2), 4, began=NOW + 12, session="y")
    note(audit, (4, 9), (4, 9), 0, began=NOW + 20)
    note(audit, (4, 9), (7, 9), 3, began=NOW + 70)
    assert audit.statistics() == {"waiting": 3, "written": 0, "lost": 0}
    await audit.flush(now=NOW + 65)
    assert [one.moved for one in notes.kept] == ["0:0-4,1:5-9"], "what began a minute ago"
    await audit.flush()
    assert sorted((one.session, one.moved, one.records, one.filtered, one.span) for one in notes.kept) == [
        ("x", "0:0-4,1:5-9", 7, 1, 8),
        ("x", "0:4-7", 3, 0, 3),
        ("y", "0:0-2,1:0-2", 4, 0, 4),
    ]
    assert notes.said == ["begin s1", "mark s1 12"], "all that began before the oldest stretch that is still open"
    await audit.close()
    assert notes.said[-1] == "close s1"


async def test_a_read_that_gives_nothing_for_long_is_few_stretches() -> None:
    notes = Notes()
    audit = DeliveryAudit(notes, source="s1", run=at_once)
    for beat in range(60):
        note(audit, (beat,), (beat + 1,), 0, began=NOW + beat * 15, hidden=1)
        await audit.flush(now=NOW + beat * 15)
    await audit.flush()
    assert [(one.moved, one.hidden, one.span) for one in notes.kept] == [("0:0-60", 60, 60)]


async def test_notes_wait_for_a_database_that_is_away_within_a_bound() -> None:
    notes = Notes()
    audit = DeliveryAudit(notes, source="s1", run=at_once, max_pending=3)
    notes.is_away = True
    for number in range(5):
        note(audit, (number,), (number + 1,), 1, began=NOW + number, session=f"session-{number}")
    await audit.flush()
    assert audit.statistics() == {"waiting": 3, "written": 0, "lost": 2}
    notes.is_away = False
    await audit.close()
    assert [one.session for one in notes.kept] == ["session-2", "session-3", "session-4"]
    assert notes.said[-1] == "lose s1", "such a process proves nothing, and does not end as whole"


def test_ranges_are_of_partitions_that_moved() -> None:
    assert list(ranges((0, 5, 7), (3, 5, 9))) == [(0, 0, 3), (2, 7, 9)]
    assert list(ranges((ABSENT,), (4, 2))) == [(0, 0, 4), (1, 0, 2)]
    assert list(ranges((5,), (ABSENT,))) == []


def delivery(began: float, records: int, *, seconds: float = 60, span: int | None = None, **parts: Any) -> Delivery:
    moved = records if span is None else span
    one = Delivery(
        "acme", "acme-web", "flights", "sse", "x", round(began * 1000), round((began + seconds) * 1000),
        records, records * 10, 0, 0, 0, moved, f"0:0-{moved}",
    )  # fmt: skip
    return one._replace(**parts)


def test_a_day_shows_what_reached_into_it_and_nothing_of_others(database: Database) -> None:
    store = AuditStore(database)
    store.append(
        [
            delivery(TODAY - 3600, 1),
            delivery(TODAY - 30, 2),
            delivery(TODAY + 100, 3),
            delivery(TODAY + 100, 4, tenant="globex"),
            delivery(TODAY + 100, 5, stream="quakes"),
            delivery(TODAY + DAY - 10, 6),
            delivery(TODAY + DAY, 7),
        ],
        source="s1",
    )
    found = store.read(tenant="acme", stream="flights", start=TODAY, end=TODAY + DAY)
    assert [one.records for one in found] == [2, 3, 6]


def test_evidence_is_forgotten_after_its_time(database: Database) -> None:
    store = AuditStore(database)
    store.append([delivery(TODAY - DAY * age, 1) for age in range(10)], source="s1")
    chores = chores_of(database, audit_days=5)
    while chores.purge(now=NOW):
        pass
    assert store.oldest() == TODAY - 4 * DAY


# ---- reconciliation ------------------------------------------------------------------------------------------------


def chores_of(database: Database, *, audit_days: int = 90) -> UsageChores:
    return UsageChores(database, zone=lambda _: BERLIN, hours_after_days=40, days_after_days=400, audit_days=audit_days)


YESTERDAY = TODAY - DAY


def prove(
    database: Database, *, metered: int, proved: list[Delivery], taken: int = 0, closes: bool = True
) -> list[Drift]:
    """What the chores find of yesterday, where usage of so many records was metered in its tenth hour."""
    Ledger(database).merge(
        [totals(YESTERDAY + 36_000, records=metered, filtered_records=taken), word(state="ended" if closes else "live")]
    )
    store = AuditStore(database)
    store.begin("s1")
    store.mark("s1", NOW)
    store.append([delivery(YESTERDAY - 2 * DAY, 1, tenant="initech"), *proved], source="s1")
    if closes:
        store.close("s1")
    chores = chores_of(database)
    found: list[Drift] = []
    while (more := chores.reconcile(now=NOW)) is not None:
        found += more
    return found


def test_usage_that_the_evidence_bears_out_is_no_drift(database: Database) -> None:
    proved = [delivery(YESTERDAY + 36_000 + minute * 60, 10) for minute in range(5)]
    assert prove(database, metered=50, proved=proved) == []
    assert Drifts(database).count_standing() == 0


@pytest.mark.parametrize(("metered", "kind"), [(49, "missing"), (51, "excess")])
def test_one_record_too_few_or_too_many_is_a_drift(database: Database, metered: int, kind: str) -> None:
    proved = [delivery(YESTERDAY + 36_000 + minute * 60, 10) for minute in range(5)]
    (drift,) = prove(database, metered=metered, proved=proved)
    assert (drift.kind, drift.whom, drift.start, drift.end) == (
        kind,
        Whom("s1", "acme", "acme-web", "flights", "sse"),
        YESTERDAY,
        TODAY,
    )
    assert (drift.metered, drift.least, drift.most) == (metered, 50, 50)


def test_nobody_is_charged_for_more_records_than_there_were_offsets(database: Database) -> None:
    (drift,) = prove(database, metered=10, taken=3, proved=[delivery(YESTERDAY + 36_000, 10, span=12)])
    assert (drift.kind, drift.metered, drift.most) == ("span", 13, 12)


def test_what_reaches_over_midnight_may_belong_to_either_day(database: Database) -> None:
    proved = [delivery(YESTERDAY + 36_000, 30), delivery(TODAY - 30, 20)]
    assert prove(database, metered=30, proved=proved) == []


def test_a_killed_process_may_have_metered_more_than_it_could_note(database: Database) -> None:
    proved = [delivery(YESTERDAY + 36_000, 30)]
    Ledger(database).merge([word(state="ended")])
    AuditStore(database).begin("s1")
    store = AuditStore(database)
    store.append([delivery(YESTERDAY - 2 * DAY, 1, tenant="initech"), *proved], source="s1")
    Ledger(database).merge([totals(YESTERDAY + 36_000, records=45)])
    assert chores_of(database).reconcile_period(start=YESTERDAY, end=TODAY, now=NOW) == []
    Ledger(database).merge([totals(YESTERDAY + 36_000, tenant="globex", records=1)])
    store.append([delivery(YESTERDAY + 36_000, 2, tenant="globex")], source="s1")
    (drift,) = chores_of(database).reconcile_period(start=YESTERDAY, end=TODAY, now=NOW)
    assert (drift.kind, drift.whom.tenant) == ("missing", "globex"), "but never less"


def test_a_process_that_has_not_written_all_down_is_waited_for(database: Database) -> None:
    Ledger(database).merge([totals(YESTERDAY + 36_000, records=9), word()])
    store, chores = AuditStore(database), chores_of(database)
    store.append([delivery(YESTERDAY - 2 * DAY, 1, tenant="initech")], source="s0")
    store.begin("s1")
    store.mark("s1", YESTERDAY - DAY // 2)
    while chores.reconcile(now=NOW) is not None:
        pass
    assert chores.reconcile_period(start=YESTERDAY, end=TODAY, now=NOW) == [], "and is held to nothing yet"
    store.mark("s1", TODAY + 60)
    found = []
    while (more := chores.reconcile(now=NOW)) is not None:
        found += more
    assert [one.kind for one in found] == ["excess"]


def test_a_drift_stands_once_until_somebody_settles_it(database: Database) -> None:
    proved = [delivery(YESTERDAY + 36_000, 10)]
    assert len(prove(database, metered=11, proved=proved)) == 1
    assert chores_of(database).reconcile_period(start=YESTERDAY, end=TODAY, now=NOW) == [], "it is known"
    drifts = Drifts(database)
    (found,) = drifts.standing(tenant="acme", start=YESTERDAY, end=TODAY)
    assert drifts.standing(tenant="globex", start=YESTERDAY, end=TODAY) == []
    assert drifts.standing(tenant="acme", start=TODAY, end=NOW) == []
    assert drifts.settle(found.number, by="me", reason="tested", at="2026-11-23T10:00:00Z", now=NOW)
    assert not drifts.settle(found.number, by="me", reason="again", at="2026-11-23T10:00:00Z", now=NOW)
    assert drifts.standing(tenant=None, start=0, end=NOW) == []
    (settled,) = drifts.all(tenant="acme", start=0, end=NOW)
    assert (settled.settled_by, settled.reason) == ("me", "tested")
    assert AuditLog(database).read(limit=1)[0]["action"] == "drift.settle"


def read(counters: Counters, records: int, *, stream: str = "flights") -> None:
    tally = counters.begin_read(stream, protocol="sse", plan="standard", tenant="acme")
    tally.records += records
    counters.end_read(tally)


def test_an_hour_of_a_process_lies_between_what_its_counters_say_around_and_inside_it() -> None:
    counters, returned = Counters(), dict[Any, int]()
    check = ProcessCheck(counters, lambda: returned, source="s1", started_at=TODAY + 600)
    read(counters, 100)
    check.look(TODAY + 3590)
    read(counters, 2)
    assert list(check.due()) == []
    check.look(TODAY + 3601)
    (first,) = check.due()
    assert (first.start.at, first.end.at) == (TODAY, TODAY + 3600)
    read(counters, 50)
    returned["flights", "sse"] = 5
    check.look(TODAY + 7199)
    check.look(TODAY + 7205)
    _, second = check.due()
    for records, drifts in [(99, 1), (100, 0), (102, 0), (103, 1)]:
        assert len(replace_waiting(check, first).compare(first, {("flights", "sse"): records})) == drifts, records
    for records, drifts in [(49, 1), (50, 0), (57, 0), (58, 1)]:
        found = replace_waiting(check, second).compare(second, {("flights", "sse"): records})
        assert len(found) == drifts, records
    (unheard_of,) = replace_waiting(check, second).compare(second, {("flights", "sse"): 50, ("quakes", "ws"): 1})
    assert (unheard_of.kind, unheard_of.whom.stream, unheard_of.most) == ("process", "quakes", 0)


def replace_waiting(check: ProcessCheck, hour: Hour) -> ProcessCheck:
    check._waiting.append(hour)
    return check


def test_what_concerns_a_whole_process_concerns_everybody(database: Database) -> None:
    Ledger(database).merge(
        [totals(TODAY, records=7), totals(TODAY, records=9, source="s2"), word(through=TODAY + 3600)]
    )
    chores = chores_of(database)
    assert chores.of_process("s1", start=TODAY, end=TODAY + 7200) is None, "it has not told everything"
    assert chores.of_process("nobody", start=TODAY, end=TODAY + 3600) is None
    metered = chores.of_process("s1", start=TODAY, end=TODAY + 3600)
    assert metered == {("flights", "sse"): 7}
    drift = Drift("process", Whom("s1", "", "", "flights", "sse"), TODAY, TODAY + 3600, 7, 8, 8)
    assert chores.note([drift], now=NOW) == [drift]
    assert chores.standing() == 1
    assert len(Drifts(database).standing(tenant="anybody", start=TODAY, end=NOW)) == 1


def test_one_process_at_a_time_looks_after_usage(database: Database) -> None:
    chores = chores_of(database)
    assert chores.take("a", now=NOW, seconds=60)
    assert not chores.take("b", now=NOW + 30, seconds=60)
    assert chores.take("a", now=NOW + 30, seconds=60)
    assert chores.take("b", now=NOW + 91, seconds=60), "the other one is gone"
    chores.release("b")
    assert chores.take("a", now=NOW + 92, seconds=60)


class List:
    """Chores that only note down what is asked of them."""

    def __init__(self, *, is_mine: bool) -> None:
        self.done: list[str] = []
        self._is_mine = is_mine
        self._days = [[DRIFT], []]
        self._left = {"roll_up": 2, "purge": 1}

    def take(self, holder: str, *, now: float, seconds: int) -> bool:
        self.done.append("take")
        return self._is_mine

    def reconcile(self, *, now: float) -> list[Drift] | None:
        self.done.append("reconcile")
        return self._days.pop(0) if self._days else None

    def roll_up(self, *, now: float) -> bool:
        return self._step("roll_up")

    def purge(self, *, now: float) -> bool:
        return self._step("purge")

    def _step(self, name: str) -> bool:
        self.done.append(name)
        self._left[name] -= 1
        return self._left[name] > 0

    def of_process(self, source: str, *, start: int, end: int) -> dict[Any, int] | None:
        return {("flights", "sse"): 3}

    def note(self, drifts: Any, *, now: float) -> list[Drift]:
        return list(drifts)

    def standing(self) -> int:
        return 1

    def release(self, holder: str) -> None:
        self.done.append("release")


DRIFT = Drift("excess", Whom("s1", "acme", "acme-web", "flights", "sse"), TODAY, NOW, 2, 1, 1)


async def test_the_common_part_is_done_by_one_and_everybody_knows_what_stands() -> None:
    told: list[Drift] = []
    mine, others = List(is_mine=True), List(is_mine=False)
    for chores in (mine, others):
        upkeep = Upkeep(chores, audit=None, run=at_once, clock=ManualClock(now=NOW), holder="a", tell=told.append)
        assert upkeep.status().drifts is None
        await upkeep.go_round()
        assert upkeep.status().drifts == 1
        await upkeep.close()
    assert mine.done == ["take", "reconcile", "reconcile", "reconcile", "roll_up", "roll_up", "purge", "release"]
    assert others.done == ["take", "release"]
    assert told == [DRIFT]


async def test_every_process_is_compared_with_its_own_counters() -> None:
    told: list[Drift] = []
    counters, clock = Counters(), ManualClock(now=TODAY + 100)
    check = ProcessCheck(counters, dict, source="s1", started_at=clock.now())
    upkeep = Upkeep(
        List(is_mine=False), audit=None, run=at_once, clock=clock, holder="a", check=check, tell=told.append
    )
    read(counters, 4)
    for moment in (3590, 3610):
        check.look(TODAY + moment)
    await upkeep.go_round()
    assert [(one.kind, one.metered, one.least, one.most) for one in told] == [("process", 3, 4, 4)]
    await upkeep.go_round()
    assert len(told) == 1, "an hour is looked at once"


# ---- commands ------------------------------------------------------------------------------------------------------


ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""What commands print does not depend on the database, which is tried above."""


@pytest.fixture
def gateway(database: Database, url: str, tmp_path: Path) -> Any:
    options = ("--set", f"database.url={url}", "--set", "auth.builtin.enabled=true", "--set", f"data.dir={tmp_path}")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, *options], prog_name="gateway")

    applied = run("apply", str(EXAMPLES / "catalog.yaml"))
    assert applied.exit_code == 0, applied.output
    ledger = Ledger(database)
    hour = int(datetime(2026, 11, 22, 9, tzinfo=UTC).timestamp())
    ledger.merge(
        [
            totals(hour, records=5, bytes=50, units=5, hidden_records=2),
            totals(hour + 900, records=7, bytes=70, units=7, source="s2"),
            totals(hour, records=1, application="acme-test", is_billable=False),
            totals(hour, tenant="globex", stream="quakes", records=3, bytes=9, plan="free"),
            word(through=TODAY, state="live"),
            word("s2", state="ended"),
        ]
    )
    return run


@ON_SQLITE
def test_show_prints_a_table_json_and_csv_of_the_same(gateway: Any) -> None:
    asked = ("usage", "show", "--tenant", "acme", "--from", "2026-11-22", "--to", "2026-11-23", "--by", "application")
    table = gateway(*asked)
    assert table.exit_code == 0, table.output
    told, complete, unit, header, *lines = table.stdout.splitlines()
    assert unit == "units: begun 64 KiB of data, counted for each record, live and replayed"
    assert told == "usage of acme, 2026-11-22T00:00:00+01:00 to 2026-11-23T00:00:00+01:00"
    assert complete == "complete until 2026-11-23T01:00:00+01:00; times of Europe/Berlin"
    columns = ["from", "to", "application", "billable", "records", "bytes", "units", "hidden_records"]
    assert header.split() == columns
    day = ["2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"]
    assert [line.split() for line in lines] == [
        [*day, "acme-test", "false", "1", "0", "0", "0"],
        [*day, "acme-web", "true", "12", "120", "12", "2"],
    ]
    document = json.loads(gateway(*asked, "--format", "json").stdout)
    assert [(row["application"], row["records"], row["hidden_records"]) for row in document["rows"]] == [
        ("acme-test", 1, 0),
        ("acme-web", 12, 2),
    ]
    read = list(csv.DictReader(io.StringIO(gateway(*asked, "--format", "csv").stdout, newline="")))
    assert [(row["application"], row["records"]) for row in read] == [("acme-test", "1"), ("acme-web", "12")]
    everybody = json.loads(gateway("usage", "show", "--from", "2026-11-22", "--format", "json").stdout)
    assert {(row["tenant"], row["plan"], row["revision"]) for row in everybody["rows"]} == {
        ("acme", "standard", 1),
        ("globex", "free", 1),
    }


@ON_SQLITE
def test_mistakes_of_usage_commands_are_a_line_and_exit_code_2(gateway: Any) -> None:
    for arguments, said in [
        (("show", "--tenant", "nobody"), "--tenant 'nobody': there is no such tenant"),
        (("show", "--from", "soon"), "--from=soon is not allowed"),
        (("show", "--by", "color"), "--by=color is not allowed"),
        (("show", "--from", "9999-01-01"), "--from=9998-12-31T00:00:00Z lies ahead"),
        (("show", "--from", "2026-11-23", "--to", "2026-11-22"), "--from must be before to"),
        (("export", "--from", "9999-01-01"), "lies ahead, and without to"),
        (("export", "--from", "9998-12-31"), "lies ahead, and without to"),
        (("export", "--from", "9998-12-31", "--to", "9999-12-31"), "--from="),
        (("export", "--from", "9999-01-01", "--to", "9999-12-31"), "--from="),
        (("export", "--granularity", "week"), "--granularity=week is not allowed"),
        (("export", "--source", ""), "--source '': a URI is needed"),
        (("export", "--source", "not a uri \u2603"), "--source 'not a uri \u2603': a URI is needed"),
        (("export", "--source", "https://h/%zz"), "a URI is needed"),
        (("audit", "--tenant", "acme", "--stream", "nope", "--day", "2026-11-22"), "--stream 'nope': there is no such"),
        (("export", "--output", "/nowhere/x"), "--output /nowhere/x: cannot be written"),
        (("reconcile", "--settle", "7", "--reason", "x"), "--settle 7: no difference of this number stands"),
    ]:
        result = gateway("usage", *arguments)
        assert result.exit_code == 2, result.output
        assert said in result.stderr


@ON_SQLITE
def test_exported_twice_it_is_counted_once(gateway: Any, tmp_path: Path, database: Database) -> None:
    asked = ("usage", "export", "--from", "2026-11-22", "--to", "2026-11-24", "--source", "https://g.example/")
    first = gateway(*asked)
    assert first.exit_code == 0, first.output
    output = tmp_path / "events.ndjson"
    assert gateway(*asked, "--output", str(output)).exit_code == 0
    assert output.read_text() == first.stdout
    assert not list(tmp_path.glob("*.part"))
    counted = {
        event["id"]: event["data"]["records"]
        for text in (first.stdout, output.read_text())
        for event in map(json.loads, text.splitlines())
    }
    assert sum(counted.values()) == 5 + 7 + 1 + 3
    Ledger(database).merge([totals(TODAY, records=1000)])
    assert gateway(*asked).stdout == first.stdout, "what may still grow waits"
    more = gateway(*asked, "--incomplete").stdout.splitlines()
    assert len(more) == len(first.stdout.splitlines()) + 1
    assert json.loads(more[-2])["type"].endswith("preview.v1") or json.loads(more[-1])["type"].endswith("preview.v1")


@ON_SQLITE
def test_usage_that_is_told_late_is_exported_once_whole(gateway: Any, database: Database) -> None:
    """A process that could not tell for hours holds its time back, and nothing of it goes out before all of it does."""
    ledger = Ledger(database)
    hour = TODAY + 2 * 3600
    ledger.merge([totals(hour, source="late", records=1), word("late", through=hour + 900), word(through=NOW)])
    asked = ("usage", "export", "--tenant", "acme", "--from", "2026-11-23", "--to", "2026-11-24")

    def exported() -> dict[str, int]:
        return {one["id"]: one["data"]["records"] for one in map(json.loads, gateway(*asked).stdout.splitlines())}

    received = exported()
    assert received == {}
    ledger.merge([totals(hour + 900, source="late", records=40, sequence=2), word("late", through=NOW)])
    received |= exported()
    assert list(received.values()) == [41]
    ledger.merge([totals(hour + 900, source="late", records=40, sequence=2), totals(hour, source="late", records=1)])
    assert exported() == received


def test_pages_keep_their_order_while_usage_is_added(database: Database) -> None:
    ledger = Ledger(database)
    rnd = random.Random(5)

    def add(count: int, *, day: int | None = None) -> None:
        told = [
            totals(
                TODAY - DAY * (rnd.randrange(20) if day is None else day) + 900 * rnd.randrange(96),
                source=rnd.choice(["s1", "s2", "s3"]),
                stream=f"stream-{rnd.randrange(8)}",
                transport=rnd.choice(["sse", "ws", "pull"]),
                records=rnd.randrange(1, 1000),
            )
            for _ in range(count)
        ]
        ledger.merge(told)

    add(300)
    asked = {"from": "2026-11-01T00:00:00Z", "to": "2026-11-24T00:00:00Z", "granularity": "hour", "limit": "7"}
    question = parse_question(asked, zone=BERLIN, now=NOW)
    before = {row.place: row.usage for row in read_page(ledger, replace(question, limit=None), tenant="acme").rows}
    paged: list[Row] = []
    following: str | None = ""
    while following is not None:
        question = parse_question(asked | ({"next": following} if following else {}), zone=BERLIN, now=NOW)
        page = read_page(ledger, question, tenant="acme")
        assert len(page.rows) <= 7
        paged += page.rows
        following = page.next
        # On all days, those that were turned already among them.
        add(2)
    places = [row.place for row in paged]
    assert len(paged) > 150
    assert places == sorted(set(places)), "in order, and none twice"
    shown = {row.place: row.usage for row in paged}
    assert before.keys() <= shown.keys(), "what was there is not passed over"
    assert all(shown[place].records >= usage.records for place, usage in before.items())
    whole = {
        row.place: row.usage for row in read_page(ledger, replace(question, limit=None, after=None), tenant="acme").rows
    }
    assert all(whole[place].records >= usage.records for place, usage in shown.items())


@ON_SQLITE
def test_an_export_finer_than_what_is_kept_is_refused(gateway: Any, database: Database) -> None:
    ledger = Ledger(database)
    old = TODAY - 60 * DAY
    ledger.merge([totals(old + 900, records=1), totals(old + 1800, records=2), word(through=NOW)])
    asked = ("usage", "export", "--tenant", "acme", "--from", "2026-09-20", "--to", "2026-10-01")
    before = gateway(*asked).stdout
    roll(database)
    refused = gateway(*asked, "--granularity", "15m")
    assert refused.exit_code == 2
    assert "is kept by the hour only" in refused.stderr
    assert gateway(*asked).stdout == before, "by the hour it is what it was"


@ON_SQLITE
def test_rollup_by_hand_says_what_it_did(gateway: Any, database: Database) -> None:
    old = TODAY - 500 * DAY
    Ledger(database).merge([*(totals(old + 900 * number, records=1) for number in range(8)), word(through=NOW)])
    assert "cells fewer" in gateway("usage", "rollup").stdout
    assert gateway("usage", "rollup").stdout == "nothing to do\n"


@ON_SQLITE
def test_audit_answers_which_offsets_went_to_whom_when_and_how(gateway: Any, database: Database) -> None:
    began = int(datetime(2026, 11, 22, 23, 30, tzinfo=UTC).timestamp())
    AuditStore(database).append([delivery(began, 5, span=8, filtered=2)], source="s1")
    asked = ("usage", "audit", "--tenant", "acme", "--stream", "flights")
    assert "nothing" in gateway(*asked, "--day", "2026-11-22").stdout, "in Berlin it is the day after"
    (one,) = json.loads(gateway(*asked, "--day", "2026-11-23", "--format", "json").stdout)["deliveries"]
    assert one == {
        "began": "2026-11-23T00:30:00.000+01:00",
        "ended": "2026-11-23T00:31:00.000+01:00",
        "application": "acme-web",
        "session": "x",
        "protocol": "sse",
        "offsets": "0:0-8",
        "records": 5,
        "bytes": 50,
        "filtered_records": 2,
        "hidden_records": 0,
        "other_offsets": 1,
    }
    assert "0:0-8" in gateway(*asked, "--day", "2026-11-23").stdout
    assert "0:0-8" in gateway(*asked, "--day", "2026-11-23", "--format", "csv").stdout
    # A stream that is gone from products and usage, and that there is evidence of.
    AuditStore(database).append([delivery(began, 5, stream="gone")], source="s1")
    gone = ("usage", "audit", "--stream", "gone", "--day", "2026-11-23")
    assert "0:0-" in gateway(*gone, "--tenant", "acme").stdout
    assert gateway(*gone, "--tenant", "globex").exit_code == 2, "it is evidence of acme's alone"


@ON_SQLITE
def test_reconcile_shows_what_stands_until_it_is_settled(gateway: Any, database: Database) -> None:
    assert gateway("usage", "reconcile").stdout == "no difference stands\n"
    AuditStore(database).begin("s1")
    AuditStore(database).mark("s1", TODAY + 60)
    proved = [
        delivery(YESTERDAY + 9 * 3600, 99),
        delivery(YESTERDAY + 9 * 3600, 1, application="acme-test"),
        delivery(YESTERDAY + 9 * 3600, 3, tenant="globex", stream="quakes"),
    ]
    AuditStore(database).append(proved, source="s1")
    shown = gateway("usage", "reconcile", "--day", "2026-11-22", "--format", "json")
    assert shown.exit_code == 1
    (drift,) = json.loads(shown.stdout)["drifts"]
    assert (drift["kind"], drift["tenant"], drift["metered_records"], drift["least_records"]) == (
        "missing",
        "acme",
        5,
        99,
    )
    settled = gateway("usage", "reconcile", "--settle", str(drift["number"]), "--reason", "looked into")
    assert (settled.exit_code, settled.stdout) == (0, "no difference stands\n")


@ON_SQLITE
def test_a_topic_that_is_read_no_more_holds_back_until_it_is_given_up(gateway: Any, database: Database) -> None:
    ledger, now = Ledger(database), float(TODAY + 60)
    complete = ledger.complete_until(now=now)
    assert complete == TODAY
    assert ledger.take_lease("me", seconds=60)
    # Both are being read anew when the setting is changed from the one to the other.
    for topic, reached in (("usage.before", 20), ("gateway.usage", 100)):
        place = Place(topic, "id", {0: 0, 1: 0})
        ledger.start_over(place, {0: 100, 1: 7}, holder="me")
        ledger.merge([], place._replace(positions={0: reached, 1: 7}), holder="me", lease_seconds=60)
    assert ledger.complete_until(now=now) == 0
    assert ledger.unread() == [UnreadTopic("usage.before", 80)]
    shown = gateway("usage", "sources")
    assert "metering.topic is gateway.usage now" in shown.stdout
    assert "--lost-topic usage.before" in shown.stdout
    told = json.loads(gateway("usage", "sources", "--format", "json").stdout)
    assert told["unread_topics"] == [{"topic": "usage.before", "missing": 80}]
    refused = gateway("usage", "sources", "--lost-topic", "gateway.usage")
    assert refused.exit_code == 2
    assert "nothing that was to be read of this topic is missing" in refused.output
    given_up = gateway("usage", "sources", "--lost-topic", "usage.before")
    assert given_up.exit_code == 0, given_up.output
    assert "usage.before" not in given_up.stdout
    assert ledger.complete_until(now=now) == complete
    (entry,) = (one for one in AuditLog(database).read(limit=10) if one["action"] == "usage.topic.lost")
    assert (entry["target"], entry["before"]) == ("usage.before", {"missing": 80})
