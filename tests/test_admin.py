"""The operators' addresses, as an operator with curl meets them: closed to others, clear about mistakes, all noted."""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Router

from gateway.admin.app import create_admin_app
from gateway.admin.openapi import OPERATIONS, PATH
from gateway.counters import Counters
from gateway.observability.health import Health
from gateway.observability.metrics import Metrics
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka
from tests.parts.partner import problem

TOKEN, SECOND = "the-first-operators-secret", "the-second-operators-secret"


@pytest.fixture(scope="module")
def running(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, GatewayProcess]]:
    topic = f"admin.{uuid.uuid4().hex[:8]}"
    asyncio.run(kafka.create_topic(topic, 1))
    settings = {"admin": {"port": 0, "tokens": [TOKEN, SECOND]}}
    folder = tmp_path_factory.mktemp("admin") / "d"
    deployment = Deployment(folder, kafka.bootstrap, [contract("s", topic, partitions=1)], settings=settings)
    with deployment.gateway() as process:
        yield deployment, process


@pytest.fixture
def admin(running: tuple[Deployment, GatewayProcess]) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=running[1].admin_url, headers=headers, trust_env=False, timeout=30) as client:
        yield client


CLOSED = [one for one in OPERATIONS if not one.is_open]
ADDRESSES = [(one.method, re.sub(r"\{\w+\}", "acme", one.path)) for one in CLOSED]


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_nobody_gets_in_without_an_operators_token(
    running: tuple[Deployment, GatewayProcess], method: str, path: str
) -> None:
    deployment, process = running
    with httpx.Client(base_url=process.admin_url, trust_env=False, timeout=30) as client:
        assert "admin.tokens" in problem(client.request(method, path), 401, "token_missing")["action"]
        for value in ("wrong", TOKEN[:-1], TOKEN + "x", deployment.token()):
            answer = client.request(method, path, headers={"Authorization": f"Bearer {value}"})
            assert "admin.tokens" in problem(answer, 401, "token_invalid")["action"]
        twice = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")]
        assert client.request(method, path, headers=twice).status_code == 401
        elsewhere = client.request(method, f"{process.base_url}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        problem(elsewhere, 404, "not_found")


def test_any_of_the_tokens_opens(admin: httpx.Client) -> None:
    for token in (TOKEN, SECOND):
        assert admin.get("/admin/streams", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_streams_are_shown_with_what_partners_never_see(admin: httpx.Client) -> None:
    (stream,) = admin.get("/admin/streams").json()["streams"]
    assert (stream["name"], stream["cluster"]) == ("s", "main")
    assert stream["topic"].startswith("admin.")


BAD_REVOCATIONS: list[tuple[Any, str]] = [
    (b"", "JSON object"),
    (b"[]", "JSON object"),
    (b'{"jti":"a","jti":"a"}', "each member once"),
    ({}, "Exactly one of"),
    ({"jti": "a", "sub": "b"}, "Exactly one of"),
    ({"jti": ""}, "1 to 512"),
    ({"jti": 7}, "a text"),
    ({"jti": "x" * 513}, "1 to 512"),
    ({"jti": "a", "until": "tomorrow"}, "RFC 3339"),
    ({"jti": "a", "until": 7}, "a text"),
    ({"jti": "a", "untli": "x"}, "'untli' is not known; allowed: client_id, issuer, jti, sub, tenant, until"),
    ({"tenant": "acme", "issuer": "tests"}, "issuer goes with"),
    ({"tenant": "amce"}, "tenant 'amce': the catalog holds none of this name; did you mean acme?"),
    ({"tenant": "nobody"}, "tenant 'nobody': the catalog holds none of this name."),
    ({"sub": "a", "issuer": "idb"}, "issuer 'idb': allowed are idp; did you mean idp?"),
    ({"client_id": "a", "issuer": "others"}, "issuer 'others': allowed are idp."),
    (
        {"jti": "a", "until": "2020-01-01T00:00:00Z"},
        "until 2020-01-01T00:00:00.000Z: a time to come is needed; it is 2",
    ),
]


@pytest.mark.parametrize("body", [{"client_id": "gone-app"}, {"client_id": "gone-app", "issuer": "idp"}])
def test_an_application_that_the_catalog_forgot_can_be_revoked(admin: httpx.Client, body: dict[str, str]) -> None:
    assert admin.post("/admin/revocations", json=body).status_code == 201


@pytest.mark.parametrize(("body", "said"), BAD_REVOCATIONS)
def test_a_revocation_that_says_nothing_clear_is_refused(admin: httpx.Client, body: Any, said: str) -> None:
    options: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
    assert said in problem(admin.post("/admin/revocations", **options), 400, "bad_request")["detail"]


def test_other_mistakes_are_named_too(admin: httpx.Client) -> None:
    problem(admin.get("/admin/tenants/nobody"), 404, "tenant_not_found")
    problem(admin.put("/admin/tenants/nobody", json={"status": "active"}), 404, "tenant_not_found")
    problem(admin.put("/admin/tenants/acme", json={"status": "gone"}), 400, "bad_request")
    problem(admin.put("/admin/tenants/acme", json={"title": "x"}), 400, "bad_request")
    problem(admin.delete("/admin/sessions/none"), 404, "session_not_found")
    problem(admin.post("/admin/streams"), 405, "method_not_allowed")
    problem(admin.get("/admin/audit", params={"limit": "0"}), 400, "bad_request")
    problem(admin.get("/admin/audit", params={"limit": "many"}), 400, "bad_request")
    problem(admin.get("/admin/nothing"), 404, "not_found")
    problem(admin.post("/admin/revocations", content=b" " * 70_000), 413, "payload_too_large")


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_no_address_takes_a_parameter_that_it_does_not_know(admin: httpx.Client, method: str, path: str) -> None:
    for query in ("made_up=1", "made_up=", "made_up=1&made_up=2"):
        answer = admin.request(method, f"{path}?{query}")
        assert answer.status_code == 400
        assert "made_up" in answer.json()["detail"]
    problem(admin.request(method, path, params={"made_up": "1"}), 400, "unknown_parameter")


def test_every_parameter_that_the_document_tells_of_is_known(admin: httpx.Client) -> None:
    known = {"tenant": "acme", "by": "stream", "granularity": "day", "format": "json", "limit": "5", "next": "5"}
    known |= {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
    for one in CLOSED:
        for name in one.query:
            path = re.sub(r"\{\w+\}", "acme", one.path)
            answer = admin.request(one.method, path, params={name: known[name]})
            assert answer.json().get("code") != "unknown_parameter", (path, name)


def test_a_reload_takes_no_body(admin: httpx.Client) -> None:
    assert "node" in problem(admin.post("/admin/reload", json={"node": "b"}), 400, "bad_request")["detail"]
    assert admin.post("/admin/reload", json={}).status_code == 200


def test_a_reload_is_taken_as_a_whole_or_refused_as_a_whole(
    running: tuple[Deployment, GatewayProcess], admin: httpx.Client
) -> None:
    path: Path = running[0].directory / "asyncapi" / "streams" / "s.yaml"
    before = path.read_text()
    document = yaml.safe_load(before)
    document["info"]["title"] = "A better title"
    try:
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        assert admin.post("/admin/reload").json() == {"reloaded": True, "streams": 1}
        assert admin.get("/admin/streams").json()["streams"][0]["title"] == "A better title"
        path.write_text(before[: len(before) // 2])
        body = problem(admin.post("/admin/reload"), 409, "reload_refused")
        assert any("s.yaml" in line for line in body["problems"])
        assert admin.get("/admin/streams").json()["streams"][0]["title"] == "A better title"
    finally:
        path.write_text(before)
    assert admin.post("/admin/reload").status_code == 200


def test_every_change_is_noted_with_who_made_it_and_from_what_to_what(admin: httpx.Client) -> None:
    subject = f"someone-{time.time()}"
    admin.put("/admin/tenants/globex", json={"status": "suspended"})
    admin.put("/admin/tenants/globex", json={"status": "active"}, headers={"Authorization": f"Bearer {SECOND}"})
    admin.post("/admin/revocations", json={"sub": subject})
    revoked, resumed, suspended = admin.get("/admin/audit", params={"limit": 3}).json()["entries"]
    names = ["token:" + hashlib.sha256(token.encode()).hexdigest()[:12] for token in (TOKEN, SECOND)]
    assert (suspended["actor"], suspended["action"], suspended["target"]) == (names[0], "tenant.suspend", "globex")
    assert (suspended["before"], suspended["after"]) == ({"status": "active"}, {"status": "suspended"})
    assert (resumed["actor"], resumed["action"]) == (names[1], "tenant.resume")
    assert revoked["action"] == "revocation.add"
    assert subject not in str(revoked), "a person's name is not the log's to keep"
    page = admin.get("/admin/audit", params={"limit": 1}).json()
    older = admin.get("/admin/audit", params={"limit": 1, "next": page["next"]}).json()
    assert older["entries"] == [resumed]


def test_a_tenant_may_be_put_back_as_it_was_read_and_only_its_status_is_changed_here(admin: httpx.Client) -> None:
    read = admin.get("/admin/tenants/globex").json()
    assert admin.put("/admin/tenants/globex", json={**read, "status": "suspended"}).json()["status"] == "suspended"
    assert admin.put("/admin/tenants/globex", json=read).json() == read
    assert admin.put("/admin/tenants/globex", json={}).json() == read
    refused = admin.put("/admin/tenants/globex", json={"title": "Other"})
    assert refused.status_code == 400
    assert "gateway apply" in refused.json()["detail"]


def test_a_suspension_by_an_admin_outlives_an_apply(
    running: tuple[Deployment, GatewayProcess], admin: httpx.Client
) -> None:
    deployment = running[0]
    admin.put("/admin/tenants/globex", json={"status": "suspended"})
    options = deployment.options("apply")
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "apply", *options, str(deployment.directory / "catalog.yaml")],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert admin.get("/admin/tenants/globex").json()["status"] == "suspended"
    assert admin.put("/admin/tenants/globex", json={"status": "active"}).json()["status"] == "active"


SOMEBODY: Any = object()


def test_every_address_of_the_port_is_in_its_document_and_no_other(admin: httpx.Client) -> None:
    app: Any = create_admin_app(
        health=Health([]), metrics=Metrics(Counters(), version="0"), administration=SOMEBODY, tokens=()
    )
    (router,) = [cell.cell_contents for cell in app._app.__closure__ if isinstance(cell.cell_contents, Router)]
    served = {(route.path, method) for route in router.routes for method in route.methods - {"HEAD"}}  # type: ignore[attr-defined]
    document = admin.get(PATH).json()
    told = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert told == served, "gateway/admin/openapi.py has a row for each"
    OpenAPIV31SpecValidator(document).validate()


def test_answers_are_as_the_document_says(admin: httpx.Client) -> None:
    document = admin.get(PATH).json()
    admin.post("/admin/revocations", json={"jti": "of a document"})
    for one in OPERATIONS:
        answer = admin.request(one.method, re.sub(r"\{\w+\}", "acme", one.path)) if one.method == "GET" else None
        if answer is None or answer.status_code not in one.answers:
            # What cannot be asked without more knowledge of it is refused as the document says, at least.
            told = document["paths"][one.path][one.method.lower()]["responses"]
            assert answer is None or str(answer.status_code) in told, (one.path, answer.text)
            continue
        media = answer.headers["content-type"].partition(";")[0]
        told = document["paths"][one.path][one.method.lower()]["responses"][str(answer.status_code)]["content"][media]
        if media == "application/json":
            schema = {**told["schema"], "components": document["components"]}
            Draft202012Validator(schema).validate(answer.json())
