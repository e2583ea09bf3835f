"""The fault test's own instruments: a checker that overlooks a loss would make the whole test worthless."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from loadtests.ordeal.checker import Counts, Identities, Ledger, Truth
from loadtests.ordeal.kinds import KINDS, BrokerKilled, Kind
from loadtests.ordeal.link import Link, link
from loadtests.ordeal.rounds import Outcome, markdown, meets_bar


class Read:
    """A reader's ledger of a topic, told what comes in few words."""

    def __init__(self, *, identities: Identities | None = None) -> None:
        self.truth = Truth("t")
        self.ledger = Ledger(self.truth, identities=identities or Identities())

    def gets(self, *numbers: int, p: int = 0, **members: Any) -> Read:
        for n in numbers:
            data: dict[str, Any] = {"topic": "t", "life": self.truth.life, "series": "plain", "p": p, "n": n, **members}
            uid = members.get("uid", f"{data['topic']}/{data['life']}/{data['series']}/{p}/{n}")
            self.ledger.record(data, uid=uid)
        return self

    def resumes(self) -> Read:
        self.ledger.resume()
        return self

    def hears(self, reason: str) -> Read:
        self.ledger.gap(reason)
        return self

    def finds(self, **expected: int) -> None:
        counts = self.ledger.take_counts()
        assert counts == Counts(records=counts.records, **expected)
        assert bool(counts.wrong) == bool(set(expected) - {"duplicates", "gaps"})


def test_everything_in_order_is_all_right_in_every_partition_and_series() -> None:
    read = Read().gets(0, 1, 2).gets(0, 1, p=1).gets(0, series="tx").gets(3).gets(2, p=1).gets(1, series="tx")
    assert read.ledger.has({("plain", 0): 4, ("plain", 1): 3, ("tx", 0): 2}, life=1)
    read.finds()


@pytest.mark.parametrize("numbers", [(0, 2), (0, 2, 3, 4), (1,)])
def test_a_number_that_is_passed_over_is_lost(numbers: tuple[int, ...]) -> None:
    Read().gets(*numbers).finds(lost=1)


def test_all_that_is_passed_over_is_counted_and_a_resume_is_no_excuse() -> None:
    Read().gets(0, 1).resumes().gets(12).finds(lost=10)
    Read().gets(0, 1).resumes().gets(0, 1, 3).finds(lost=1, duplicates=2)


def test_what_never_comes_is_lost() -> None:
    read = Read().gets(0, 1, 2)
    assert not read.ledger.has({("plain", 0): 5}, life=1)
    assert not read.ledger.has({("plain", 1): 1}, life=1)
    assert read.ledger.give_up({("plain", 0): 5, ("plain", 1): 1}, life=1) == 3
    read.gets(5).finds(lost=3)


def test_a_number_that_comes_after_a_later_one_is_reordered_and_not_lost() -> None:
    Read().gets(0, 2, 1, 3).finds(reordered=1)
    Read().gets(0, 3).resumes().gets(2, 1).finds(reordered=2)


def test_a_number_that_comes_again_without_a_resume_is_repeated() -> None:
    Read().gets(0, 1, 1, 2).finds(repeated=1)
    Read().gets(0, 1, 2).resumes().gets(3, 2).finds(repeated=1)


def test_after_a_resume_numbers_may_come_again_until_something_new_comes() -> None:
    Read().gets(0, 1, 2).gets(0, p=1).resumes().gets(1, 2, 3).gets(0, 1, p=1).finds(duplicates=3)
    Read().gets(0, 1, 2).resumes().gets(1).resumes().gets(1, 2, 3).finds(duplicates=3)


def test_what_comes_again_after_a_resume_must_be_in_order_too() -> None:
    Read().gets(0, 1, 2).resumes().gets(2, 1, 3).finds(reordered=1, duplicates=1)
    Read().gets(0, 1, 2).resumes().gets(1, 1, 2).finds(reordered=1, duplicates=2)


def test_records_that_belong_elsewhere_are_foreign() -> None:
    Read().gets(0).gets(1, topic="other").finds(foreign=1)
    Read().gets(0).gets(1, void=True).finds(foreign=1)
    Read().gets(0).gets(1, life=7).finds(foreign=1)


def test_a_uid_names_one_record_for_all_readers() -> None:
    identities = Identities()
    Read(identities=identities).gets(0, 1).finds()
    Read(identities=identities).gets(0).gets(1, uid="t/1/plain/0/0").finds(foreign=1)
    Read(identities=identities).gets(0).gets(1, uid="another").finds(foreign=1)


def test_a_gap_excuses_what_retention_took_and_nothing_more() -> None:
    def after_retention() -> Read:
        read = Read().gets(0, 1)
        read.truth.deleted = {("plain", 0): 10, ("plain", 1): 5}
        return read

    after_retention().hears("retention").gets(10).gets(5, p=1).finds(gaps=1)
    after_retention().hears("retention").gets(8, 9, 10).gets(5, p=1).finds(gaps=1)
    after_retention().hears("retention").gets(12).finds(gaps=1, lost=2)
    after_retention().gets(10).finds(lost=8)
    after_retention().gets(2, 3).hears("retention").gets(10, 12).finds(gaps=1, lost=1)
    told = after_retention().hears("retention")
    assert told.ledger.has({("plain", 0): 10, ("plain", 1): 5}, life=1)
    assert not told.ledger.has({("plain", 0): 11}, life=1)


def test_a_gap_where_nothing_is_missing_is_wrong() -> None:
    Read().gets(0).hears("retention").finds(gaps=1, needless_gaps=1)
    read = Read().gets(0, 1, 2)
    read.truth.deleted = {("plain", 0): 3}
    read.hears("retention").finds(gaps=1, needless_gaps=1)
    Read().gets(0).hears("history_changed").finds(gaps=1, needless_gaps=1)
    Read().gets(0).hears("undecodable").finds(gaps=1, needless_gaps=1)


