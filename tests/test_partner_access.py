"""Who may read what, as a partner meets it: tokens, entitlements, what is named in a refusal and what is not."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.parts.estate import Estate, Node
from tests.parts.partner import PROTOCOLS, Partner, problem
from tests.parts.tokens import ABSENT, PretendIssuer

pytest_plugins = ("tests.parts.served",)

HTTP_PATHS = ("/v1/streams", *[f"/v1/streams/numbers/{suffix}" for suffix in ("records", "sse", "ndjson")])


@pytest.mark.parametrize("path", HTTP_PATHS)
async def test_without_a_token_there_is_a_bare_challenge(acme: Partner, path: str) -> None:
    answer = await acme.as_(None).get(path)
    problem(answer, 401, "token_missing")
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert "error" not in answer.headers["www-authenticate"]


@pytest.mark.parametrize("path", HTTP_PATHS)
async def test_a_token_that_is_none_is_an_invalid_token(acme: Partner, path: str) -> None:
    for token in ("nonsense", "a.b.c", (acme.token or "")[:-3]):
        answer = await acme.as_(token).get(path)
        problem(answer, 401, "token_invalid")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("value", ["Basic eDp5", "Bearer", "bearer", "Token x", "Bearer a b", ""])
async def test_a_credential_of_another_kind_is_refused(acme: Partner, value: str) -> None:
    answer = await acme.as_(None, Authorization=value).get("/v1/streams/numbers/records")
    assert answer.status_code in (400, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_two_credentials_are_one_too_many(acme: Partner, served: Node) -> None:
    bearer = f"Bearer {acme.token}"
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        answer = await client.get(
            f"{served.base_url}/v1/streams", headers=[("Authorization", bearer), ("Authorization", bearer)]
        )
    problem(answer, 400, "ambiguous_credentials")
    assert 'error="invalid_request"' in answer.headers["www-authenticate"]


async def test_the_scheme_is_spelled_in_any_case(acme: Partner) -> None:
    for scheme in ("bearer", "BEARER"):
        answer = await acme.as_(None, Authorization=f"{scheme} {acme.token}").get("/v1/streams")
        assert answer.status_code == 200


async def test_a_stranger_signed_token_an_expired_one_and_an_unknown_client_are_refused(served: Node) -> None:
    deployment = served.deployment
    stranger = PretendIssuer().mint(claims={"client_id": "acme-web", "scope": "streams:read"})
    now = int(time.time())
    path = "/v1/streams/numbers/records"
    for token, code in [
        (stranger, "token_invalid"),
        (deployment.token(iat=now - 100, exp=now - 1), "token_expired"),
        (deployment.token(exp=ABSENT), "token_invalid"),
        (deployment.token(aud="https://other.example"), "token_invalid"),
        (deployment.token(iss="https://other.example"), "token_invalid"),
        (deployment.token(exp=now + 10 * 86_400), "token_invalid"),
        (deployment.token("nobody"), "token_invalid"),
    ]:
        answer = await Partner(served.base_url, token).get(path)
        problem(answer, 401, code)
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_what_does_not_exist_and_what_is_not_to_be_known_answer_alike(served: Node) -> None:
    globex, acme = served.partner("globex-app"), served.partner()
    answers = [
        await who.refused(f"/v1/streams/{stream}/{suffix}", 404, "stream_not_found")
        for who, stream in [(globex, "hidden"), (globex, "nothing"), (acme, "nothing"), (acme, "drafted")]
        for suffix in ("records", "sse", "ndjson")
    ]
    for members in answers:
        del members["correlation_id"]
    assert all(members == answers[0] for members in answers)
    assert (await acme.pull("hidden"))["records"] == []


async def test_a_public_stream_says_that_an_entitlement_is_missing(served: Node) -> None:
    for client in ("globex-app", "hooli-app", "umbrella-app"):
        await served.partner(client).refused("/v1/streams/numbers/records", 403, "not_entitled")
        await served.partner(client).refused("/v1/streams/hidden/records", 404, "stream_not_found")


@pytest.mark.parametrize("path", HTTP_PATHS)
async def test_a_suspended_tenant_is_told(served: Node, path: str) -> None:
    await served.partner("initech-app").refused(path, 403, "tenant_suspended")


@pytest.mark.parametrize("suffix", ["records", "sse", "ndjson"])
async def test_with_an_entitlement_the_refusal_names_what_is_missing(served: Node, acme: Partner, suffix: str) -> None:
    answer = await acme.get(f"/v1/streams/guarded/{suffix}")
    assert "guarded:read" in problem(answer, 403, "insufficient_scope")["detail"]
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert "guarded:read" in answer.headers["www-authenticate"]
    assert "airport" in (await acme.refused(f"/v1/streams/rows/{suffix}", 403, "claim_missing"))["detail"]
    wrong = served.partner(airport=[{"not": "a name"}])
    await wrong.refused(f"/v1/streams/rows/{suffix}", 403, "claim_missing")
    if suffix != "records":
        offered = await acme.refused(f"/v1/streams/slow-only/{suffix}", 403, "transport_not_offered")
        assert "pull" in offered["detail"]
    both = served.partner(scope="streams:read guarded:read")
    assert (await both.pull("guarded"))["records"] == []


async def test_the_list_holds_what_the_token_may_read_and_nothing_internal(served: Node, acme: Partner) -> None:
    answer = await acme.get("/v1/streams")
    assert answer.headers["content-type"] == "application/json"
    listed = {entry["name"]: entry for entry in answer.json()["streams"]}
    assert {"numbers", "hidden", "ageing", "slow-only", "onward"} <= listed.keys()
    assert not {"drafted", "gone", "guarded", "rows"} & listed.keys()
    for internal in (served.estate.prefix, "kafka.internal", "9092", "tests@example.com"):
        assert internal not in answer.text
    entry = listed["numbers"]
    assert entry.keys() >= {"name", "title", "version", "lifecycle", "transports", "filters", "limits", "docs"}
    assert (entry["lifecycle"], entry["version"], entry["title"]) == ("published", "1.0.0", "numbers")
    assert set(entry["transports"]) == {"sse", "ws", "pull", "ndjson"}
    assert listed["ageing"]["successor"] == "numbers"
    assert entry["links"]["sse"] == f"{served.base_url}/v1/streams/numbers/sse"


async def test_the_list_follows_scopes_claims_and_entitlements(served: Node) -> None:
    async def names(partner: Partner) -> set[str]:
        return {entry["name"] for entry in (await partner.get("/v1/streams")).json()["streams"]}

    assert "guarded" in await names(served.partner(scope="streams:read guarded:read"))
    assert "rows" in await names(served.partner(airport="ORD"))
    assert await names(served.partner(scope="other")) == set()
    assert await names(served.partner("globex-app")) == set()


@pytest.mark.parametrize("protocol", ["pull", *PROTOCOLS])
async def test_a_deprecated_stream_says_so_in_headers_and_is_served(acme: Partner, protocol: str) -> None:
    if protocol == "pull":
        headers = (await acme.get("/v1/streams/ageing/records")).headers
    else:
        async with acme.open(protocol, "ageing", from_="earliest") as stream:
            await stream.records(1)
            headers = stream.headers  # type: ignore[assignment]
    assert headers["deprecation"] == "@1768435200"
    assert headers["sunset"] == "Mon, 30 Jun 2031 00:00:00 GMT"


async def test_a_stream_that_is_not_deprecated_has_no_such_headers(acme: Partner) -> None:
    headers = (await acme.get("/v1/streams/numbers/records")).headers
    assert not {"deprecation", "sunset"} & set(headers)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_stream_ends_when_its_token_does_and_goes_on_with_another(served: Node, protocol: str) -> None:
    expires = int(time.time()) + 3
    partner = served.partner(exp=expires)
    async with partner.open(protocol, "numbers", from_="earliest") as stream:
        records = [await stream.until("record") for _ in range(10)]
        goodbye = await stream.until("goodbye")
        # Never early; how late is measured elsewhere.
        assert time.time() >= expires
        assert (goodbye.data["code"], goodbye.data["close_code"]) == ("token_expired", 4401)
        assert goodbye.data["reconnect"] is False
        assert goodbye.cursor == goodbye.data["cursor"]
        assert await stream.over() == (4401 if protocol == "ws" else None)
    assert records
    assert (await served.partner().pull("numbers", cursor=goodbye.cursor))["records"] == []
    await partner.refused("/v1/streams/numbers/records", 401, "token_expired")


async def test_a_waiting_pull_is_bounded_by_nothing_but_its_wait(served: Node) -> None:
    """A page is one answer: the token is looked at when it is asked for."""
    partner = served.partner(exp=int(time.time()) + 2)
    page = await partner.pull("numbers", wait=3)
    assert page["records"] == []


async def test_a_token_withdrawn_scope_does_not_open_a_cursor(served: Node) -> None:
    cursor = (await served.partner(airport="ORD").pull("rows", from_="earliest", limit=1))["next_cursor"]
    assert (await served.partner(airport="LAX").pull("rows", cursor=cursor))["records"][0]["data"]["origin"] == "LAX"
    await served.partner().refused("/v1/streams/rows/records", 403, "claim_missing", cursor=cursor)
    await served.partner("globex-app").refused("/v1/streams/rows/records", 403, "not_entitled", cursor=cursor)


async def test_rows_of_others_never_leave_on_any_protocol(served: Node) -> None:
    partner = served.partner(airport="SEA")
    for protocol in PROTOCOLS:
        async with partner.open(protocol, "rows", from_="earliest") as stream:
            found = await stream.records(2)
            assert [record.data["data"]["origin"] for record in found] == ["SEA", "SEA"]
            assert (await stream.next()).kind == "checkpoint"


async def test_no_token_and_no_cursor_is_ever_logged(estate: Estate, gateway_node: Node) -> None:
    partner = gateway_node.partner()
    cursor = (await partner.pull("numbers"))["next_cursor"]
    await partner.pull("numbers", cursor=cursor)
    await partner.get("/v1/streams/numbers/records", access_token=partner.token)
    async with partner.ws("numbers", cursor=cursor) as stream:
        for _ in range(3):
            await stream.say({"type": "rewind", "token": partner.token})
        await stream.until("goodbye")
    log = (estate.deployment.directory / "estate.log").read_text()
    assert "access" in log
    assert (partner.token or "")[:40] not in log
    assert cursor not in log
