"""What somebody else wrote into the usage topic: refused where no gateway writes it, never in the way of the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.clock import ManualClock
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.metering.chores import UsageChores
from gateway.metering.collector import PATIENCE_SECONDS, Collector
from gateway.metering.ledger import Ledger
from gateway.metering.tables import CELLS
from gateway.metering.totals import MOST, CellTotals, Message, SourceWord, Totals, Undecodable, decode, encode
from gateway.usage import MEASURES, Usage
from tests.parts.metering import TOPIC, Extent, at_once

BUCKET = 1_795_455_900
GOOD = [1, 10, 1, 0, 1, 0, 0, 0, 0]


def cell(counts: Any = GOOD, *, application: Any = "acme-web", plan: Any = "p", revision: Any = 1) -> list[Any]:
    return [application, "ticks", plan, revision, "pull", True, counts]


def message(*cells: Any, **parts: Any) -> bytes:
    told = {"kind": "usage", "v": 1, "source": "forged", "sequence": 1, "tenant": "acme", "bucket": BUCKET, "part": 0}
    return json.dumps(told | {"cells": list(cells) or [cell()]} | parts).encode()


def word(**parts: Any) -> bytes:
    told = {"kind": "source", "v": 1, "source": "s", "sequence": 1, "state": "live", "node": "n", "started_at": 0}
    return json.dumps(told | {"complete_through": 0} | parts).encode()


FORGED = {
    "an array in arrays": b"[" * 100_000,
    "an object in objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "a member that is nested": b'{"v":1,"a":' + b"[" * 100_000,
    "a number of ten thousand digits": b'{"v":' + b"9" * 10_000 + b"}",
    "half a surrogate": message().replace(b"acme-web", b"\\ud800"),
    "a count of 64 bits": message(cell([2**63 - 1] * 9)),
    "a count above the bound": message(cell([MOST + 1, *GOOD[1:]])),
    "a count below 0": message(cell([-1, *GOOD[1:]])),
    "half a record": message(cell([1.5, *GOOD[1:]])),
    "a true record": message(cell([True] * 9)),
    "too few counts": message(cell([1])),
    "too many counts": message(cell([1] * 10)),
    "no tenant": message(tenant=""),
    "NUL in a tenant": message(tenant="a\0b"),
    "a control character in a tenant": message(tenant="a\x85b"),
    "the same, not escaped": json.dumps(json.loads(message(tenant="a\x85b")), ensure_ascii=False).encode(),
    "a line end in a plan": message(cell(plan="p\n")),
    "DEL in an application": message(cell(application="a\x7f")),
    "a long tenant": message(tenant="t" * 64),
    "a long application": message(cell(application="a" * 256)),
    "a long plan": message(cell(plan="p" * 64)),
    "a long source": message(source="s" * 37),
    "no source": message(source=""),
    "a revision below 0": message(cell(revision=-1)),
    "a revision of 64 bits": message(cell(revision=2**40)),
    "half a bucket": message(bucket=BUCKET + 1),
    "a bucket before all time": message(bucket=-900),
    "a bucket after all time": message(bucket=10**15 // 900 * 900),
    "a sequence of 100 bits": message(sequence=2**100),
    "a part below 0": message(part=-1),
    "a version of nobody": message(v=0),
    "a later version of nothing": b'{"v":999}',
    "a time after all time": word(complete_through=10**15),
    "a control character in a node": word(node="n\x1b[2J"),
    "a long node": word(node="n" * 256),
}


@pytest.mark.parametrize("value", FORGED.values(), ids=FORGED)
def test_what_no_gateway_writes_is_refused(value: bytes) -> None:
    assert decode(message())
    assert decode(word())
    with pytest.raises(Undecodable):
        decode(value)


def test_what_a_gateway_writes_at_its_longest_is_taken() -> None:
    counts = (MOST,) * len(MEASURES)
    longest = CellTotals("\u00e4" * 255, "s" * 255, '"\\' + "p" * 61, 2**31 - 1, "ndjson", False, counts)
    told = Totals(1, "5f0c5a3e-0a51-4c0e-9d53-2f6de1a8f4b1", 2**53 - 1, "t" * 63, BUCKET, (longest,), 1_000_001)
    assert decode(encode(told)) == told


# ---- in the collector ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    is_postgres = request.param == "postgres"
    url = str(request.getfixturevalue("postgres_url")) if is_postgres else f"sqlite:///{tmp_path}/gateway.db"
    one = Database(url, bounds=Bounds(statement_seconds=30))
    Schema(one).upgrade()
    yield one
    one.close()


class Stop(BaseException):
    """Ends the endless."""


class Log:
    """A topic's follower: as a consumer does, it gives nothing on the first look after it was opened."""

    def __init__(self, values: list[bytes], *, looks: int, each: Callable[[], None]) -> None:
        self._values = values
        self._looks = looks
        self._each = each
        self._at = 0
        self._is_new = True

    async def extent(self) -> Extent:
        return Extent("", {0: 0}, {0: len(self._values)})

    async def open(self, positions: Any) -> None:
        self._at, self._is_new = positions[0], True

    async def read(self, *, timeout_ms: int, max_records: int) -> tuple[list[bytes | None], dict[int, int]]:
        self._looks -= 1
        if not self._looks:
            raise Stop
        self._each()
        values: list[bytes | None] = [] if self._is_new else list(self._values[self._at :])
        self._is_new = False
        self._at += len(values)
        return values, {0: self._at} if values else {}

    async def close(self) -> None:
        pass


