"""What verification finds: a change of any column that a statement stands on, each by name, and never a crash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from gateway.billing.proof import Proof
from gateway.billing.store import StatementStore
from gateway.billing.tables import METADATA
from gateway.cli import main
from gateway.database.database import Database
from gateway.metering.tables import METADATA as USAGE
from tests.parts.billing import AUGUST, HOUR, JULY, Desk, desk, example


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Three months, approved, with an adjustment, a statement that is credited, late usage, and hidden records."""
    folder = tmp_path_factory.mktemp("books")
    with desk(f"sqlite:///{folder}/gateway.db", folder, approval="required") as one:
        one.use(JULY.start, records=1_234_567, hidden_records=9)
        one.use(AUGUST.start, records=1_000_000, filtered_records=3)
        one.store.adjust(
            tenant="acme", name="Line", reason="outage", amount=Decimal("-0.0005"), by="eve", now=int(JULY.end)
        )
        _close(one, JULY.end + HOUR)
        one.use(JULY.start + HOUR, source="late", records=900_000, hidden_records=1)
        one.told(AUGUST.end, source="late", state="ended")
        _close(one, AUGUST.end + HOUR)
        one.store.credit("ST-000002", reason="wrong", by="eve", now=int(AUGUST.end))
        _close(one, AUGUST.next().end + HOUR)
        yield one


def _close(finance: Desk, moment: float) -> None:
    finance.told(moment)
    for waits in finance.close(moment):
        assert waits.outcome == "approval"
        assert waits.statement is not None
        finance.store.approve(waits.statement.id, by="eve", now=int(moment))
    assert {one.outcome for one in finance.close(moment)} == {"final"}


