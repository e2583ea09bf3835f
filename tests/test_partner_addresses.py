"""What stands in an address: no token ever, no parameter that nobody reads; and what surrounds a header's value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.parts.estate import ORIGIN, Node
from tests.parts.partner import Partner, problem
from tests.parts.raw import UPGRADE, ask

pytest_plugins = ("tests.parts.served",)

ROUTES = [
    *[("GET", f"/v1/streams/numbers{suffix}") for suffix in ("", "/records", "/sse", "/ndjson")],
    ("GET", "/v1/streams"),
    ("GET", "/v1/limits"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/statements"),
    ("GET", "/v1/statements/1"),
    ("POST", "/v1/tickets"),
    ("POST", "/v1/sessions/none/token"),
    ("GET", "/openapi.json"),
    ("GET", "/asyncapi.yaml"),
    ("GET", "/.well-known/oauth-protected-resource"),
]
NAMES = ("access_token", "token", "jwt", "Bearer", "id_token", "authorization", "ticket", "made_up", "from")
UNSIGNED = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."


def check_refused(answer: httpx.Response, name: str, *tokens: str) -> None:
    """400, which names the parameter and says nothing of what was in it."""
    members = problem(answer, 400, "ambiguous_credentials")
    assert name in members["detail"]
    for token in tokens:
        assert token not in answer.text
        assert token.partition(".")[0] not in answer.text


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_token_in_the_query_is_refused_before_anybody_asks_who_it_is(
    acme: Partner, method: str, path: str
) -> None:
    token = acme.token or ""
    for name in NAMES:
        for asking in (acme.as_(None), acme):
            check_refused(await asking.request(method, path, **{name: token}), name, token)
    check_refused(await acme.as_(None).request(method, path, made_up=f"Bearer {token}"), "made_up", token)
    check_refused(await acme.as_(None).request(method, path, made_up=UNSIGNED), "made_up", UNSIGNED)
    problem(await acme.as_(None).request(method, path, token="x"), 400, "ambiguous_credentials")
    escaped = await acme.as_(None).request(method, f"{path}?%61ccess_token={token.replace('.', '%2E')}")
    check_refused(escaped, "access_token", token)
    named = await acme.as_(None).request(method, f"{path}?{token}")
    assert problem(named, 400, "ambiguous_credentials")["detail"]
    assert token not in named.text


@pytest.mark.parametrize("name", ["access_token", "token", "ticket", "made_up"])
@pytest.mark.parametrize("suffix", ["", "/ws"])
async def test_a_websocket_is_refused_a_token_in_its_query(acme: Partner, name: str, suffix: str) -> None:
    token = acme.token or ""
    said: dict[str, Any] = {name: token}
    with pytest.raises(InvalidStatus) as refused:
        async with acme.as_(None).ws("numbers", suffix=suffix, **said):
            pass
    body = json.loads(refused.value.response.body or b"{}")
    assert (refused.value.response.status_code, body["code"]) == (400, "ambiguous_credentials")
    assert name in body["detail"]
    assert token not in str(body)
    async with acme.as_(None, Origin=ORIGIN).ws("numbers", suffix=suffix, **said) as told:
        goodbye = await told.next()
        assert (goodbye.kind, goodbye.data["code"]) == ("goodbye", "ambiguous_credentials")
        assert token not in str(goodbye)
        assert await told.over() == 4400


def test_no_log_has_seen_a_token(served: Node, acme: Partner) -> None:
    # Signatures differ from token to token: what is looked for is what none of them could be without.
    logs = [path.read_text() for path in _logs(served.deployment.directory)]
    assert any(logs)
    for text in logs:
        assert not re.search(r"eyJ[\w-]{20}", text)


def _logs(directory: Path) -> Iterator[Path]:
    yield from directory.glob("*.log")
    yield from directory.glob("*/log")


async def test_what_only_looks_a_little_like_a_token_is_a_value(acme: Partner) -> None:
    for value in ("eyJ", "eyJhbGci", "site:eq:eyJhbGciOi.eyJzdWIi.c2ln", "1.2.3", "site:eq:token"):
        parameters = {"filter": value if ":" in value else f"site:eq:{value}"}
        page = await acme.pull("sensors", from_="earliest", **parameters)
        assert page["records"] == []


# ---- parameters that nobody reads ------------------------------------------------------------------------------------


async def _documented(acme: Partner) -> list[tuple[str, str]]:
    document = (await acme.get("/openapi.json")).json()
    return [
        (method.upper(), re.sub(r"\{\w+\}", "none", path))
        for path, operations in document["paths"].items()
        for method in operations
        # One stream speaks for all of them.
        if not path.startswith("/v1/streams/") or path.startswith("/v1/streams/numbers")
    ]


async def test_no_documented_route_takes_a_parameter_that_it_does_not_know(acme: Partner) -> None:
    routes = await _documented(acme)
    assert {("POST", "/v1/tickets"), ("POST", "/v1/sessions/none/token"), ("GET", "/v1/limits")} <= set(routes)
    for method, path in routes:
        answer = await acme.request(method, path, made_up="1")
        if path == "/oauth/token":
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
            continue
        assert "made_up" in problem(answer, 400, "unknown_parameter")["detail"], path
        twice = await acme.request(method, f"{path}?made_up=1&made_up=2")
        assert twice.status_code == 400, path


# ---- bodies ----------------------------------------------------------------------------------------------------------


async def send(partner: Partner, path: str, body: bytes, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return await client.post(partner.base_url + path, content=body, headers=partner.all_headers() | headers)


async def test_a_refresh_takes_its_token_from_the_header_and_no_body(acme: Partner) -> None:
    async with acme.open("sse", "numbers") as stream:
        path = f"/v1/sessions/{stream.headers['gateway-session']}/token"
        for body in (json.dumps({"token": acme.token}).encode(), b'{"more":1}'):
            answer = await send(acme, path, body)
            members = problem(answer, 400, "bad_request")
            assert next(iter(json.loads(body))) in members["detail"]
            assert (acme.token or "") not in answer.text
        for body in (b"[]", b"nonsense", b"{", b'"text"'):
            problem(await send(acme, path, body), 400, "bad_request")
        problem(await send(acme, path, b" " * 70_000), 413, "payload_too_large")
        for body in (b"", b"{}", b" { } "):
            assert (await send(acme, path, body)).status_code == 204


# ---- white space -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [("", " "), ("", "\t "), (" \t", ""), ("  ", "  \t")])
async def test_white_space_around_a_header_is_none_of_its_value(
    acme: Partner, served: Node, around: tuple[str, str]
) -> None:
    before, behind = around
    told = {
        "Authorization": f"Bearer {acme.token}",
        "Origin": ORIGIN,
        "X-Correlation-Id": "my-own-id",
        "Accept": "application/json",
    }
    headers = {name: f"{before}{value}{behind}" for name, value in told.items()}
    answer = await ask(served.base_url, "/v1/streams/numbers/records", headers=headers)
    assert answer.status == 200, answer.body
    known = {line.lower() for line in answer.headers}
    assert {"x-correlation-id: my-own-id", f"access-control-allow-origin: {ORIGIN}"} <= known
    opened = await ask(served.base_url, "/v1/streams/numbers/ws", headers={**UPGRADE, **headers})
    assert opened.status == 101
