"""Simulation: recorded usage under a plan that nobody has published yet, compared month by month."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from gateway.billing.period import Period
from gateway.billing.rows import MemoryLedger
from gateway.billing.simulate import simulate
from gateway.billing.terms import Term
from gateway.cli import main
from gateway.cli.simulate import compare, lint
from gateway.cli.simulate import simulate as simulate_command
from gateway.database.database import Database
from gateway.metering.ledger import Ledger
from gateway.metering.totals import VERSION, CellTotals, Totals
from gateway.model import Plan
from gateway.usage import Usage, UsageKey

EXAMPLES = Path(__file__).parents[1] / "asyncapi"
ZONE = "Europe/Berlin"
JULY, AUGUST = Period.parse("2026-07", zone=ZONE), Period.parse("2026-08", zone=ZONE)
BASE = {"name": "Base", "model": "flat", "amount": "31.00", "billed": "in_advance"}


def plan(unit_price: str, *, name: str = "pro", revision: int = 1, currency: str = "EUR", **terms: Any) -> Plan:
    unit = {"name": "Records", "model": "unit", "meter": "records", "unit_price": unit_price}
    return Plan(name, revision, name, currency, {}, {"charges": [BASE, unit], **terms})


def row(at: int, records: int, *, of: str = "pro", revision: int = 1) -> tuple[UsageKey, Usage]:
    return UsageKey("acme", "app", "flights", of, revision, "sse", True, at), Usage(records=records)


def test_each_month_is_rated_under_both_and_the_difference_is_told() -> None:
    rows = [row(JULY.start, 100), row(AUGUST.start, 50)]
    period = Period.between("2026-07", "2026-09", zone=ZONE)
    found = simulate(
        rows, tenant="acme", period=period, terms=[Term(plan("1"), 0)], replacing={"pro": plan("1.10", revision=2)}
    )
    assert [(one.period.label, str(one.before.total), str(one.after.total)) for one in found.outcomes] == [
        ("2026-07", "131.00", "141.00"),
        ("2026-08", "81.00", "86.00"),
    ]
    told = found.to_dict()
    assert (told["before"], told["after"]) == (
        {"currency": "EUR", "total": "212.00"},
        {"currency": "EUR", "total": "227.00"},
    )
    assert told["difference"] == "15.00"


def test_other_plans_of_the_tenant_stay_as_they_are() -> None:
    terms = [Term(plan("1"), 0), Term(plan("5", name="other"), 0)]
    rows = [row(JULY.start, 10), row(JULY.start, 10, of="other")]
    found = simulate(rows, tenant="acme", period=JULY, terms=terms, replacing={"pro": plan("0.5", revision=9)})
    assert str(found.difference) == "-5.00"
    untouched = simulate(rows, tenant="acme", period=JULY, terms=terms, replacing={"absent": plan("7", name="absent")})
    assert str(untouched.difference) == "0.00"


def test_the_new_plan_stands_for_every_revision_it_replaces() -> None:
    middle = JULY.start + 86_400
    terms = [Term(plan("1"), 0, middle), Term(plan("2", revision=2), middle)]
    rows = [row(JULY.start, 10), row(middle, 10, revision=2)]
    found = simulate(rows, tenant="acme", period=JULY, terms=terms, replacing={"pro": plan("3", revision=3)})
    (month,) = found.outcomes
    assert [(line.revision, str(line.amount)) for line in month.after.lines] == [(3, "31.00"), (3, "60.00")]
    assert (str(month.before.total), str(month.after.total)) == ("61.00", "91.00")


def test_a_part_of_a_month_counts_flat_amounts_in_part() -> None:
    period = Period.between("2026-07-01", "2026-07-11", zone=ZONE)
    found = simulate([], tenant="acme", period=period, terms=[Term(plan("1"), 0)], replacing={"pro": plan("1")})
    assert str(found.before) == "10.00"


def test_a_plan_in_another_currency_has_no_difference() -> None:
    dollars = plan("1", revision=2, currency="USD")
    found = simulate(
        [row(JULY.start, 1)], tenant="acme", period=JULY, terms=[Term(plan("1"), 0)], replacing={"pro": dollars}
    )
    assert found.currencies == ("EUR", "USD")
    assert found.difference is None
    assert found.to_dict()["difference"] is None


def test_a_tenant_that_the_plans_do_not_concern_is_left_out() -> None:
    ledger = MemoryLedger()
    ledger.add(*row(JULY.start, 10))
    kept = {"ledger": ledger, "tenant": "acme", "published": {}, "terms": [Term(plan("1"), 0, AUGUST.start)]}
    assert compare(**kept, period=JULY, replacing={"other": plan("1", name="other")}) is None  # type: ignore[arg-type]
    assert compare(**kept, period=AUGUST, replacing={"pro": plan("2")}) is None  # type: ignore[arg-type]
    found = compare(**kept, period=JULY, replacing={"pro": plan("2")})  # type: ignore[arg-type]
    assert found is not None
    assert str(found.difference) == "10.00"


def test_usage_of_several_months_reaches_each_of_them() -> None:
    ledger = MemoryLedger()
    for at in (JULY.start, JULY.end - 900, AUGUST.start, AUGUST.end - 900):
        ledger.add(*row(at, 10))
    period = Period.between("2026-07", "2026-09", zone=ZONE)
    found = compare(
        ledger, tenant="acme", period=period, terms=[Term(plan("1"), 0)], published={}, replacing={"pro": plan("2")}
    )
    assert found is not None
    assert [str(one.after.total) for one in found.outcomes] == ["71.00", "71.00"]


def record(ledger: Ledger, at: int, records: int) -> None:
    """A source's first word about a quarter of an hour."""
    counts = tuple(Usage(records=records))
    cell = CellTotals("acme-web", "flights", "pro", 1, "sse", True, counts)
    ledger.merge([Totals(VERSION, str(uuid4()), 1, "acme", at, (cell,))])


