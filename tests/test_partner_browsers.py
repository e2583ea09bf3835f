"""Cross-origin pages: who may call from where, and what the answer lets the page read."""

from __future__ import annotations

import httpx
import pytest

from tests.parts.estate import ORIGIN, Node
from tests.parts.partner import Partner, problem

pytest_plugins = ("tests.parts.served",)

PATHS = ("/v1/streams", *[f"/v1/streams/numbers/{suffix}" for suffix in ("records", "sse", "ndjson")])


def headers_of(answer: httpx.Response, prefix: str = "access-control-") -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith(prefix)}


@pytest.mark.parametrize("path", PATHS[:2])
async def test_a_listed_origin_is_named_exactly_and_may_read_our_headers(acme: Partner, path: str) -> None:
    answer = await acme.as_(acme.token, Origin=ORIGIN).get(path)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answer.headers
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].lower().split(",")}
    assert {"gateway-session", "gateway-start-cursor", "retry-after", "x-correlation-id"} <= exposed
    assert {"deprecation", "sunset", "ratelimit", "ratelimit-policy"} <= exposed


@pytest.mark.parametrize("protocol", ["sse", "ndjson"])
async def test_streams_open_for_a_listed_origin(acme: Partner, protocol: str) -> None:
    async with acme.as_(acme.token, Origin=ORIGIN).open(protocol, "numbers", from_="earliest") as stream:
        await stream.records(1)
        assert stream.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "origin", ["https://elsewhere.example", "null", "https://app.example.evil.example", ORIGIN + ":8443"]
)
async def test_any_other_origin_is_refused_and_not_named(acme: Partner, path: str, origin: str) -> None:
    answer = await acme.as_(acme.token, Origin=origin).get(path)
    problem(answer, 403, "origin_not_allowed")
    assert headers_of(answer) == {}


async def test_an_origin_of_another_application_may_ask_but_not_read_with_this_token(served: Node) -> None:
    globex = served.partner("globex-app")
    answer = await globex.as_(globex.token, Origin=ORIGIN).get("/v1/streams")
    problem(answer, 403, "origin_not_allowed")
    assert answer.headers["access-control-allow-origin"] == ORIGIN, "so that the page can read why"


async def test_the_portals_own_origin_is_allowed(acme: Partner, served: Node) -> None:
    answer = await acme.as_(acme.token, Origin=served.base_url).get("/v1/streams")
    assert answer.status_code == 200


async def test_a_problem_can_be_read_by_the_page_too(acme: Partner) -> None:
    answer = await acme.as_(None, Origin=ORIGIN).get("/v1/streams/numbers/records")
    problem(answer, 401, "token_missing")
    assert answer.headers["access-control-allow-origin"] == ORIGIN


async def preflight(partner: Partner, path: str, origin: str, **headers: str) -> httpx.Response:
    asks = {"Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": "authorization"}
    return await partner.as_(None, Origin=origin, **(asks | headers)).request("OPTIONS", path)


@pytest.mark.parametrize("path", PATHS)
async def test_a_preflight_is_answered_for_an_origin_that_any_application_lists(acme: Partner, path: str) -> None:
    answer = await preflight(acme, path, ORIGIN)
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "GET" in answer.headers["access-control-allow-methods"]
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].lower().split(",")}
    assert {"authorization", "last-event-id", "x-correlation-id"} <= allowed
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_preflight_of_any_other_origin_is_refused(acme: Partner) -> None:
    answer = await preflight(acme, PATHS[1], "https://elsewhere.example")
    problem(answer, 403, "origin_not_allowed")
    assert headers_of(answer) == {}


async def test_without_an_origin_nothing_is_said_of_origins(acme: Partner) -> None:
    assert headers_of(await acme.get("/v1/streams")) == {}