def collector(database: Database, values: list[bytes], clock: ManualClock, *, looks: int) -> Collector:
    """``run`` it: it ends after so many looks, each of which takes half its patience."""
    log = Log(values, looks=looks, each=lambda: clock.advance(PATIENCE_SECONDS / 2))
    return Collector(log, Ledger(database), topic=TOPIC, run=at_once, clock=clock, holder="h")


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("ASK_SECONDS", "GATHER_SECONDS"):
        monkeypatch.setattr(f"gateway.metering.collector.{pause}", 0.0)


async def test_what_is_forged_is_passed_over_and_counted_and_the_rest_is_billed(
    database: Database, no_pauses: None
) -> None:
    one = collector(database, [*FORGED.values(), message(), word(source="forged")], ManualClock(now=BUCKET), looks=4)
    with pytest.raises(Stop):
        await one.run()
    assert one.status().refused == len(FORGED)
    assert one.status().trouble is None
    ((_, _, usage),) = Ledger(database).cells(tenant=None, start=0, end=2 * BUCKET)
    assert usage == Usage(*GOOD)


async def test_a_message_that_holds_up_the_rest_is_told_once_and_health_says_so(
    database: Database, no_pauses: None, caplog: pytest.LogCaptureFixture
) -> None:
    newer = b'{"v":2,"kind":"something new"}'
    one = collector(database, [message(), newer], ManualClock(now=BUCKET), looks=20)
    with pytest.raises(Stop):
        await one.run()
    assert "a newer gateway" in str(one.status().trouble)
    assert len([each for each in caplog.records if "newer gateway" in each.getMessage()]) == 1


# ---- in the ledger -------------------------------------------------------------------------------------------------


def test_sums_that_outgrow_64_bits_are_whole_and_readable(database: Database) -> None:
    ledger = Ledger(database)
    most = 2**63 - 1
    # As what was there before such counts were refused: messages that were never decoded.
    cells = (CellTotals("a", "s", "p", 1, "sse", True, (most,) * 9),)
    told: list[Message] = [Totals(1, one, 1, "acme", BUCKET, cells) for one in ("s1", "s2", "s3")]
    ledger.merge([*told, *(SourceWord(1, one, 1, "ended", "n", 0, 2 * BUCKET) for one in ("s1", "s2", "s3"))])
    with database.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(CELLS)).scalar_one() == 3
    threefold = Usage(*(3 * most for _ in MEASURES))
    ((_, _, shown),) = ledger.cells(tenant=None, start=0, end=2 * BUCKET)
    ((_, billed),) = ledger.sums(tenant="acme", start=0, end=2 * BUCKET)
    assert shown == billed == threefold
    chores = UsageChores(
        database,
        zone=lambda tenant: None,
        hours_after_days=40,
        days_after_days=400,
        audit_days=90,
    )
    assert {one.records for one in chores.metered("acme", 0, 2 * BUCKET).values()} == {2 * most}
    assert chores.of_process("s1", start=0, end=2 * BUCKET) == {("s", "sse"): 2 * most}