def test_the_command_compares_what_the_ledger_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES, "asyncapi")
    local = ["--set", "auth.builtin.enabled=true", "--set", f"database.url=sqlite:///{tmp_path}/gateway.db"]
    assert CliRunner().invoke(main, ["apply", "asyncapi/catalog.yaml", *local]).exit_code == 0
    with closing(Database(f"sqlite:///{tmp_path}/gateway.db")) as database:
        ledger = Ledger(database)
        for month in (JULY, AUGUST):
            record(ledger, month.start + 900, 3_000_000)
    tried = Path("asyncapi/catalog.yaml").read_text().partition("tenants:")[0].replace("'0.00001'", "'0.00002'")
    Path("next.yaml").write_text(tried)
    asked = ["--plan", "next.yaml", "--from", "2026-07", "--to", "2026-09", *local]
    result = CliRunner().invoke(simulate_command, [*asked, "--format", "json"])
    assert result.exit_code == 0, result.output
    by_tenant = {one["tenant"]: one for one in json.loads(result.stdout)["tenants"]}
    assert by_tenant.keys() == {"acme", "globex"}
    # Twice (49 + 20) and 19 % against twice (49 + 40) and 19 %.
    assert by_tenant["acme"]["before"]["total"] == "164.22"
    assert by_tenant["acme"]["difference"] == "47.60"
    assert by_tenant["globex"]["difference"] == "0.00"
    shown = CliRunner().invoke(simulate_command, [*asked, "--tenant", "acme"])
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["tenant", "currency", "before", "after", "difference"],
        ["acme", "EUR", "164.22", "211.82", "47.60"],
        ["all", "EUR", "164.22", "211.82", "47.60"],
    ]
    last_month = CliRunner().invoke(simulate_command, ["--plan", "next.yaml", "--tenant", "acme", *local])
    assert last_month.stdout.splitlines()[1].split() == ["acme", "EUR", "58.31", "58.31", "0.00"]
    for wrong in (["--from", "2026-09", "--to", "2026-07"], ["--from", "2026-07"]):
        assert CliRunner().invoke(simulate_command, ["--plan", "next.yaml", *wrong, *local]).exit_code == 2
    for start, end in (("1975-01", "2300-01"), ("2026-07", "2036-08")):
        too_long = CliRunner().invoke(simulate_command, ["--plan", "next.yaml", "--from", start, "--to", end, *local])
        assert too_long.exit_code == 2
        assert "days; allowed: at most 3660, ten years" in " ".join(too_long.output.split())
    ten_years = ["--from", "2020-01", "--to", "2030-01", "--format", "json"]
    result = CliRunner().invoke(simulate_command, ["--plan", "next.yaml", "--tenant", "acme", *ten_years, *local])
    (acme,) = json.loads(result.stdout)["tenants"]
    assert len(acme["periods"]) == 120
    assert acme["difference"] == "47.60"