def test_a_topic_that_was_made_anew_begins_anew_after_its_gap() -> None:
    read = Read().gets(0, 1, 2)
    read.truth.begin_life()
    read.gets(3, life=1).hears("history_changed").gets(0, 1)
    assert read.ledger.has({("plain", 0): 2}, life=2)
    read.finds(gaps=1)
    read.gets(4, life=1).finds(foreign=1)


def test_a_new_life_that_shows_before_its_gap_counts_only_after_it() -> None:
    read = Read().gets(0, 1)
    read.truth.begin_life()
    read.gets(0, 1)
    assert not read.ledger.has({("plain", 0): 1}, life=2), "the gap is still to come"
    read.hears("history_changed").resumes().gets(0, 1, 2).finds(gaps=1)
    silent = Read().gets(0)
    silent.truth.begin_life()
    silent.gets(0, 1)
    assert silent.ledger.give_up({("plain", 0): 2}, life=2) == 2
    silent.finds(lost=2)


def test_the_checker_goes_on_behind_a_fault_and_counts_from_there() -> None:
    read = Read().gets(0, 5)
    read.finds(lost=4)
    read.gets(6, 7).finds()


# ---- the link ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def through_a_link() -> AsyncIterator[tuple[Link, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of a server that says back what it hears, ``over`` aside, at which it ends."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while (heard := await reader.read(1000)) not in (b"", b"over"):
                writer.write(heard)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with link(upstream=server.sockets[0].getsockname()[1]) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        try:
            async with asyncio.timeout(30):
                yield made, reader, writer
        finally:
            writer.transport.abort()
            server.close()


async def test_a_link_carries_bytes_and_an_end_in_order() -> None:
    async with through_a_link() as (_, reader, writer):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write(b"over")
        assert await reader.read() == b""


async def test_a_cut_is_a_reset() -> None:
    async with through_a_link() as (made, reader, writer):
        writer.write(b"hello")
        await reader.readexactly(5)
        made.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)


async def test_a_cut_after_some_bytes_comes_amid_a_piece() -> None:
    async with through_a_link() as (made, reader, writer):
        made.cut_after(7)
        writer.write(b"hello hello")
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := await reader.read(100):
                got += piece
        assert got in (b"", b"hello h"), "a reset may overtake the bytes before it"


async def test_a_link_that_does_not_flow_holds_everything_and_loses_nothing() -> None:
    async with through_a_link() as (made, reader, writer):
        made.flowing.clear()
        writer.write(b"hello")
        waiting = asyncio.ensure_future(reader.readexactly(5))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        made.flowing.set()
        assert await waiting == b"hello"


# ---- the report ----------------------------------------------------------------------------------------------------


def test_a_run_is_kept_only_where_nothing_was_wrong() -> None:
    assert Outcome("k", 1, Counts(records=9, duplicates=3, gaps=1)).kept
    for wrong in ("lost", "reordered", "foreign", "repeated", "needless_gaps"):
        assert not Outcome("k", 1, Counts(records=9, **{wrong: 1})).kept
    assert not Outcome("k", 1, problems=["a reader did not come back"]).kept


def test_the_report_names_seed_faults_and_what_was_wrong() -> None:
    kinds: dict[str, Kind] = {"broker-killed": BrokerKilled()}
    good = Outcome("broker-killed", 1, Counts(records=10), late_seconds=2.5)
    bad = Outcome("broker-killed", 2, Counts(records=10, lost=3), late_seconds=11.0, problems=["sse 0: 3 did not come"])
    report = markdown([good, bad], kinds, seed=7, machine="- Machine: M")
    assert "Seed 7." in report
    assert "| `broker-killed` | 2 | 20 | 3 | 0 |" in report
    assert "**broken**" in report
    assert "- broker-killed 2: sse 0: 3 did not come" in report
    assert meets_bar(kinds["broker-killed"], [good]) is True
    assert meets_bar(kinds["broker-killed"], [good, bad]) is False
    since_kafka: dict[str, Kind] = {"gateway-killed": KINDS["gateway-killed"]}
    slow_producer = Outcome("gateway-killed", 1, late_seconds=9.0, late_after_kafka_seconds=1.0)
    assert meets_bar(since_kafka["gateway-killed"], [slow_producer]) is True
    assert "**late**" in markdown([Outcome("broker-killed", 1, late_seconds=11.0)], kinds, seed=7, machine="")


def test_there_are_enough_kinds_and_each_says_what_it_does() -> None:
    assert len(KINDS) >= 10
    assert all(len(kind.what) > 10 for kind in KINDS.values())
    assert {name for name, kind in KINDS.items() if kind.gaps} == {"retention", "topic-recreated"}


def test_a_ledger_agrees_with_a_slow_and_simple_judge() -> None:
    """Of one series, without gaps: what was lost is what never came; nothing else of it may be wrong at once."""
    chance = random.Random(7)
    for _ in range(300):
        read, came = Read(), []
        at = 0
        for _ in range(chance.randrange(1, 12)):
            if chance.random() < 0.3 and at:
                at = chance.randrange(at)
                read.resumes()
            for _ in range(chance.randrange(4)):
                if chance.random() < 0.15:
                    at += 1
                read.gets(at)
                came.append(at)
                at += 1
            at = max(came, default=-1) + 1
        counts = read.ledger.counts
        assert counts.lost == len(set(range(max(came, default=-1) + 1)) - set(came))
        assert counts.records == len(came)
        assert counts.repeated == 0
        assert counts.reordered <= counts.records - counts.lost
