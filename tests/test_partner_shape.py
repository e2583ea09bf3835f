"""What of a stream a partner asks for: its own filter, fields, envelope and shard, the same on every protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.parts.estate import ALL_NUMBERS, PARTITIONS, SENSORS, Node, numbers_by_partition
from tests.parts.partner import PROTOCOLS, Partner

pytest_plugins = ("tests.parts.served",)

SUFFIXES = ("records", "sse", "ndjson")


async def counts(partner: Partner, *filters: str, **parameters: Any) -> list[int]:
    """The ``count`` of each record of ``sensors`` that passes."""
    start = [] if "cursor" in parameters else [("from", "earliest")]
    query = [*start, *(("filter", one) for one in filters), *parameters.items()]
    answer = await partner.get(partner.url_of("/v1/streams/sensors/records", query))
    assert answer.status_code == 200, answer.text
    return sorted(record["data"]["count"] for record in answer.json()["records"])


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["site:eq:north"], [1]),
        (["site:ne:north"], [2, 3, 6, 7, 10]),
        (["site:prefix:north"], [1, 3, 10]),
        (["site:in:north,south"], [1, 2]),
        ([r"site:in:north\, upper,south"], [2, 10]),
        (["site:eq:a:b"], [7]),
        (["site:eq:Süden"], [6]),
        (["site:exists:true"], [1, 2, 3, 4, 6, 7, 10]),
        (["site:exists:false"], [5]),
        (["site:lt:north"], [6, 7]),
        (["level:eq:1.5"], [1, 7]),
        (["level:eq:1.50"], [1, 7]),
        (["level:ge:3"], [3, 6, 10]),
        (["level:gt:3"], [3, 10]),
        (["level:le:0"], [2, 5]),
        (["level:lt:-1.9"], [2]),
        (["level:ne:0"], [1, 2, 3, 6, 7, 10]),
        (["level:in:3,10"], [3, 6]),
        (["count:eq:10"], [10]),
        (["live:eq:true"], [1, 4, 7, 10]),
        (["live:ne:true"], [2, 6]),
        (["live:exists:false"], [3, 5]),
        (["live:eq:true", "level:gt:1", "site:prefix:n"], [1, 10]),
        (["site:eq:nowhere"], []),
    ],
)
async def test_a_filter_gives_what_it_says(acme: Partner, filters: list[str], expected: list[int]) -> None:
    assert await counts(acme, *filters) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_filter_holds_for_old_and_new_records_on_every_protocol(
    acme: Partner, served: Node, protocol: str
) -> None:
    async with acme.open(protocol, "sensors", from_="earliest", filter="site:eq:north") as stream:
        found = await stream.records(1)
        assert found[0].data["data"]["count"] == 1
        assert (await stream.next()).kind == "checkpoint", "the rest is told as progress"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("term", "named"),
    [
        ("site", "name:op:value"),
        ("site:eq", "name:op:value"),
        ("secret:eq:s", "secret"),
        ("nothing:eq:1", "nothing"),
        ("site:like:x", "like"),
        ("level:prefix:1", "prefix"),
        ("level:eq:much", "much"),
        ("level:eq:nan", "nan"),
        ("level:eq:0x10", "0x10"),
        ("count:eq:1.5", "1.5"),
        ("live:eq:yes", "yes"),
        ("site:exists:maybe", "maybe"),
        ("live:lt:true", "lt"),
        ("level:eq:" + "9" * 400, "999"),
    ],
)
async def test_a_bad_filter_is_named_with_what_is_allowed(acme: Partner, suffix: str, term: str, named: str) -> None:
    members = await acme.refused(f"/v1/streams/sensors/{suffix}", 400, "invalid_parameter", filter=term)
    assert named in members["detail"]


async def test_a_filter_has_twenty_terms_at_most(acme: Partner) -> None:
    assert await counts(acme, *["site:eq:north"] * 20) == [1]
    url = acme.url_of("/v1/streams/sensors/records", [("filter", f"count:ne:{n}") for n in range(21)])
    assert (await acme.get(url)).status_code == 400


async def test_a_stream_without_filters_or_without_json_says_so(acme: Partner) -> None:
    await acme.refused("/v1/streams/numbers/records", 400, "invalid_parameter", filter="n:eq:1")
    await acme.refused("/v1/streams/texts/records", 400, "invalid_parameter", fields="/n")


async def test_a_resume_may_change_the_filter_and_loses_nothing_of_the_new_one(acme: Partner) -> None:
    whole = await acme.pull("sensors", from_="earliest")
    cursor = whole["records"][2]["id"]
    rest = {record["data"]["count"] for record in whole["records"][3:]}
    assert set(await counts(acme, "live:eq:true", cursor=cursor)) == rest & {1, 4, 7, 10}


# ---- fields ----------------------------------------------------------------------------------------------------------


async def test_fields_cut_a_record_down_and_keep_number_text(acme: Partner) -> None:
    answer = await acme.get("/v1/streams/sensors/records", from_="earliest", fields="/level,/at/y")
    found = [record["data"] for record in answer.json()["records"]]
    assert {"level": 1.5, "at": {"y": 2.0}} in found
    assert all(data.keys() <= {"level", "at"} for data in found)
    assert "1.50" in answer.text
    assert "1e1" in answer.text


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_fields_are_the_same_on_every_protocol(acme: Partner, protocol: str) -> None:
    async with acme.open(protocol, "sensors", from_="earliest", fields="/count") as stream:
        found = await stream.records(len(SENSORS))
    assert sorted(record.data["data"]["count"] for record in found) == [1, 2, 3, 4, 5, 6, 7, 10]
    assert all(record.data["data"].keys() == {"count"} for record in found)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("fields", ["/secret", "count", "/nothing", "/site,/secret", "/site,", "/~2", "/"])
async def test_fields_outside_the_contract_are_refused(acme: Partner, suffix: str, fields: str) -> None:
    members = await acme.refused(f"/v1/streams/sensors/{suffix}", 400, "invalid_parameter", fields=fields)
    assert "fields" in members["detail"]
    if "secret" not in fields:
        assert "secret" not in members["detail"], "what the contract leaves out is not even named"


# ---- envelopes -------------------------------------------------------------------------------------------------------


def _check_cloudevent(event: dict[str, Any], served: Node) -> None:
    assert event["specversion"] == "1.0"
    assert event["source"] == f"{served.base_url}/v1/streams/numbers"
    assert event["type"] == "urn:test:numbers.event"
    assert event["time"].endswith("Z")
    assert event["data"].keys() == {"p", "n"}
    assert "uid" not in event


async def test_cloudevents_over_pull(acme: Partner, served: Node) -> None:
    plain = (await acme.pull("numbers", from_="earliest"))["records"]
    events = (await acme.pull("numbers", from_="earliest", envelope="cloudevents"))["records"]
    for event in events:
        _check_cloudevent(event, served)
    assert {event["id"] for event in events} == {record["uid"] for record in plain}
    rest = await acme.pull("numbers", cursor=events[9]["cursor"], limit=1000)
    assert len(rest["records"]) == 120 - 10


async def test_cloudevents_over_sse(acme: Partner, served: Node) -> None:
    async with acme.sse("numbers", from_="earliest", envelope="cloudevents") as stream:
        found = await stream.records(20)
    for one in found:
        _check_cloudevent(one.data, served)
        assert one.data["cursor"] == one.cursor


async def test_cloudevents_over_frames_are_told_by_their_specversion(acme: Partner, served: Node) -> None:
    async with acme.ws("numbers", from_="earliest", envelope="cloudevents") as stream:
        frames = [json.loads(await stream.connection.recv()) for _ in range(60)]
    async with acme.ndjson("numbers", from_="earliest", envelope="cloudevents") as lines:
        await lines.until("checkpoint")
        frames += [json.loads(line) for line in lines.raw.decode().splitlines()]
    events = [frame for frame in frames if "specversion" in frame]
    assert len(events) >= 120
    for event in events:
        _check_cloudevent(event, served)
    assert {frame["type"] for frame in frames if "specversion" not in frame} <= {"welcome", "checkpoint"}


async def test_cloudevents_of_other_payloads(acme: Partner) -> None:
    text = (await acme.pull("texts", from_="earliest", envelope="cloudevents"))["records"][0]
    assert "data" not in text
    assert text["data_base64"]
    tombstone = (await acme.pull("payloads", from_="earliest", envelope="cloudevents"))["records"][3]
    assert tombstone.get("data") is None


async def test_the_bare_payload_over_sse_and_pull(acme: Partner) -> None:
    answer = await acme.get("/v1/streams/numbers/records", from_="earliest", envelope="none", limit=1000)
    page = answer.json()
    assert numbers_by_partition([{"data": payload} for payload in page["records"]]) == ALL_NUMBERS
    assert (await acme.pull("numbers", cursor=page["next_cursor"]))["records"] == []
    async with acme.sse("numbers", from_="earliest", envelope="none") as stream:
        found = await stream.records(120)
    assert numbers_by_partition([{"data": one.data} for one in found]) == ALL_NUMBERS
    assert all(one.cursor for one in found)


async def test_the_bare_payload_is_refused_where_frames_need_a_type(acme: Partner) -> None:
    members = await acme.refused("/v1/streams/numbers/ndjson", 400, "invalid_parameter", envelope="none")
    assert "envelope" in members["detail"]


# ---- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["pull", *PROTOCOLS])
async def test_shards_share_a_stream_out_by_partition(acme: Partner, protocol: str) -> None:
    for index in range(2):
        shard = f"{index}/2"
        if protocol == "pull":
            page = await acme.pull("numbers", from_="earliest", shard=shard, limit=1000)
            found: list[Any] = page["records"]
            assert page["lag"] == 0
        else:
            async with acme.open(protocol, "numbers", from_="earliest", shard=shard) as stream:
                found = await stream.records(60)
        expected = {partition: ALL_NUMBERS[partition] for partition in range(PARTITIONS) if partition % 2 == index}
        assert numbers_by_partition(found) == expected


async def test_a_shard_resumes_by_its_own_cursor_only(acme: Partner) -> None:
    page = await acme.pull("numbers", from_="earliest", shard="0/2", limit=10)
    assert page["lag"] == 50
    rest = await acme.pull("numbers", cursor=page["next_cursor"], shard="0/2", limit=1000)
    assert len(rest["records"]) == 50
    for other in ({}, {"shard": "1/2"}, {"shard": "0/3"}, {"shard": "0/4"}):
        await acme.refused("/v1/streams/numbers/records", 400, "invalid_cursor", cursor=page["next_cursor"], **other)
    whole = (await acme.pull("numbers", from_="earliest", limit=10))["next_cursor"]
    await acme.refused("/v1/streams/numbers/records", 400, "invalid_cursor", cursor=whole, shard="0/2")


async def test_a_shard_without_a_partition_is_idle(acme: Partner) -> None:
    page = await acme.pull("numbers", from_="earliest", shard="4/5")
    assert (page["records"], page["gaps"]) == ([], [])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shard", ["1", "2/2", "0/0", "-1/2", "1/-2", "0/1000", "a/b", "0/2/3", "\u0660/2", "0 / 2"])
async def test_a_bad_shard_is_named_with_what_is_allowed(acme: Partner, suffix: str, shard: str) -> None:
    members = await acme.refused(f"/v1/streams/numbers/{suffix}", 400, "invalid_parameter", shard=shard)
    assert "i/n" in members["detail"]
