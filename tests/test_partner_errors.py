"""Bad requests as a partner meets them: always a problem that says what to do, never a 5xx, never a hang."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.parts.estate import Node
from tests.parts.partner import Partner, problem

pytest_plugins = ("tests.parts.served",)

SUFFIXES = ("records", "sse", "ndjson")

BAD_VALUES = [
    ("from", "yesterday"),
    ("from", "2026-11-22"),
    ("from", "2026-11-22T10:00:00"),
    ("from", "2026-13-22T10:00:00Z"),
    ("from", "2026-11-22T10:00:00+99:00"),
    ("from", "-1"),
    ("from", "1e3"),
    ("from", "1.5"),
    ("from", "99999999999999999999"),
    ("from", "٣"),
    ("from", "LATEST"),
    ("on_gap", "stop"),
    ("envelope", "avro"),
]
BAD_PULL_VALUES = [
    ("limit", "0"),
    ("limit", "-1"),
    ("limit", "1001"),
    ("limit", "1.0"),
    ("limit", "many"),
    ("limit", "²"),
    ("max_bytes", "0"),
    ("max_bytes", "1MiB"),
    ("max_bytes", "9" * 30),
    ("wait", "-1"),
    ("wait", "31"),
    ("wait", "nan"),
    ("wait", "inf"),
    ("wait", "1e1"),
    ("wait", "30.1"),
]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
async def test_a_bad_value_is_named_with_what_is_allowed(acme: Partner, suffix: str, name: str, value: str) -> None:
    members = await acme.refused(f"/v1/streams/numbers/{suffix}", 400, "invalid_parameter", **{name: value})
    assert name in members["detail"]
    assert value[:20] in members["detail"]
    assert "allowed" in members["detail"]


@pytest.mark.parametrize(("name", "value"), BAD_PULL_VALUES)
async def test_a_bad_value_of_pull_is_named_with_what_is_allowed(acme: Partner, name: str, value: str) -> None:
    members = await acme.refused("/v1/streams/numbers/records", 400, "invalid_parameter", **{name: value})
    assert name in members["detail"]
    assert "from" in members["detail"], "the bounds are told"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["form", "From", "limitt", "x" * 300, "a\x00b", "é"])
async def test_an_unknown_parameter_is_named_with_those_that_are_known(acme: Partner, suffix: str, name: str) -> None:
    members = await acme.refused(f"/v1/streams/numbers/{suffix}", 400, "unknown_parameter", **{name: "1"})
    assert "cursor" in members["detail"]
    assert ("limit" in members["detail"].replace("limitt", "")) == (suffix == "records")


@pytest.mark.parametrize("suffix", ["sse", "ndjson"])
@pytest.mark.parametrize("name", ["limit", "max_bytes", "wait"])
async def test_a_parameter_of_pull_is_refused_elsewhere(acme: Partner, suffix: str, name: str) -> None:
    members = await acme.refused(f"/v1/streams/numbers/{suffix}", 400, "invalid_parameter", **{name: "1"})
    assert name in members["detail"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["from", "cursor", "last_event_id", "on_gap", "envelope"])
async def test_a_parameter_given_twice_or_empty_is_refused(acme: Partner, suffix: str, name: str) -> None:
    for query in (f"{name}=latest&{name}=latest", f"{name}=", name, f"{name}=&{name}=1"):
        answer = await acme.get(f"/v1/streams/numbers/{suffix}?{query}")
        assert name in problem(answer, 400, "invalid_parameter")["detail"]


async def test_two_names_for_one_cursor_are_one_too_many(acme: Partner) -> None:
    cursor = (await acme.pull("numbers"))["next_cursor"]
    await acme.refused("/v1/streams/numbers/records", 400, "invalid_parameter", cursor=cursor, last_event_id=cursor)


@pytest.mark.parametrize("query", ["from=%ff", "%ff=1", "from=%", "&".join(f"p{n}=1" for n in range(101)), "&&&=&"])
async def test_a_query_that_cannot_be_read_is_a_bad_request(acme: Partner, query: str) -> None:
    answer = await acme.get(f"/v1/streams/numbers/records?{query}")
    assert answer.status_code == 400
    assert answer.json()["code"] in ("bad_request", "invalid_parameter", "unknown_parameter")


@pytest.mark.parametrize("envelope", ["record"])
async def test_the_envelope_may_be_said(acme: Partner, envelope: str) -> None:
    page = await acme.pull("numbers", envelope=envelope, from_="earliest", limit=1)
    assert page["records"][0].keys() >= {"id", "uid", "time", "data"}


@pytest.mark.parametrize("name", ["access_token", "token"])
async def test_a_token_in_the_address_is_refused(acme: Partner, name: str) -> None:
    members = await acme.refused(
        "/v1/streams/numbers/records", 400, "ambiguous_credentials", **{name: acme.token or ""}
    )
    assert (acme.token or "") not in str(members)


async def test_the_list_of_streams_is_paged_and_knows_no_other_parameters(acme: Partner) -> None:
    whole = (await acme.get("/v1/streams")).json()
    assert "next" not in whole
    names: list[str] = []
    page = (await acme.get("/v1/streams", limit=7)).json()
    while True:
        assert len(page["streams"]) <= 7
        names += [entry["name"] for entry in page["streams"]]
        if "next" not in page:
            break
        page = (await acme.get("/v1/streams", limit=7, next=page["next"])).json()
    assert names == [entry["name"] for entry in whole["streams"]]
    await acme.refused("/v1/streams", 400, "unknown_parameter", offset=5)
    await acme.refused("/v1/streams", 400, "invalid_parameter", limit=0)


# ---- addresses, methods, media types ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/streams/",
        "/v1/stream",
        "/v2/streams",
        "/v1/streams/numbers/",
        "/v1/streams/numbers/xml",
        "/v1/streams/numbers/sse/more",
        "/v1/streams//sse",
        "/favicon.ico",
        "/%00",
        "/v1/streams/a%2Fb/records",
    ],
)
async def test_an_address_that_is_none_is_404(acme: Partner, path: str) -> None:
    await acme.refused(path, 404, "not_found")


@pytest.mark.parametrize(
    "path",
    ["/livez", "/readyz", "/metrics", "/admin", "/admin/sessions", "/admin/../readyz", "//readyz", "/admin/reload"],
)
async def test_the_management_port_does_not_show_on_the_public_one(acme: Partner, path: str) -> None:
    await acme.refused(path, 404, "not_found")


@pytest.mark.parametrize("path", ["/v1/streams", "/v1/streams/numbers", "/v1/streams/numbers/sse"])
async def test_partners_addresses_do_not_show_on_the_management_port(served: Node, path: str) -> None:
    operator = Partner(served.admin_url, served.deployment.token())
    await operator.refused(path, 404, "not_found")
    assert (await operator.get("/livez")).status_code == 200


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    "path", ["/v1/streams", "/v1/streams/numbers", *[f"/v1/streams/numbers/{suffix}" for suffix in (*SUFFIXES, "ws")]]
)
async def test_only_get_reads(acme: Partner, method: str, path: str) -> None:
    answer = await acme.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    if method == "HEAD":
        assert answer.content == b""
    else:
        problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("suffix", "accept"),
    [
        ("", "text/html"),
        ("", "application/json;q=0"),
        ("", "image/png, text/html;q=0.5"),
        ("/records", "text/event-stream"),
        ("/sse", "application/json"),
        ("/ndjson", "application/json"),
    ],
)
async def test_an_accept_that_nothing_serves_is_406(acme: Partner, suffix: str, accept: str) -> None:
    members = await acme.as_(acme.token, Accept=accept).refused(f"/v1/streams/numbers{suffix}", 406, "not_acceptable")
    assert "/" in members["detail"], "it names what is served"


async def test_the_websocket_address_without_an_upgrade_is_426(acme: Partner) -> None:
    answer = await acme.get("/v1/streams/numbers/ws")
    problem(answer, 426, "upgrade_required")
    assert answer.headers["upgrade"] == "websocket"


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_retired_stream_is_gone_and_names_its_successor(acme: Partner, suffix: str) -> None:
    members = await acme.refused(f"/v1/streams/gone/{suffix}", 410, "stream_retired")
    assert "numbers" in members["detail"]


async def test_a_topic_that_is_not_there_is_503_within_the_time_an_open_may_take(acme: Partner) -> None:
    async with asyncio.timeout(8):
        answers = await asyncio.gather(*[acme.get(f"/v1/streams/absent-topic/{suffix}") for suffix in SUFFIXES])
    for answer in answers:
        members = problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert members["retry_after_ms"] > 0


# ---- correlation id --------------------------------------------------------------------------------------------------


async def test_a_well_formed_correlation_id_is_kept(acme: Partner) -> None:
    who = acme.as_(acme.token, X_Correlation_Id="Order:42._-x")
    assert (await who.get("/v1/streams/numbers/records")).headers["x-correlation-id"] == "Order:42._-x"
    assert (await who.refused("/nothing", 404, "not_found"))["correlation_id"] == "Order:42._-x"
    async with who.sse("numbers") as stream:
        assert stream.headers["x-correlation-id"] == "Order:42._-x"
    async with who.ws("numbers") as opened:
        assert opened.headers["x-correlation-id"] == "Order:42._-x"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "<script>", "a,b", 'a"b'])
async def test_any_other_correlation_id_is_replaced(acme: Partner, sent: str) -> None:
    answer = await acme.as_(acme.token, X_Correlation_Id=sent).get("/v1/streams/numbers/records")
    assert answer.status_code == 200
    assert answer.headers["x-correlation-id"] not in ("", sent)


async def test_every_request_gets_a_correlation_id_of_its_own(acme: Partner) -> None:
    seen = {(await acme.get("/v1/streams")).headers["x-correlation-id"] for _ in range(3)}
    assert len(seen) == 3


async def test_a_body_where_none_belongs_does_no_harm(acme: Partner, served: Node) -> None:
    async with httpx.AsyncClient(headers=acme.all_headers(), trust_env=False, verify=False) as client:
        answer = await client.request("GET", f"{served.base_url}/v1/streams", content=b"x" * 1000)
    assert answer.status_code == 200
    assert (await acme.get("/v1/streams")).status_code == 200
