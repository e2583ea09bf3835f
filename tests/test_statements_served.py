"""Statements as partners and operators get them from a running gateway, which closes the month by itself."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from gateway.billing.period import Period
from gateway.billing.tables import ENTITLEMENTS, REVISIONS
from gateway.cli import main
from gateway.database.database import Bounds, Database
from gateway.metering.ledger import Ledger
from gateway.metering.totals import CellTotals, SourceWord, Totals
from gateway.units import format_rfc3339
from gateway.usage import Usage, bucket_of
from tests.parts.gateway import UNLIMITED, Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import problem

ADMIN = "operators-secret"
SECONDS = 45
LAST = Period.holding(datetime.now(UTC).timestamp(), zone="Europe/Berlin").previous()
PLAN = {
    "name": "paid",
    "revision": 1,
    "title": "Paid",
    "currency": "EUR",
    "limits": UNLIMITED,
    "charges": [{"name": "Records", "model": "unit", "meter": "records", "unit_price": "0.001"}],
    "tax": {"name": "VAT", "percent": "19"},
}


@dataclass
class Running:
    deployment: Deployment
    process: GatewayProcess
    partner: httpx.Client
    stranger: httpx.Client
    operator: httpx.Client

    def command(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["billing", *arguments, *self.deployment.options("cli")])


@pytest.fixture(scope="module")
def running(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    topic = f"statements.{uuid.uuid4().hex[:8]}"
    asyncio.run(kafka.create_topic(topic, 1))
    known = catalog(["s"])
    known["tenants"].append({**known["tenants"][0], "name": "newcomer", "applications": []})
    for tenant in known["tenants"]:
        tenant["entitlements"] = [{"product": "all", "plan": "paid", "from": "2020-01-01"}]
    deployment = Deployment(
        tmp_path_factory.mktemp("statements") / "d",
        kafka.bootstrap,
        [contract("s", topic, partitions=1)],
        catalog={**known, "plans": [PLAN]},
        settings={
            "admin": {"port": 0, "tokens": [ADMIN]},
            "billing": {"grace_seconds": 0, "interval_seconds": 0.2},
            "metering": {"topic": f"{topic}.totals", "audit_days": 0},
        },
    )
    fill(deployment.directory / "gateway.db")
    with deployment.gateway() as process:
        bearers = {
            "partner": (process.base_url, deployment.token("acme-web")),
            "stranger": (process.base_url, deployment.token("globex-app")),
            "operator": (process.admin_url, ADMIN),
        }
        clients = {
            name: httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=30)
            for name, (url, token) in bearers.items()
        }
        try:
            yield Running(deployment, process, **clients)
        finally:
            for client in clients.values():
                client.close()


def fill(file: Path) -> None:
    """As if the catalog had been there last month already, and acme had read then and just now."""
    database = Database(f"sqlite:///{file}", bounds=Bounds(statement_seconds=30))
    try:
        with database.writing() as connection:
            there = ENTITLEMENTS.c.tenant != "newcomer"
            connection.execute(ENTITLEMENTS.update().where(there).values(known_from=LAST.start + 3600))
            connection.execute(REVISIONS.update().values(published_at=(LAST.start + 3600) * 1000))
        ledger, now = Ledger(database), int(datetime.now(UTC).timestamp())
        for number, (moment, records) in enumerate([(LAST.start, 1000), (LAST.end - 900, 234), (now, 5)]):
            cell = CellTotals("acme-web", "s", "paid", 1, "sse", True, tuple(Usage(records=records)))
            ledger.merge([Totals(1, "earlier", number, "acme", bucket_of(moment), (cell,))])
        ledger.merge([SourceWord(1, "earlier", 9, "ended", "node", 0, now)])
    finally:
        database.close()


def listed(client: httpx.Client, path: str = "/v1/statements", **query: str) -> list[dict[str, Any]]:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["statements"]
    return found


async def closed(client: httpx.Client) -> dict[str, Any]:
    """Last month's statement, once the gateway has made it."""

    def final() -> list[dict[str, Any]]:
        return [one for one in listed(client) if one["status"] == "FINAL"]

    await eventually(lambda: bool(final()), seconds=SECONDS)
    (statement,) = final()
    return statement


