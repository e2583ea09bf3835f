"""What reads under the same limits take together: never more than there is, all of it told, and nothing left behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import QuotaExceeded
from gateway.limits.allowance import FEW, Allowance, Allowances
from gateway.model import Grant
from tests.parts.limits import Node, grant, node, plan
from tests.parts.serving import until
from tests.test_budget import OLD_MS, FakePace, bench

PRO = plan()
NARROW = plan("narrow", streams={"flights": {"records_per_second": {"rate": 5, "burst": 5}}})
EACH = plan("each", each_application={"records_per_second": {"rate": 5, "burst": 5}})


class Purse:
    """What is there of a limit that several paces stand under."""

    def __init__(self, records: int, data_bytes: int = 1 << 40) -> None:
        self.records = records
        self.bytes = data_bytes
        self.spends = 0


class PursePace:
    """A pace that has all that is in the purse."""

    def __init__(self, purse: Purse) -> None:
        self.purse = purse
        self.is_open = True
        self.is_due = False

    def room(self, *, replayed: bool) -> int:
        if self.purse.records < 0:
            raise QuotaExceeded("It is used up.")
        return self.purse.records

    def bytes_room(self) -> int:
        return self.purse.bytes

    def spend(self, records: int, replayed: int, data_bytes: int) -> None:
        self.purse.spends += 1
        self.purse.records -= records + replayed
        self.purse.bytes -= data_bytes

    def quota_news(self) -> dict[str, object] | None:
        self.is_due = False
        return None

    def close(self) -> None:
        self.is_open = False


class Purses:
    """One purse for each tenant."""

    def __init__(self, records: int, data_bytes: int = 1 << 40) -> None:
        self.by_tenant: dict[str, Purse] = {}
        self.made: list[PursePace] = []
        self._each = records, data_bytes

    def pace(self, grant: Grant) -> PursePace | None:
        if grant.tenant == "free":
            return None
        purse = self.by_tenant.setdefault(grant.tenant, Purse(*self._each))
        self.made.append(PursePace(purse))
        return self.made[-1]


def joined(allowances: Allowances, count: int, one: Grant | None = None) -> Allowance:
    for _ in range(count):
        found = allowances.join(one or grant(PRO))
    assert found is not None
    return found


def test_reads_under_the_same_limits_share_one_and_others_have_their_own() -> None:
    allowances = Allowances(Purses(10))
    first = allowances.join(grant(PRO))
    assert allowances.join(grant(PRO, application="other", stream="ships")) is first
    assert allowances.join(grant(PRO, tenant="globex")) is not first
    narrow = allowances.join(grant(NARROW))
    assert allowances.join(grant(NARROW, application="other")) is narrow
    assert allowances.join(grant(NARROW, stream="ships")) not in (first, narrow)
    assert allowances.join(grant(EACH)) is not allowances.join(grant(EACH, application="other"))
    assert allowances.join(grant(PRO, tenant="free")) is None


def test_a_round_of_many_reads_is_one_look_and_one_spending() -> None:
    purses = Purses(1000, 50_000)
    allowances = Allowances(purses)
    allowance = joined(allowances, 50)
    for _ in range(50):
        assert allowance.open()
        allowance.records -= 2
        allowance.bytes -= 300
    purse = purses.by_tenant["acme"]
    assert (purse.records, purse.spends) == (1000, 0)
    allowances.settle()
    assert (purse.records, purse.bytes, purse.spends) == (900, 35_000, 1)
    assert allowance.records == 0, "closed until somebody opens it"
    allowances.settle()
    assert purse.spends == 1


def test_a_few_reads_ask_for_themselves() -> None:
    allowances = Allowances(Purses(1000))
    allowance = joined(allowances, FEW)
    assert not allowance.open()
    joined(allowances, 1)
    assert allowance.open()


@pytest.mark.parametrize("purse", [(0, 100), (100, 0), (5, -1)])
def test_where_there_is_nothing_of_one_there_is_nothing(purse: tuple[int, int]) -> None:
    allowance = joined(Allowances(Purses(*purse)), 9)
    assert not allowance.open()
    assert (allowance.records, allowance.bytes) == (0, 0)


def test_a_quota_that_is_used_up_is_said_to_whoever_opens() -> None:
    allowance = joined(Allowances(Purses(-1)), 9)
    with pytest.raises(QuotaExceeded):
        allowance.open()


def test_who_asks_for_itself_finds_what_others_did_not_use() -> None:
    purses = Purses(100)
    allowances = Allowances(purses)
    wide = joined(allowances, 9, grant(EACH))
    narrow = joined(allowances, 9, grant(EACH, application="other"))
    assert wide.open()
    wide.records -= 30
    assert narrow.open(), "they overlap: what the one has not used the other one gets"
    assert (wide.records, narrow.records) == (0, 70)
    narrow.records -= 10
    wide.step_aside()
    assert purses.by_tenant["acme"].records == 60
    assert wide.open()
    assert wide.records == 60


def test_news_of_a_quota_are_there_for_every_read() -> None:
    purses = Purses(100)
    allowances = Allowances(purses)
    allowance = joined(allowances, 9)
    assert allowance.open()
    allowance.records -= 1
    purses.made[0].is_due = True
    allowances.settle()
    assert allowance.news == 1
    assert not purses.made[0].is_due


def test_the_last_read_leaves_nothing_behind() -> None:
    purses = Purses(100)
    allowances = Allowances(purses)
    allowance = joined(allowances, 9)
    assert allowance.open()
    allowance.records -= 7
    for _ in range(9):
        allowance.leave()
    assert purses.by_tenant["acme"].records == 93
    assert not purses.made[0].is_open
    assert len(allowances) == 0
    allowances.settle()
    assert joined(allowances, 9).open(), "and another one may begin"


@given(seed=st.integers(0, 2**32), records=st.integers(0, 300))
def test_whatever_reads_do_no_more_is_used_than_there_was_and_all_of_it_is_told(seed: int, records: int) -> None:
    randomly = random.Random(seed)
    purses = Purses(records)
    allowances = Allowances(purses)
    reads: list[Allowance] = []
    used = 0
    for _ in range(150):
        what = randomly.choice(["join", "take", "take", "take", "alone", "settle", "leave"])
        if what == "join" or not reads:
            made = allowances.join(grant(EACH, application=randomly.choice("abc")))
            assert made is not None
            reads.append(made)
        elif what == "take":
            one = randomly.choice(reads)
            if one.records > 0 or one.open():
                count = randomly.randint(1, one.records)
                one.records -= count
                one.bytes -= count
                used += count
        elif what == "alone":
            one = randomly.choice(reads)
            one.step_aside()
            purse = purses.by_tenant["acme"]
            if purse.records > 0:
                count = randomly.randint(1, purse.records)
                purse.records -= count
                used += count
        elif what == "settle":
            allowances.settle()
        else:
            reads.pop(randomly.randrange(len(reads))).leave()
        purse = purses.by_tenant["acme"]
        assert purse.records >= 0
        assert used <= records
    allowances.settle()
    assert purses.by_tenant["acme"].records == records - used
    for one in reads:
        one.leave()
    assert len(allowances) == 0
    assert not any(pace.is_open for pace in purses.made)


# ---- in the engine, and over real leases -----------------------------------------------------------------------------


@pytest.fixture
async def here() -> AsyncIterator[Node]:
    async with node(None) as made:
        yield made


async def test_over_leases_a_burst_goes_at_once_and_then_reads_take_turns(here: Node) -> None:
    under = grant(plan(records_per_second={"rate": 10, "burst": 100}))
    allowances = Allowances(here.limiter)
    allowance = joined(allowances, 9, under)
    assert not allowance.open(), "the first answer is on its way"
    await until(allowance.open)
    sent = 0
    while allowance.records > 0 or allowance.open():
        allowance.records -= 1
        sent += 1
        if not sent % 10:
            allowances.settle()
    assert 0 < sent <= 101
    allowances.settle()
    pace = here.limiter.pace(under)
    assert pace is not None
    woken: list[bool] = []

    class Waiter:
        def wake(self) -> None:
            woken.append(True)

    while allowance.open():
        allowance.records -= 1
        allowances.settle()
    pace.wait(Waiter())
    while not woken:
        assert not allowance.open(), "somebody waits: who comes anew takes nothing"
        await asyncio.sleep(0.001)
    assert pace.room(replayed=False) > 0
    pace.close()
    allowance.leave()
    allowances.settle()


async def test_streams_are_given_records_out_of_what_they_have_together() -> None:
    pace = FakePace(1000)
    together: list[FakePace] = []

    class Paces:
        def pace(self, grant: Grant) -> FakePace:
            together.append(FakePace(1000))
            return together[-1]

    allowances = Allowances(Paces())
    async with bench(pace, allowances=allowances) as b:
        outlets = [(await b.open())[1] for _ in range(5)]
        b.produce(3)
        assert all(len(outlet.numbers()) == 3 for outlet in outlets)
        b.produce(2)
        assert all(len(outlet.numbers()) == 5 for outlet in outlets)
        (shared,) = together
        # Before there were more than a few of them, and while they were not at the head, they asked for themselves.
        assert sum(records for records, _, _ in shared.spent) + sum(records for records, _, _ in pace.spent) == 25
        assert len(shared.spent) <= 5, "once a round"
        assert sum(records for records, _, _ in shared.spent) >= 10
        # Old records, whose rate is another one.
        before = len(pace.spent)
        b.produce(1, age_ms=OLD_MS)
        assert [spent[:2] for spent in pace.spent[before:]] == [(0, 1)] * 5
        assert sum(count.usage.replayed_records for count in b.meter.counts) == 5
        assert sum(count.usage.records for count in b.meter.counts) == 25
    assert len(allowances) == 0
    assert not shared.is_open


async def test_a_stream_that_goes_on_under_another_plan_shares_with_others() -> None:
    purses = Purses(1000)
    allowances = Allowances(purses)
    async with bench(FakePace(1000), allowances=allowances) as b:
        subscriptions = [(await b.open())[0] for _ in range(4)]
        b.produce(1)
        assert len(allowances) == 1
        other = plan("other")
        for one in subscriptions:
            one.renew(Grant(one.grant.principal, one.grant.tenant, one.grant.application, one.grant.contract, other))
        b.produce(1)
        assert len(allowances) == 1
        assert [pace.is_open for pace in purses.made] == [False, True]