def changed(value: Any) -> Any:
    """Something else of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value[:-1] + ("x" if value[-1] != "x" else "y")


def found_after(books: Desk, table: sa.Table, column: str, where: Any) -> set[str]:
    """The kinds of what is found when a column of the first such row is another; it is put back."""
    key = list(table.primary_key.columns)
    with books.database.writing() as connection:
        row = connection.execute(sa.select(table).where(where).order_by(*key)).mappings().first()
        assert row is not None
        value = row[column]
        other = changed(value)
        mine = sa.and_(*(table.c[one.name] == row[one.name] for one in key))
        connection.execute(table.update().where(mine).values({column: other}))
    try:
        return {kind for _, kind in books.findings()}
    finally:
        with books.database.writing() as connection:
            there = sa.and_(*(table.c[one.name] == (other if one.name == column else row[one.name]) for one in key))
            connection.execute(table.update().where(there).values({column: value}))


STATEMENT = METADATA.tables["statements"]
CELL = USAGE.tables["usage_cells"]


def test_nothing_is_found_where_nothing_was_changed(books: Desk) -> None:
    assert books.findings() == []


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("id", "chain"),
        ("tenant", "chain"),
        ("status", "number"),
        ("number", "chain"),
        ("body", "hash"),
        ("hash", "hash"),
        ("is_preview", "row"),
        ("starts_at", "row"),
        ("ends_at", "row"),
        ("approved_by", "row"),
        ("approved_at", "row"),
        ("approved_content", "row"),
        ("ledger_seals", "row"),
    ],
)
def test_a_changed_column_of_a_statement_is_found(column: str, kind: str, books: Desk) -> None:
    assert kind in found_after(books, STATEMENT, column, STATEMENT.c.number == "ST-000001")


def test_a_changed_mark_of_a_credit_is_found(books: Desk) -> None:
    assert found_after(books, STATEMENT, "credited_by", STATEMENT.c.number == "ST-000002") == {"row"}
    with books.database.writing() as connection:
        connection.execute(STATEMENT.update().where(STATEMENT.c.number == "ST-000001").values(status="CREDITED"))
    try:
        assert ("ST-000001", "row") in books.findings()
    finally:
        with books.database.writing() as connection:
            connection.execute(STATEMENT.update().where(STATEMENT.c.number == "ST-000001").values(status="FINAL"))


@pytest.mark.parametrize("column", ["number", "tenant", "made_by", "name", "reason", "amount", "statement"])
def test_a_changed_adjustment_is_found(column: str, books: Desk) -> None:
    table = METADATA.tables["statement_adjustments"]
    where = table.c.name == "Line"
    if column != "number":
        assert found_after(books, table, column, where) == {"adjustment"}
        return
    with books.database.writing() as connection:
        connection.execute(table.update().where(where).values(number=77))
    try:
        assert "adjustment" in {kind for _, kind in books.findings()}
    finally:
        with books.database.writing() as connection:
            connection.execute(table.update().where(where).values(number=1))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("bucket", "cell"),
        ("seconds", "cell"),
        ("records", "usage"),
        ("filtered_records", "usage"),
        ("hidden_records", "usage"),
        ("line", "usage"),
    ],
)
def test_a_changed_cell_of_the_ledger_is_found(column: str, kind: str, books: Desk) -> None:
    where = CELL.c.bucket == JULY.start
    if column != "line":
        assert kind in found_after(books, CELL, column, where)
        return
    with books.database.writing() as connection:
        row = connection.execute(sa.select(CELL).where(where)).mappings().one()
        connection.execute(CELL.delete().where(where))
    try:
        assert kind in {one for _, one in books.findings()}
    finally:
        with books.database.writing() as connection:
            connection.execute(CELL.insert().values(**row))


COUNTER = METADATA.tables["billing_counters"]


@pytest.mark.parametrize(
    ("name", "by", "found"), [("number", 1, 1), ("number", -1, 1), ("made", -1, 1), ("made", 2, 0)]
)
def test_a_counter_that_was_changed_is_found_where_that_is_certain(name: str, by: int, found: int, books: Desk) -> None:
    """A release before this one counts a draft that is made again: ahead of the newest nobody is accused."""
    mine = COUNTER.update().where(COUNTER.c.name == name)
    with books.database.writing() as connection:
        connection.execute(mine.values(last=COUNTER.c.last + by))
    try:
        assert books.findings() == [("-", "number")] * found
    finally:
        with books.database.writing() as connection:
            connection.execute(mine.values(last=COUNTER.c.last - by))


class Busy:
    """A database in which another process makes a preview after each look."""

    def __init__(self, database: Database) -> None:
        self.writing = database.writing
        self._database = database
        self._others = StatementStore(database)
        self.made = 0

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self._database.reading() as connection:
            yield connection
        self.made += 1
        body = {"id": f"p{self.made}", "tenant": "acme", "is_preview": True}
        self._others.keep(body, starts_at=0, ends_at=1)


def test_previews_that_are_made_meanwhile_are_no_finding(tmp_path: Path) -> None:
    with desk(f"sqlite:///{tmp_path}/gateway.db", tmp_path) as one:
        one.close_all(JULY.end + HOUR)
        busy: Any = Busy(one.database)
        verdict = Proof(StatementStore(busy), one.statements.drafting).verify()
        assert (verdict.checked, verdict.findings) == (1, ())
        assert busy.made > 1


@pytest.mark.parametrize(
    ("column", "kind"), [("title", "plan"), ("currency", "amounts"), ("revision", "amounts"), ("name", "amounts")]
)
def test_a_changed_revision_in_the_history_is_found(column: str, kind: str, books: Desk) -> None:
    table = METADATA.tables["plan_history"]
    assert kind in found_after(books, table, column, table.c.name == "pro")


def test_whatever_byte_of_prices_is_changed_the_rest_is_looked_at(books: Desk) -> None:
    table = METADATA.tables["plan_history"]
    where = table.c.name == "pro"
    with books.database.reading() as connection:
        pricing = connection.execute(sa.select(table.c.pricing).where(where)).scalar_one()
    try:
        for place in range(0, len(pricing), 23):
            flipped = pricing[:place] + chr(ord(pricing[place]) ^ 1) + pricing[place + 1 :]
            with books.database.writing() as connection:
                connection.execute(table.update().where(where).values(pricing=flipped))
            verdict = books.statements.proof.verify()
            assert verdict.checked == 3
            if not _is_json(flipped):
                assert ("-", "plan") in {(one.statement, one.kind) for one in verdict.findings}
        with books.database.writing() as connection:
            connection.execute(table.update().where(where).values(pricing="{"))
        options = ["--set", "auth.builtin.enabled=true", "--set", f"database.url=sqlite:///{books.folder}/gateway.db"]
        for more in ([], ["--tenant", "acme"]):
            done = CliRunner().invoke(main, ["billing", "verify", "--format", "json", *more, *options])
            assert done.exit_code == 1, done.output
            kinds = {one["kind"] for one in json.loads(done.stdout)["findings"]}
            assert kinds == {"plan", "amounts"}
    finally:
        with books.database.writing() as connection:
            connection.execute(table.update().where(where).values(pricing=pricing))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_who_approved_it_is_part_of_what_is_sealed(books: Desk) -> None:
    kept = books.store.find("ST-000001")
    assert kept.body["approval"] == {
        "by": "eve",
        "at": "2026-07-31T23:00:00.000Z",
        "content": kept.approved_content,
    }


def test_counts_that_partners_are_not_told_are_in_no_body(books: Desk) -> None:
    for kept in books.store.closed(tenant="acme")[:2]:
        assert kept.ledger_seals
        digests = json.loads(kept.ledger_seals)
        assert kept.id in digests
        assert digests[kept.id] not in json.dumps(kept.shown())


def test_hidden_records_that_are_told_late_are_noted_by_the_next_statement(tmp_path: Path) -> None:
    with desk(f"sqlite:///{tmp_path}/gateway.db", tmp_path) as finance:
        finance.use(JULY.start, records=5, hidden_records=1)
        finance.close_all(JULY.end + HOUR)
        finance.use(JULY.start, source="late", hidden_records=4)
        finance.told(AUGUST.end, source="late", state="ended")
        assert finance.findings() == [("ST-000001", "usage")]
        finance.close_all(AUGUST.end + HOUR)
        assert finance.findings() == []


# ---- usage of a month that had nothing ------------------------------------------------------------------------------


def test_late_usage_of_a_month_without_a_statement_is_billed_by_the_next_one(tmp_path: Path) -> None:
    catalog = example()
    for one in catalog["tenants"][0]["entitlements"]:
        one["from"] = date(2026, 9, 1)
    with desk(f"sqlite:///{tmp_path}/gateway.db", tmp_path, catalog=catalog) as finance:
        september = AUGUST.next()
        (only,) = finance.close_all(september.end + HOUR)
        assert only.body["period"]["label"] == "2026-09", "nothing was to be said of July and August"
        for month in (JULY, AUGUST):
            finance.use(month.start + HOUR, source="node-3", records=3_000_000)
        finance.told(september.end, source="node-3", state="ended")
        assert finance.findings() == [("-", "usage")] * 2
        october = september.next()
        (kept,) = finance.close_all(october.end + HOUR)
        lines = [one for one in kept.body["lines"] if one["kind"] == "correction"]
        assert [(one["name"], one["amount"]) for one in lines] == [
            ("Records, late usage of 2026-07", "20.00"),
            ("Records, late usage of 2026-08", "20.00"),
        ]
        assert [(one["number"], one["period"]) for one in kept.body["corrections"]] == [
            (None, "2026-07"),
            (None, "2026-08"),
        ]
        assert finance.findings() == []
        finance.use(JULY.start + HOUR, source="node-4", records=100_000)
        finance.told(october.end, source="node-4", state="ended")
        (november,) = finance.close_all(october.next().end + HOUR)
        again = [one for one in november.body["lines"] if one["kind"] == "correction"]
        assert [one["amount"] for one in again] == ["1.00"], "once, and only what is new"
        assert finance.findings() == []


def test_a_body_that_was_sealed_anew_without_some_of_it_is_found_and_ends_nothing(books: Desk) -> None:
    """By somebody who can compute a hash."""
    kept = books.store.find("ST-000001")
    for name in kept.body:
        text = json.dumps(
            {one: value for one, value in kept.body.items() if one != name},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )
        forged = {"body": text, "hash": hashlib.sha256(text.encode()).hexdigest()}
        with books.database.writing() as connection:
            connection.execute(STATEMENT.update().where(STATEMENT.c.number == "ST-000001").values(forged))
        try:
            assert ("ST-000002", "chain") in books.findings(), name
        finally:
            with books.database.writing() as connection:
                whole = {"body": kept.text, "hash": kept.hash}
                connection.execute(STATEMENT.update().where(STATEMENT.c.number == "ST-000001").values(whole))
    assert books.findings() == []