async def test_a_month_that_is_over_is_closed_by_the_gateway_itself(running: Running) -> None:
    statement = await closed(running.partner)
    assert statement["period"]["label"] == LAST.label
    (line,) = [one for one in statement["lines"] if one["meter"] == "records"]
    assert (line["used"], line["unit_price"], line["exact"], line["amount"]) == ("1234", "0.001", "1.234", "1.23")
    assert (statement["total"], statement["currency"]) == ("1.46", "EUR")
    assert "statement_final" in running.process.log()


async def test_a_partner_reads_its_own_in_every_form_and_by_every_name(running: Running) -> None:
    statement = await closed(running.partner)
    path = f"/v1/statements/{statement['number']}"
    for form, media in (
        ("json", "application/json"),
        ("csv", "text/csv"),
        ("html", "text/html"),
        ("pdf", "application/pdf"),
    ):
        ways = [
            running.partner.get(path, headers={"Accept": media}),
            running.partner.get(path, params={"format": form}),
            running.partner.get(f"{path}.{form}"),
            running.partner.get(f"/v1/statements/{statement['id']}", params={"format": form}),
            running.operator.get(f"/admin/statements/{statement['number']}.{form}"),
        ]
        assert [one.status_code for one in ways] == [200] * 5
        assert len({one.content for one in ways}) == 1
        assert all(one.headers["content-type"].startswith(media) for one in ways)
        assert all("no-store" in one.headers["cache-control"] for one in ways)
        assert all(one.headers["x-content-type-options"] == "nosniff" for one in ways)
    assert "sandbox" in running.partner.get(f"{path}.html").headers["content-security-policy"]
    assert running.partner.get(path).json() == {**running.partner.get(path).json(), **statement}
    assert running.partner.get(path).headers["content-type"] == "application/json"


async def test_anothers_statement_is_answered_as_one_that_is_not_there(running: Running) -> None:
    statement = await closed(running.partner)
    same = {"X-Correlation-Id": "the-same"}
    absent = running.stranger.get("/v1/statements/ST-999999", headers=same)
    problem(absent, 404, "statement_not_found")
    for reference in (statement["number"], statement["id"], f"{statement['number']}.pdf"):
        foreign = running.stranger.get(f"/v1/statements/{reference}", headers=same)
        assert (foreign.status_code, foreign.content) == (404, absent.content)
    assert statement["number"] not in json.dumps(listed(running.stranger))


async def test_an_operator_makes_a_preview_up_to_now_that_the_partner_sees_as_a_draft(running: Running) -> None:
    await closed(running.partner)
    now = datetime.now(UTC)
    body = {
        "tenant": "acme",
        "from": format_rfc3339(int((now - timedelta(hours=2)).timestamp()) * 1000),
        "to": format_rfc3339(int((now + timedelta(days=3)).timestamp()) * 1000),
    }
    made = running.operator.post("/admin/statements", json=body)
    assert made.status_code == 201, made.text
    draft = made.json()
    assert (draft["status"], draft["number"], draft["is_preview"]) == ("DRAFT", None, True)
    assert [line["used"] for line in draft["lines"] if line["meter"] == "records"] == ["5"]
    assert made.headers["location"] == f"/admin/statements/{draft['id']}"
    assert running.partner.get(f"/v1/statements/{draft['id']}").json() == draft
    assert listed(running.partner)[0]["id"] == draft["id"]
    refused = running.command("approve", draft["id"])
    assert refused.exit_code == 1
    assert "preview" in refused.output
    audit = running.operator.get("/admin/audit").json()["entries"]
    assert ("statement.preview", "acme") in [(one["action"], one["target"]) for one in audit]


