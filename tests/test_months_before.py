"""Months before the deployment knew a tenant: never billed unasked, and as any other once an operator asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.billing.errors import StatementConflict
from gateway.billing.period import Period
from gateway.billing.schedule import Schedule
from gateway.billing.statement import lines_of
from gateway.billing.store import Kept
from gateway.cli import main
from tests.parts.billing import BERLIN, HOUR, JULY, Desk, desk, example

JUNE, MAY, APRIL = JULY.previous(), JULY.previous().previous(), JULY.previous().previous().previous()
FEE = Decimal("49.00")


@pytest.fixture
def finance(tmp_path: Path) -> Iterator[Desk]:
    """It is 10 July, the catalog is new, and says that acme has had its plan since January."""
    with desk(f"sqlite:///{tmp_path}/gateway.db", tmp_path) as one:
        yield one


def fees(*kept: Kept) -> dict[str, Decimal]:
    """What statements ask as base fee, by the month that it is for."""
    found: dict[str, Decimal] = {}
    for line in (line for one in kept for line in lines_of(one.body, "charge", "advance")):
        if line.name == "Base fee":
            month = Period.holding(line.start, zone=BERLIN).label
            found[month] = found.get(month, Decimal()) + line.amount
    return found


def look(finance: Desk) -> list[str]:
    """What the scheduler does by itself."""
    return [
        str(one)
        for one in Schedule(
            finance.closing, finance.store, clock=finance.clock, holder="one", interval_seconds=1
        ).look()
    ]


def test_a_month_before_is_a_draft_when_it_is_asked_for_and_final_once_it_is_approved(finance: Desk) -> None:
    finance.use(JUNE.start + HOUR, records=2_000_000)
    finance.told(finance.clock.now() + HOUR)
    now = finance.clock.now()
    draft = finance.closing.preview("acme", JUNE, now=now)
    assert (draft.is_preview, draft.status, draft.body["period"]["label"]) == (False, "DRAFT", "2026-06")
    assert look(finance) == [], "an operator has looked at it, and nothing more"
    finance.store.approve(draft.id, by="eve", now=int(now))
    assert look(finance) == ["final"]
    june = finance.store.find("ST-000001")
    assert (june.id, june.body["period"]["label"], june.approved_by) == (draft.id, "2026-06", "eve")
    (july,) = finance.close_all(JULY.end + HOUR)
    assert july.body["previous"] == {"number": "ST-000001", "hash": june.hash}
    assert fees(june, july) == {"2026-06": FEE, "2026-07": FEE, "2026-08": FEE}, "each asked once"
    assert finance.findings() == []


def test_a_close_that_names_a_month_before_asks_for_that_one_alone(finance: Desk) -> None:
    finance.told(finance.clock.now() + HOUR)
    assert finance.close(finance.clock.now()) == []
    (may,) = finance.close(finance.clock.now(), until="2026-05")
    assert (may.outcome, may.period) == ("final", MAY)
    assert look(finance) == [], "June stays as it was: nobody asked for it"
    (june,) = finance.close(finance.clock.now(), until="2026-06")
    assert (june.outcome, june.period) == ("final", JUNE)
    (july,) = finance.close_all(JULY.end + HOUR)
    made = [finance.store.find(f"ST-{number:06}") for number in (1, 2, 3)]
    assert made[2] == july
    assert fees(*made) == {"2026-05": FEE, "2026-06": FEE, "2026-07": FEE, "2026-08": FEE}
    assert finance.findings() == []


def test_months_left_out_between_stay_without_a_statement(finance: Desk) -> None:
    finance.told(JULY.end + 2 * HOUR)
    finance.close(finance.clock.now(), until="2026-05")
    (july,) = finance.close_all(JULY.end + HOUR)
    assert july.body["period"]["label"] == "2026-07"
    (late,) = finance.close(JULY.end + 2 * HOUR, until="2026-06")
    assert (late.outcome, late.statement) == ("refused", None)
    assert "ST-000002 of 2026-07 is final" in late.reasons[0]


def test_a_month_before_a_final_one_is_refused_and_says_why(finance: Desk) -> None:
    finance.told(finance.clock.now() + HOUR)
    now = finance.clock.now()
    draft = finance.closing.preview("acme", MAY, now=now)
    finance.close(now, until="2026-06")
    with pytest.raises(StatementConflict, match="ST-000001 of 2026-06 is final"):
        finance.store.approve(draft.id, by="eve", now=int(now))
    again = finance.closing.preview("acme", MAY, now=now)
    assert again.is_preview
    with pytest.raises(StatementConflict, match=r"is a preview.*ST-000001 of 2026-06 is final"):
        finance.store.approve(again.id, by="eve", now=int(now))
    assert [(one.outcome, one.period) for one in finance.close(now, until="2026-05")] == [("refused", MAY)]
    assert [one.number for one in finance.store.closed(tenant="acme")] == ["ST-000001"]


def test_a_draft_that_nobody_approved_holds_up_nothing(finance: Desk) -> None:
    finance.closing.preview("acme", JUNE, now=finance.clock.now())
    (july,) = finance.close_all(JULY.end + HOUR)
    assert july.body["period"]["label"] == "2026-07"


def test_an_approval_is_of_what_was_looked_at(finance: Desk) -> None:
    finance.told(finance.clock.now() + 9 * HOUR)
    now = finance.clock.now()
    draft = finance.closing.preview("acme", JUNE, now=now)
    finance.store.approve(draft.id, by="eve", now=int(now))
    finance.use(JUNE.start, records=9_000_000)
    (held,) = finance.close(now)
    assert held.outcome == "approval"


def test_usage_of_a_month_before_has_to_be_complete(finance: Desk) -> None:
    finance.told(JUNE.end - 60)
    (held,) = finance.close(finance.clock.now(), until="2026-06")
    assert held.outcome == "incomplete"


def test_a_month_without_a_plan_a_part_of_one_and_one_that_runs_are_previews_only(finance: Desk) -> None:
    december = Period.parse("2025-12", zone=BERLIN)
    now = finance.clock.now()
    for stretch in (december, JULY, Period.spanning(JUNE.start, JUNE.end - 900, zone=BERLIN)):
        assert finance.closing.preview("acme", stretch, now=now).is_preview
    assert finance.close(now, until="2025-12") == []


def test_where_approval_is_asked_for_a_named_month_waits_for_it(tmp_path: Path) -> None:
    with desk(f"sqlite:///{tmp_path}/gateway.db", tmp_path, approval="required") as finance:
        finance.told(finance.clock.now() + HOUR)
        now = finance.clock.now()
        (waits,) = finance.close(now, until="2026-06")
        assert waits.outcome == "approval"
        assert waits.statement is not None
        finance.store.approve(waits.statement.id, by="eve", now=int(now))
        (final,) = finance.close(now)
        assert (final.outcome, final.period) == ("final", JUNE)


# ---- the command ----------------------------------------------------------------------------------------------------


def command(folder: Path, *arguments: str) -> Result:
    options = ["--set", "auth.builtin.enabled=true", "--set", f"database.url=sqlite:///{folder}/gateway.db"]
    return CliRunner().invoke(main, ["billing", *arguments, *options])


@pytest.mark.parametrize("month", ["2999-01", None])
def test_the_command_refuses_a_month_that_is_not_over(month: str | None, finance: Desk) -> None:
    from gateway.clock import SystemClock

    label = month or Period.holding(SystemClock().now(), zone=BERLIN).label
    done = command(finance.folder, "close", "--period", label)
    assert done.exit_code == 2
    assert f"{label} is not over" in done.output
    assert finance.store.page(tenant=None, limit=9) == []


def test_the_command_says_for_whom_a_month_is_not_over(finance: Desk) -> None:
    """Between the ends of a month in two zones."""
    from gateway.cli.billing_arguments import not_over

    catalog = example()
    far = {**catalog["tenants"][0], "name": "far", "applications": [], "time_zone": "America/New_York"}
    finance.apply(catalog | {"tenants": [catalog["tenants"][0], far]})
    assert not_over(finance.statements, "2026-07", tenant=None, now=JULY.end + 60) == ["far"]
    assert not_over(finance.statements, "2026-07", tenant=None, now=JULY.end + 9 * HOUR) == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["adjust", "--tenant", "acme", "--amount", "1", "--name", "", "--reason", "r"],
        ["adjust", "--tenant", "acme", "--amount", "1", "--name", "a\nb", "--reason", "r"],
        ["adjust", "--tenant", "acme", "--amount", "1", "--name", "a\x07", "--reason", "r"],
        ["adjust", "--tenant", "acme", "--amount", "1", "--name", "n", "--reason", " "],
        ["adjust", "--tenant", "acme", "--amount", "1", "--name", "n", "--reason", "r", "--by", ""],
        ["adjust", "--tenant", "acme", "--amount", "1e2", "--name", "n", "--reason", "r"],
        ["adjust", "--tenant", "acme", "--amount", "+1", "--name", "n", "--reason", "r"],
        ["adjust", "--tenant", "acme", "--amount", "0.0000000000001", "--name", "n", "--reason", "r"],
        ["close", "--by", ""],
        ["approve", "s1", "--by", "\n"],
    ],
)
def test_a_line_has_a_reason_and_a_name_and_one_spelling_of_amounts(wrong: list[str], finance: Desk) -> None:
    done = command(finance.folder, *wrong)
    assert done.exit_code == 2, done.output
    assert "allowed" in done.output
    assert finance.store.waiting(tenant="acme") == []


def test_a_statement_goes_into_a_pipe_or_a_file_in_the_form_that_its_name_says(finance: Desk) -> None:
    finance.told(finance.clock.now() + HOUR)
    finance.close(finance.clock.now(), until="2026-06")
    piped = command(finance.folder, "statement", "ST-000001", "--format", "pdf")
    assert piped.exit_code == 0, piped.output
    assert piped.stdout_bytes.startswith(b"%PDF")
    for form in ("pdf", "csv", "html", "json"):
        file = finance.folder / f"x.{form}"
        assert command(finance.folder, "statement", "ST-000001", "--output", str(file)).exit_code == 0
        written = command(finance.folder, "statement", "ST-000001", "--format", form).stdout_bytes
        assert file.read_bytes() == written
    assert command(finance.folder, "statement", "ST-000001", "--output", "x.docx").exit_code == 2