PLANS = """\
plans:
  - name: pro
    revision: 2
    title: Pro
    currency: EUR
    limits: {requests_per_second: 1, connections: 1, records_per_second: 1, bytes_per_second: 1, \
replay_records_per_second: 1}
    charges:
      - {name: Records, model: volume, meter: records, tiers: [{up_to: 10, unit_price: '2'}, {unit_price: '1'}]}
"""


def test_lint_names_what_is_doubtful_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(PLANS)
    result = CliRunner().invoke(lint, [str(path)])
    assert result.exit_code == 1
    assert result.output.startswith(
        f"{path}:8: plan pro revision 2, charge Records: the bill falls as usage grows: 10 "
    )
    as_json = CliRunner().invoke(lint, ["--format", "json", str(path)])
    (doubt,) = json.loads(as_json.output)["doubts"]
    assert (doubt["plan"], doubt["charge"], doubt["tier"]) == ("pro", "Records", 2)
    path.write_text(PLANS.replace("volume", "graduated"))
    clean = CliRunner().invoke(lint, [str(path)])
    assert (clean.exit_code, clean.output) == (0, "1 plans: nothing doubtful\n")


BARE = """\
name: newcomer
revision: 1
title: Newcomer
currency: EUR
limits: {requests_per_second: 1, connections: 1, records_per_second: 1, bytes_per_second: 1, \
replay_records_per_second: 1}
charges:
  - {name: Records, model: unit, meter: records, unit_price: '0.00001'}
"""


def test_a_plan_that_nobody_has_is_tried_for_every_tenant_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES, "asyncapi")
    local = ["--set", "auth.builtin.enabled=true", "--set", f"database.url=sqlite:///{tmp_path}/gateway.db"]
    assert CliRunner().invoke(main, ["apply", "asyncapi/catalog.yaml", *local]).exit_code == 0
    with closing(Database(f"sqlite:///{tmp_path}/gateway.db")) as database:
        record(Ledger(database), JULY.start + 900, 3_000_000)
    stretch = ["--from", "2026-07", "--to", "2026-08", *local]

    def tried(text: str, *more: str) -> Any:
        Path("next.yaml").write_text(text)
        return CliRunner().invoke(main, ["billing", "simulate", "--plan", "next.yaml", *more, *stretch])

    alone = tried(BARE, "--format", "json")
    assert alone.exit_code == 0, alone.output
    told = json.loads(alone.stdout)
    assert told["plans"] == [{"plan": "newcomer", "revision": 1, "in_place_of": "all"}]
    by_tenant = {one["tenant"]: one for one in told["tenants"]}
    assert by_tenant["acme"]["after"] == {"currency": "EUR", "total": "30.00"}
    assert by_tenant["globex"]["after"] == {"currency": "EUR", "total": "0.00"}
    assert "nobody has a plan newcomer: compared as if" in alone.stderr
    listed = "plans:\n  - " + BARE.replace("\n", "\n    ").rstrip()
    assert json.loads(tried(listed, "--format", "json").stdout)["tenants"] == told["tenants"]
    two = tried(listed + "\n  - " + BARE.replace("newcomer", "other").replace("\n", "\n    ").rstrip())
    assert two.exit_code == 2
    assert "nobody has a plan of one of these names" in " ".join(two.output.split())
    beside = tried(PLANS + "  - " + BARE.replace("\n", "\n    ").rstrip())
    assert beside.exit_code == 0, beside.output
    assert "nobody has a plan newcomer: not compared" in beside.stderr
    early = CliRunner().invoke(
        main, ["billing", "simulate", "--plan", "next.yaml", "--from", "2001-01", "--to", "2001-02", *local]
    )
    assert "no tenant had one of these plans" in early.stderr


def test_a_currency_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    for wrong in ("ZZZ", "eur", "EURO"):
        path.write_text(PLANS.replace("EUR", wrong))
        result = CliRunner().invoke(main, ["billing", "lint", str(path)])
        assert result.exit_code == 2
        assert f"{path.name}:5: plan pro.currency, got '{wrong}'" in " ".join(result.output.split())
    path.write_text(PLANS.replace("EUR", "KWD"))
    assert CliRunner().invoke(main, ["billing", "lint", str(path)]).exit_code == 1, (
        "a doubt about its tiers, and no more"
    )
