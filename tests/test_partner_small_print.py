"""Small promises of the wire contract that no other page of tests is about: identities, sameness, bounds, links."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.parts.estate import PAYLOADS, SENSORS, Node
from tests.parts.gateway import Deployment, contract
from tests.parts.kafka import Kafka
from tests.parts.made_up import ask
from tests.parts.partner import PROTOCOLS, Partner, problem

pytest_plugins = ("tests.parts.served",)


async def lines_of(acme: Partner, stream: str, count: int, **parameters: Any) -> list[str]:
    """The text of the first records over NDJSON."""
    async with acme.ndjson(stream, from_="earliest", **parameters) as opened:
        while len(found := records_among(opened.raw.decode().split("\n"))) < count:
            await opened.next()
    return found[:count]


def records_among(lines: list[str]) -> list[str]:
    return [line for line in lines if '"type":"record"' in line[:20] or '"specversion"' in line[:20]]


# ---- one record, many spellings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("envelope", ["record", "cloudevents"])
async def test_a_line_of_ndjson_is_the_websockets_message_to_the_letter(acme: Partner, envelope: str) -> None:
    lines = await lines_of(acme, "payloads", len(PAYLOADS), envelope=envelope)
    async with acme.ws("payloads", from_="earliest", envelope=envelope) as opened:
        await opened.next()
        frames = [await opened.connection.recv() for _ in PAYLOADS]
    assert lines == frames


async def test_sse_has_the_record_without_its_id_and_pull_has_the_same_with_it(acme: Partner) -> None:
    page = (await acme.get("/v1/streams/payloads/records", from_="earliest")).text
    async with acme.sse("payloads", from_="earliest") as opened:
        heard = await opened.records(len(PAYLOADS))
        texts = [line.removeprefix("data: ") for line in opened.raw.decode().split("\n") if line.startswith("data: {")]
    for one, text in zip(heard, texts, strict=False):
        assert "id" not in one.data
        assert f'{{"id":"{one.cursor}",{text[1:]}' in page


async def test_the_uid_is_one_in_every_shape_of_a_view(acme: Partner) -> None:
    plain = {
        record["data"]["count"]: record["uid"] for record in (await acme.pull("sensors", from_="earliest"))["records"]
    }
    assert len(set(plain.values())) == len(SENSORS)
    assert all(len(uid) <= 24 and uid.isascii() for uid in plain.values())
    for shape in ({"fields": "/count"}, {"filter": "live:exists:true"}, {"shard": "1/2"}):
        page = await acme.pull("sensors", from_="earliest", **shape)
        assert page["records"]
        assert all(plain[record["data"]["count"]] == record["uid"] for record in page["records"])
    events = (await acme.pull("sensors", from_="earliest", envelope="cloudevents"))["records"]
    assert {event["data"]["count"]: event["id"] for event in events} == plain


async def test_the_uid_outlives_restarts_and_cursor_keys_and_not_the_topic(kafka: Kafka, tmp_path: Path) -> None:
    topic = f"uids.{uuid.uuid4().hex[:8]}"
    await kafka.create_topic(topic)
    await kafka.produce(topic, [b"1", b"2"])
    own = Deployment(tmp_path / "own", kafka.bootstrap, [contract("uids", topic, partitions=1)])
    found: list[list[str]] = []
    for keys in ("the-first-secret-of-24-characters", "another-secret-of-24-characters!!"):
        own.settings = {"cursor": {"keys": [keys]}}
        with own.gateway(keys[:5]) as node:
            partner = Partner(node.base_url, own.token())
            found.append([record["uid"] for record in (await partner.pull("uids", from_="earliest"))["records"]])
            async with partner.ndjson("uids") as opened:
                welcome = await opened.next()
            assert welcome.data["heartbeat_ms"] == 15_000, "unless a deployment says otherwise"
            if len(found) == 2:
                await kafka.recreate_topic(topic)
                await kafka.produce(topic, [b"1", b"2"])
                found.append(await uids_of_another_topic(partner, set(found[0])))
    assert found[0] == found[1]
    assert not set(found[1]) & set(found[2]), "the same places of another topic are other records"


async def uids_of_another_topic(partner: Partner, known: set[str]) -> list[str]:
    """The uids once the gateway has seen that it is one: it may take some seconds."""
    async with asyncio.timeout(60):
        while True:
            answer = await partner.get("/v1/streams/uids/records", from_="earliest")
            if answer.status_code == 200:
                found = [record["uid"] for record in answer.json()["records"]]
                if len(found) == 2 and not known & set(found):
                    return found
            await asyncio.sleep(0.1)


async def test_twelve_partitions_make_cursors_of_128_characters_at_most(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream(partitions=12)
    for partition in range(12):
        await served.estate.produce(name, [b"%d" % n for n in range(200)], partition=partition)
    records = await acme.pull_all(name, 2400, from_="earliest")
    assert max(len(record["id"]) for record in records) <= 128
    assert len({record["id"] for record in records}) == 2400


# ---- what a read says of itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["ws", "ndjson"])
async def test_the_welcome_says_when_the_token_ends(served: Node, protocol: str) -> None:
    expires = int(time.time()) + 1234
    partner = served.partner(exp=expires)
    opens = {"ws": partner.ws, "ndjson": partner.ndjson}
    async with opens[protocol]("numbers") as opened:
        welcome = await opened.next()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(expires))
    assert welcome.data["expires_at"] == f"{moment}.000Z"


async def test_every_read_that_stays_open_has_a_session_of_its_own(acme: Partner) -> None:
    sessions = []
    for protocol in PROTOCOLS * 2:
        async with acme.open(protocol, "numbers") as opened:
            sessions.append(opened.headers["gateway-session"])
    assert len(set(sessions)) == len(sessions)
    assert "gateway-session" not in (await acme.get("/v1/streams/numbers/records")).headers


async def test_every_link_of_the_list_leads_where_it_says(acme: Partner) -> None:
    (entry,) = [one for one in (await acme.get("/v1/streams")).json()["streams"] if one["name"] == "numbers"]
    assert set(entry["links"]) == set(entry["transports"]) == {"sse", "ws", "pull", "ndjson"}
    media = {"sse": "text/event-stream", "ndjson": "application/x-ndjson", "pull": "application/json"}
    async with httpx.AsyncClient(headers=acme.all_headers(), trust_env=False) as client:
        for transport, expected in media.items():
            async with client.stream("GET", entry["links"][transport]) as answer:
                assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, expected)
        assert (await client.get(entry["docs"])).status_code == 200
    link = entry["links"]["ws"]
    assert link.startswith(acme.base_url.replace("http", "ws", 1))
    async with acme.ws("numbers", suffix=link.partition("/v1/streams/numbers")[2]) as opened:
        assert (await opened.next()).kind == "welcome"


async def test_the_bare_payload_is_refused_on_a_websocket(acme: Partner) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with acme.ws("numbers", envelope="none"):
            pass
    assert refused.value.response.status_code == 400
    members = json.loads(refused.value.response.body or b"")
    assert members["code"] == "invalid_parameter"
    assert "record, cloudevents" in members["detail"]


@pytest.mark.parametrize("protocol", ["pull", *PROTOCOLS])
async def test_the_last_event_id_wins_over_cursor_and_from_on_every_protocol(acme: Partner, protocol: str) -> None:
    page = await acme.pull("payloads", from_="earliest")
    early, late = page["records"][0]["id"], page["records"][2]["id"]
    who = acme.as_(acme.token, Last_Event_ID=late)
    if protocol == "pull":
        found = [record["uid"] for record in (await who.pull("payloads", cursor=early, from_="earliest"))["records"]]
    else:
        async with who.open(protocol, "payloads", cursor=early, from_="earliest") as opened:
            assert opened.headers["gateway-start-cursor"] == late
            found = [one.data["uid"] for one in await opened.records(1)]
    assert found == [page["records"][3]["uid"]]


@pytest.mark.parametrize("sent", ["\xff", "none", "a" * 5000, "AAAA=="])
async def test_a_last_event_id_that_is_no_cursor_is_an_invalid_cursor(acme: Partner, sent: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {**acme.all_headers(), "Last-Event-ID": sent.encode("latin-1")}
        answer = await client.get(f"{acme.base_url}/v1/streams/numbers/sse", headers=headers)  # type: ignore[arg-type]
    problem(answer, 400, "invalid_cursor")


# ---- bounds ----------------------------------------------------------------------------------------------------------


def token_of(node: Node, length: int) -> str:
    """A good token of exactly so many bytes. base64url has no text of one more than a multiple of four, so the header
    helps where the payload cannot."""
    issuer = node.deployment.issuer
    for header in ({"pad": ""}, {"pad": "x"}):
        claims = {"client_id": "acme-web", "scope": "streams:read"}
        pad = length - len(issuer.mint(claims={**claims, "pad": ""}, header=header))
        for extra in range(pad, pad // 2, -1):
            token = issuer.mint(claims={**claims, "pad": "x" * extra}, header=header)
            if len(token) == length:
                return token
    raise AssertionError("base64url has no text of this length")


async def test_a_token_of_eight_thousand_bytes_is_read_and_a_longer_one_refused(gateway_node: Node) -> None:
    longest = Partner(gateway_node.base_url, token_of(gateway_node, 8000))
    assert (await longest.get("/v1/streams/numbers/records")).status_code == 200
    for length in (8001, 8005, 8100):
        longer = Partner(gateway_node.base_url, (longest.token or "") + "A" * (length - 8000))
        problem(await longer.get("/v1/streams/numbers/records"), 401, "token_invalid")


async def test_base64url_is_strict_in_tokens_and_in_cursors(acme: Partner) -> None:
    cursor = (await acme.pull("numbers"))["next_cursor"]
    for bad in (f"{cursor}=", f"{cursor}==", f" {cursor}", f"{cursor}\n", cursor + "+", cursor[:-1] + "/"):
        await acme.refused("/v1/streams/numbers/records", 400, "invalid_cursor", cursor=bad)
    head, body, signature = (acme.token or "").split(".")
    for token in (f"{head}=.{body}.{signature}", f"{head}.{body}=.{signature}", f"{head}.{body}.{signature}="):
        await acme.as_(token).refused("/v1/streams/numbers/records", 401, "token_invalid")


LINE = 8192


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["X: " + "y" * (LINE - 3)], 200),
        (["X: " + "y" * (LINE - 2)], 431),
        ([f"X-{number}: y" for number in range(97)], 200),
        ([f"X-{number}: y" for number in range(101)], 431),
        ([f"X-{number}: " + "y" * 7000 for number in range(4)], 200),
        ([f"X-{number}: " + "y" * 7000 for number in range(5)], 431),
    ],
    ids=["a line at the bound", "a longer one", "lines up to the bound", "more", "headers up to the bound", "larger"],
)
async def test_headers_have_the_bounds_that_are_promised(gateway_node: Node, lines: list[str], status: int) -> None:
    bearer = f"Authorization: Bearer {gateway_node.partner().token}"
    head = ["GET /v1/streams HTTP/1.1", "Host: x", bearer, *lines, "", ""]
    url = httpx.URL(gateway_node.base_url)
    answer = await ask(url.host, url.port or 80, "\r\n".join(head).encode())
    assert answer is not None
    assert answer.status == status
    if status == 431:
        assert json.loads(answer.body)["code"] == "headers_too_large"


async def test_a_hundred_parameters_are_read_and_one_more_is_refused(acme: Partner) -> None:
    for count, said in ((100, "20"), (101, "100 parameters")):
        answer = await acme.get(acme.url_of("/v1/streams/sensors/records", [("filter", "count:ge:0")] * count))
        assert answer.status_code == 400
        assert said in answer.json()["detail"]


async def test_a_body_larger_than_64_kib_is_refused_wherever_it_is_sent(gateway_node: Node) -> None:
    url = httpx.URL(gateway_node.base_url)
    head = ["POST /v1/streams HTTP/1.1", "Host: x", f"Authorization: Bearer {gateway_node.partner().token}"]
    announced = [*head, f"Content-Length: {64 * 1024 + 1}", "", ""]
    answer = await ask(url.host, url.port or 80, "\r\n".join(announced).encode())
    assert answer is not None
    assert (answer.status, json.loads(answer.body)["code"]) == (413, "payload_too_large")


async def test_two_correlation_ids_are_none(acme: Partner) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = [*acme.all_headers().items(), ("X-Correlation-Id", "one"), ("X-Correlation-Id", "two")]
        answer = await client.get(f"{acme.base_url}/v1/streams", headers=headers)
    assert answer.headers["x-correlation-id"] not in ("one", "two", "one, two", "")


# ---- goodbye ---------------------------------------------------------------------------------------------------------


async def test_a_goodbye_that_asks_for_a_change_names_no_time_to_come_back(served: Node) -> None:
    partner = served.partner(exp=int(time.time()) + 2)

    async def last_word(protocol: str) -> dict[str, Any]:
        async with partner.open(protocol, "numbers", from_="earliest") as opened:
            return (await opened.until("goodbye")).data

    for goodbye in await asyncio.gather(*map(last_word, PROTOCOLS)):
        assert goodbye["reconnect"] is False
        assert goodbye.keys() == {"code", "close_code", "reason", "reconnect", "cursor"}