async def test_a_month_before_the_catalog_knew_a_tenant_is_final_once_it_is_asked_for_and_approved(
    running: Running,
) -> None:
    """The catalog, which is of today, says that newcomer has had its plan for years."""

    def of_newcomer() -> list[dict[str, Any]]:
        return [one for one in listed(running.operator, "/admin/statements") if one["tenant"] == "newcomer"]

    await closed(running.partner)
    assert of_newcomer() == [], "nobody asked for it"
    zone = ZoneInfo("Europe/Berlin")
    body = {
        "tenant": "newcomer",
        "from": datetime.fromtimestamp(LAST.start, zone).isoformat(),
        "to": datetime.fromtimestamp(LAST.end, zone).isoformat(),
    }
    made = running.operator.post("/admin/statements", json=body)
    assert made.status_code == 201, made.text
    draft = made.json()
    assert (draft["status"], draft["is_preview"], draft["period"]["label"]) == ("DRAFT", False, LAST.label)
    approved = running.command("approve", draft["id"], "--by", "eve")
    assert approved.exit_code == 0, approved.output
    await eventually(lambda: of_newcomer()[0]["status"] == "FINAL", seconds=SECONDS)
    (final,) = of_newcomer()
    assert final["number"]
    assert (final["id"], final["approval"]["by"]) == (draft["id"], "eve")
    before = running.command("close", "--tenant", "newcomer", "--period", LAST.previous().label)
    assert before.exit_code == 1
    assert f"{final['number']} of {LAST.label} is final" in before.output
    assert running.command("verify").exit_code == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"tenant": "acme", "from": "2026-01-01T00:00:00Z"}, 400, "bad_request"),
        ({"tenant": "acme", "from": "yesterday", "to": "2026-01-01T00:00:00Z"}, 400, "bad_request"),
        ({"tenant": "acme", "from": "2026-01-02T00:00:00Z", "to": "2026-01-02T00:00:00Z"}, 400, "bad_request"),
        ({"tenant": "acme", "from": "0001-01-02T00:00:00Z", "to": "2026-01-02T00:00:00Z"}, 400, "bad_request"),
        ({"tenant": "acme", "from": "9999-12-30T00:00:00Z", "to": "9999-12-31T00:00:00Z"}, 400, "bad_request"),
        ({"tenant": "ghost", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}, 404, "tenant_not_found"),
        ({"tenant": "acme", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z", "x": 1}, 400, "bad_request"),
    ],
)
def test_what_a_preview_cannot_be_made_of_is_refused(
    body: dict[str, Any], status: int, code: str, running: Running
) -> None:
    problem(running.operator.post("/admin/statements", json=body), status, code)


async def test_lists_go_on_where_the_page_before_ended(running: Running) -> None:
    await closed(running.partner)
    await eventually(lambda: len(listed(running.operator, "/admin/statements")) >= 2, seconds=SECONDS)
    seen: list[str] = []
    query = {"limit": "1"}
    while True:
        page = running.operator.get("/admin/statements", params=query).json()
        seen += [one["id"] for one in page["statements"]]
        if "next" not in page:
            break
        query = {"limit": "1", "next": page["next"]}
    assert seen == [one["id"] for one in listed(running.operator, "/admin/statements")]
    assert {one["tenant"] for one in listed(running.operator, "/admin/statements", tenant="globex")} <= {"globex"}
    problem(running.operator.get("/admin/statements", params={"tenant": "ghost"}), 404, "tenant_not_found")


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/v1/statements", {"limit": "0"}, "invalid_parameter"),
        ("/v1/statements", {"next": "x"}, "invalid_parameter"),
        ("/v1/statements", {"tenant": "globex"}, "unknown_parameter"),
        ("/v1/statements/ST-000001", {"format": "docx"}, "invalid_parameter"),
        ("/v1/statements/ST-000001.pdf", {"format": "pdf"}, "invalid_parameter"),
        ("/v1/statements/ST-000001", {"zone": "UTC"}, "unknown_parameter"),
    ],
)
def test_what_is_asked_wrongly_is_refused(path: str, query: dict[str, str], code: str, running: Running) -> None:
    problem(running.partner.get(path, params=query), 400, code)


