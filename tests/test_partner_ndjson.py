"""HTTP streaming by lines of JSON as a partner sees it."""

from __future__ import annotations

import json
from datetime import datetime

from tests.parts.estate import ALL_NUMBERS, PARTITIONS, PER_PARTITION, Node, numbers_by_partition
from tests.parts.partner import NdjsonStream, Partner

pytest_plugins = ("tests.parts.served",)

TOTAL = PARTITIONS * PER_PARTITION


async def test_the_first_line_is_a_welcome_that_names_session_start_and_heartbeat(acme: Partner) -> None:
    async with acme.ndjson("numbers", from_="earliest") as stream:
        welcome = await stream.next()
        headers = stream.headers
    assert headers["content-type"] == "application/x-ndjson"
    assert headers["cache-control"] == "no-store, no-transform"
    assert welcome.kind == "welcome"
    assert welcome.data.keys() == {"session", "cursor", "expires_at", "heartbeat_ms", "limits"}
    assert welcome.data["heartbeat_ms"] == 1000
    assert welcome.data["session"] == headers["gateway-session"]
    assert welcome.cursor == headers["gateway-start-cursor"]
    left = datetime.fromisoformat(welcome.data["expires_at"]).timestamp() - datetime.now().timestamp()
    assert 3000 < left < 3700
    assert welcome.data["limits"]["connections"] == "unlimited"


async def test_every_line_is_one_object_with_its_type(acme: Partner) -> None:
    async with acme.ndjson("numbers", from_="earliest") as stream:
        await stream.next()
        records = await stream.records(TOTAL)
        await stream.until("checkpoint")
        lines = stream.raw.decode().splitlines()
    assert numbers_by_partition(records) == ALL_NUMBERS
    frames = [json.loads(line) for line in lines]
    assert {frame["type"] for frame in frames} == {"welcome", "record", "checkpoint"}
    assert all(frame.keys() == {"type", "id", "uid", "time", "data"} for frame in frames if frame["type"] == "record")
    assert all("cursor" in frame for frame in frames if frame["type"] == "checkpoint")


async def test_records_come_as_they_are_produced_and_gaps_at_their_place(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream()
    async with acme.ndjson(name) as stream:
        await stream.next()
        await served.estate.produce(name, [b"1", b"SECRET", b"2"])
        heard = [await stream.next_but_checkpoints() for _ in range(3)]
        assert b"SECRET" not in stream.raw
    assert [one.kind for one in heard] == ["record", "gap", "record"]
    assert heard[1].data["reason"] == "undecodable"
    assert heard[1].cursor == heard[1].data["resumed_at"]


async def test_it_resumes_at_any_line(acme: Partner) -> None:
    async with acme.ndjson("numbers", from_="earliest") as stream:
        await stream.next()
        before = await stream.records(57)
    async with acme.ndjson("numbers", cursor=stream.last_cursor) as stream:
        await stream.next()
        after = await stream.records(TOTAL - 57)
    assert numbers_by_partition([*before, *after]) == ALL_NUMBERS


async def test_number_text_and_awkward_characters_stay_within_their_line(acme: Partner) -> None:
    async with acme.ndjson("payloads", from_="earliest") as stream:
        await stream.next()
        records = await stream.records(4)
        assert b"1.10" in stream.raw
        assert b"123456789012345678901234567890" in stream.raw
    assert records[1].data["data"] == {"broken": "lines", "unicode": "\u2028 \ufeff \0 🌍"}


async def test_accept_chooses_the_protocol(acme: Partner) -> None:
    partner = acme.as_(acme.token, Accept="application/x-ndjson")
    async with partner._http("/v1/streams/numbers", from_="earliest") as response:
        assert (await NdjsonStream(response).next()).kind == "welcome"
