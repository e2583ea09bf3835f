"""Usage as partners and operators get it from a running gateway: what was read, within seconds, and nobody else's."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import problem

ADMIN = "operators-secret"
RECORDS = 30
SECONDS = 45
APPLICATIONS = ("acme-web", "acme-test", "globex-app")


_COUNTS = ",".join(["9223372036854775807"] * 9)
FORGED = [
    b"[" * 100_000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"kind":"usage","v":1,"source":"forged","sequence":1,"tenant":"acme","bucket":900,"part":0,'
    b'"cells":[["acme-web","s","open",1,"pull",true,[%s]]]}' % _COUNTS.encode(),
    b'{"kind":"usage","v":1,"source":"forged","sequence":1,"tenant":"ac\\u0000me","bucket":900,"cells":[]}',
]


@pytest.fixture(scope="module")
def running(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, GatewayProcess]]:
    name = f"usage.{uuid.uuid4().hex[:8]}"
    asyncio.run(kafka.create_topic(name, 2))
    for partition in range(2):
        values = [b'{"n":%d}' % number for number in range(RECORDS // 2)]
        asyncio.run(kafka.produce(name, values, partition=partition))
    known = catalog(["s"])
    acme, globex = known["tenants"]
    acme["applications"].append({"client_id": "acme-test", "title": "Tests", "billable": False})
    globex["entitlements"] = acme["entitlements"]
    deployment = Deployment(
        tmp_path_factory.mktemp("usage") / "d",
        kafka.bootstrap,
        [contract("s", name, partitions=2, filters={"n": {"pointer": "/n", "type": "integer"}})],
        catalog=known,
        settings={"admin": {"port": 0, "tokens": [ADMIN]}, "metering": {"topic": f"{name}.totals"}},
    )
    with deployment.gateway() as process:
        # What somebody else wrote stands in nobody's way: each of the tests below holds all the same.
        asyncio.run(kafka.produce(f"{name}.totals", FORGED, keys=[b"k"] * len(FORGED)))
        yield deployment, process


@pytest.fixture(scope="module")
def clients(running: tuple[Deployment, GatewayProcess]) -> Iterator[dict[str, httpx.Client]]:
    """One for each application, and the operator's; each application has read everything once over HTTP pull, and
    acme-web over SSE too, all but one record of each partition."""
    deployment, process = running
    opened = {
        one: httpx.Client(
            base_url=process.base_url,
            headers={"Authorization": f"Bearer {deployment.token(one)}"},
            trust_env=False,
            timeout=30,
        )
        for one in APPLICATIONS
    }
    opened["operator"] = httpx.Client(
        base_url=process.admin_url, headers={"Authorization": f"Bearer {ADMIN}"}, trust_env=False, timeout=30
    )
    try:
        for one in APPLICATIONS:
            read_all(opened[one])
        with opened["acme-web"].stream(
            "GET", "/v1/streams/s/sse", params={"from": "earliest", "filter": "n:gt:0"}
        ) as answer:
            seen = 0
            for line in answer.iter_lines():
                seen += line.startswith(('data: {"uid"', 'data: {"key"'))
                if seen == RECORDS - 2:
                    break
        yield opened
    finally:
        for client in opened.values():
            client.close()


def read_all(client: httpx.Client) -> None:
    seen, cursor = 0, {"from": "earliest"}
    while seen < RECORDS:
        page = client.get("/v1/streams/s/records", params={**cursor, "limit": "7", "wait": "5"}).json()
        seen += len(page["records"])
        cursor = {"cursor": page["next_cursor"]}


def rows(client: httpx.Client, path: str = "/v1/usage", **parameters: str) -> list[dict[str, Any]]:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["rows"]
    return found


def by_application(client: httpx.Client, path: str = "/v1/usage") -> dict[tuple[str, str], int]:
    found: Counter[tuple[str, str]] = Counter()
    for row in rows(client, path, granularity="15m"):
        found[row["application"], row["transport"]] += row["records"] + row["replayed_records"]
    return dict(found)


ACME = {("acme-web", "pull"): RECORDS, ("acme-web", "sse"): RECORDS - 2, ("acme-test", "pull"): RECORDS}
GLOBEX = {("globex-app", "pull"): RECORDS}


async def settled(clients: dict[str, httpx.Client]) -> None:
    await eventually(lambda: by_application(clients["acme-web"]) == ACME, seconds=SECONDS)
    await eventually(lambda: by_application(clients["globex-app"]) == GLOBEX, seconds=SECONDS)


async def test_each_organisation_sees_what_it_read_and_nothing_of_others(clients: dict[str, httpx.Client]) -> None:
    await settled(clients)
    for row in rows(clients["acme-test"]):
        assert row["billable"] is (row["application"] == "acme-web")
        assert row["bytes"] + row["replayed_bytes"] > 0
        assert "hidden_records" not in row
    (sse,) = [row for row in rows(clients["acme-web"], by="transport") if row["transport"] == "sse"]
    assert sse["filtered_records"] == 2
    (day,) = rows(clients["globex-app"], by="none")
    new_york = ZoneInfo("America/New_York")
    assert datetime.fromisoformat(day["from"]).utcoffset() == datetime.now(new_york).utcoffset()
    assert day["from"][11:19] == day["to"][11:19] == "00:00:00"


async def test_it_says_up_to_when_it_is_complete_in_json_and_csv(clients: dict[str, httpx.Client]) -> None:
    await settled(clients)
    client = clients["acme-web"]

    def complete() -> datetime | None:
        told = client.get("/v1/usage").json()["complete_until"]
        return None if told is None else datetime.fromisoformat(told)

    began = datetime.now(ZoneInfo("UTC"))
    await eventually(lambda: (complete() or began) > began, seconds=SECONDS)
    answer = client.get("/v1/usage", headers={"Accept": "text/csv"}, params={"by": "application"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert datetime.fromisoformat(answer.headers["gateway-complete-until"]) > began
    read = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert {row["application"] for row in read} == {"acme-web", "acme-test"}
    assert client.get("/v1/usage", headers={"Accept": "text/html"}).status_code == 406


@pytest.mark.parametrize(("who", "path"), [("acme-web", "/v1/usage"), ("operator", "/admin/usage")])
async def test_the_form_may_be_named_in_the_address_whatever_accept_says(
    clients: dict[str, httpx.Client], who: str, path: str
) -> None:
    await settled(clients)
    client, asked = clients[who], {"by": "application", "format": "csv"}
    text = client.get(path, params=asked, headers={"Accept": "application/json"})
    assert text.headers["content-type"].startswith("text/csv")
    (*_, row) = client.get(path, params=asked | {"format": "json"}, headers={"Accept": "text/csv"}).json()["rows"]
    (*_, read) = csv.DictReader(io.StringIO(text.text, newline=""))
    assert list(read) == list(row), "the columns are JSON's members"
    assert {name: str(value).lower() for name, value in row.items()} == {
        name: value.lower() for name, value in read.items()
    }
    paged = client.get(path, params=asked | {"limit": "1"})
    assert len(paged.text.splitlines()) == 2
    assert client.get(paged.links["next"]["url"]).headers["content-type"].startswith("text/csv")
    refused = problem(client.get(path, params={"format": "xml"}), 400, "invalid_parameter")
    assert "json, csv" in refused["detail"]


async def test_pages_follow_on_each_other(clients: dict[str, httpx.Client]) -> None:
    await settled(clients)
    client, whole = clients["acme-web"], rows(clients["acme-web"])
    assert len(whole) == 3
    paged, following = [], "/v1/usage?limit=1"
    while following:
        answer = client.get(following)
        (row,) = answer.json()["rows"]
        paged.append(row)
        assert ("next" in answer.json()) == ("next" in answer.links)
        following = answer.links["next"]["url"] if "next" in answer.links else ""
    assert paged == whole


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"by": "tenant"}, "invalid_parameter"),
        ({"granularity": "week"}, "invalid_parameter"),
        ({"from": "2026-11-01"}, "invalid_parameter"),
        ({"from": ""}, "invalid_parameter"),
        ({"from": "9999-12-31T23:59:59Z"}, "invalid_parameter"),
        ({"from": "9998-12-31T00:00:00Z", "to": "9999-12-31T23:59:59Z", "granularity": "hour"}, "invalid_parameter"),
        ({"tenant": "globex"}, "unknown_parameter"),
        ({"token": "x"}, "ambiguous_credentials"),
    ],
)
def test_mistakes_are_named(clients: dict[str, httpx.Client], parameters: dict[str, str], code: str) -> None:
    body = problem(clients["acme-web"].get("/v1/usage", params=parameters), 400, code)
    assert next(iter(parameters)) in body["detail"]


def test_without_a_token_there_is_no_usage(running: tuple[Deployment, GatewayProcess]) -> None:
    with httpx.Client(base_url=running[1].base_url, trust_env=False, timeout=30) as client:
        problem(client.get("/v1/usage"), 401, "token_missing")
        stranger = {"Authorization": f"Bearer {running[0].token('nobody')}"}
        problem(client.get("/v1/usage", headers=stranger), 401, "token_invalid")
        problem(client.post("/v1/usage"), 405, "method_not_allowed")


async def test_an_operator_sees_everybody_with_plans(clients: dict[str, httpx.Client]) -> None:
    await settled(clients)
    operator = clients["operator"]
    assert by_application(operator, "/admin/usage") == {**ACME, **GLOBEX}
    (globex,) = rows(operator, "/admin/usage", tenant="globex")
    assert (globex["tenant"], globex["plan"], globex["revision"], globex["hidden_records"]) == ("globex", "open", 1, 0)
    problem(operator.get("/admin/usage", params={"tenant": "nobody"}), 404, "tenant_not_found")
    problem(operator.get("/admin/usage", params={"colour": "red"}), 400, "unknown_parameter")
    assert "tenant" in operator.get("/admin/usage", headers={"Accept": "text/csv"}).text.splitlines()[0]


async def test_the_evidence_says_which_offsets_went_to_whom_and_bears_usage_out(
    running: tuple[Deployment, GatewayProcess], clients: dict[str, httpx.Client]
) -> None:
    deployment, process = running
    await settled(clients)
    process.stop()
    today = datetime.now(ZoneInfo("UTC")).date()
    options = deployment.options("commands")
    deliveries = []
    for day in {today, datetime.now(ZoneInfo("Europe/Berlin")).date()}:
        asked = ["usage", "audit", "--tenant", "acme", "--stream", "s", "--day", str(day), "--format", "json", *options]
        deliveries += json.loads(CliRunner().invoke(main, asked).stdout)["deliveries"]
    found: Counter[tuple[str, str]] = Counter()
    for one in deliveries:
        found[one["application"], one["protocol"]] += one["records"]
    assert found == ACME
    (sse,) = [one for one in deliveries if one["protocol"] == "sse"]
    assert (sse["offsets"], sse["filtered_records"], sse["other_offsets"]) == ("0:0-15,1:0-15", 2, 0)
    received: list[dict[str, dict[str, Any]]] = []
    for _ in range(2):
        exported = CliRunner().invoke(main, ["usage", "export", "--incomplete", *options])
        assert exported.exit_code == 0, exported.output
        events = [json.loads(line) for line in exported.stdout.splitlines()]
        received.append({one["id"]: one["data"] for one in events})
        assert len(received[-1]) == len(events)
    first, again = received
    assert first == again, "a receiver that drops ids it knows counts once"
    total = sum(one["records"] + one["replayed_records"] for one in first.values())
    assert total == sum(ACME.values()) + sum(GLOBEX.values())
    checked = CliRunner().invoke(main, ["usage", "reconcile", "--day", str(today), *options])
    assert checked.stdout == "no difference stands\n", checked.output