def test_who_is_nobody_and_what_is_not_served(running: Running) -> None:
    with httpx.Client(base_url=running.process.base_url, trust_env=False, timeout=30) as nobody:
        for path in ("/v1/statements", "/v1/statements/ST-000001"):
            problem(nobody.get(path), 401, "token_missing")
            problem(running.partner.post(path), 405, "method_not_allowed")
            problem(running.partner.get(path, headers={"Accept": "image/png"}), 406, "not_acceptable")
    problem(running.partner.get("/v1/statements/..%2F..%2Fetc"), 404, "not_found")
    problem(running.operator.get("/admin/statements/ST-424242"), 404, "statement_not_found")


async def test_the_commands_show_write_and_verify(running: Running, tmp_path: Path) -> None:
    statement = await closed(running.partner)
    number = statement["number"]
    shown = running.command("statement", number)
    assert shown.exit_code == 0
    assert "Amount due" in shown.output
    assert "1.46" in shown.output
    assert number in running.command("statement", "--tenant", "acme").output
    file = tmp_path / "statement.pdf"
    assert running.command("statement", number, "--format", "pdf", "--output", str(file)).exit_code == 0
    assert file.read_bytes() == running.partner.get(f"/v1/statements/{number}.pdf").content
    told = json.loads(running.command("statement", number, "--format", "json").output)
    assert told["number"] == number
    verified = running.command("verify", "--format", "json")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.output)["findings"] == []
    assert running.command("close").exit_code == 0
    assert running.command("statement", "ST-424242").exit_code == 1
    assert running.command("statement", "--tenant", "ghost").exit_code == 2


async def test_the_commands_adjust_and_credit(running: Running) -> None:
    statement = await closed(running.partner)
    for wrong in (("--amount", "0"), ("--amount", "1e-20"), ("--amount", "NaN"), ("--amount", "ten")):
        done = running.command("adjust", "--tenant", "acme", *wrong, "--name", "n", "--reason", "r")
        assert done.exit_code == 2, done.output
    done = running.command(
        "adjust", "--tenant", "acme", "--amount", "-0.50", "--name", "Goodwill", "--reason", "outage", "--by", "eve"
    )
    assert done.exit_code == 0, done.output
    month = Period.holding(datetime.now(UTC).timestamp(), zone="Europe/Berlin")
    body = {
        "tenant": "acme",
        "from": format_rfc3339(month.start * 1000),
        "to": format_rfc3339(month.end * 1000),
    }
    draft = running.operator.post("/admin/statements", json=body).json()
    (line,) = [one for one in draft["lines"] if one["kind"] == "adjustment"]
    assert (line["name"], line["amount"], line["reason"]) == ("Goodwill", "-0.50", "outage (eve)")
    assert sum(Decimal(one["amount"]) for one in draft["lines"]) == Decimal(draft["due"])
    assert running.command("adjust", "--credit", statement["number"], "--reason", "wrong").exit_code == 0
    assert running.partner.get(f"/v1/statements/{statement['number']}").json()["status"] == "CREDITED"
    assert running.command("adjust", "--credit", statement["number"], "--reason", "wrong").exit_code == 1
    with_database = sa.create_engine(f"sqlite:///{running.deployment.directory}/gateway.db")
    try:
        with with_database.connect() as connection:
            actors = connection.execute(sa.text("SELECT actor FROM audit_log WHERE action = 'statement.adjust'")).all()
    finally:
        with_database.dispose()
    assert [row[0] for row in actors] == ["eve"]
