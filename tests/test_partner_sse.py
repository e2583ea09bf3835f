"""Server-Sent Events as a partner sees them: the bytes of the format, live and old records, checkpoints, resuming."""

from __future__ import annotations

import json
import re

import pytest

from tests.parts.estate import ALL_NUMBERS, PARTITIONS, PER_PARTITION, Node, numbers_by_partition
from tests.parts.partner import Partner, SseStream

pytest_plugins = ("tests.parts.served",)

TOTAL = PARTITIONS * PER_PARTITION


async def test_the_answer_says_that_it_is_a_stream_and_that_nobody_may_keep_or_change_it(acme: Partner) -> None:
    async with acme.sse("numbers") as stream:
        media, _, parameters = stream.headers["content-type"].partition(";")
        assert media == "text/event-stream"
        assert parameters.strip() in ("", "charset=utf-8")
        assert stream.headers["cache-control"] == "no-store, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["gateway-session"]
        assert stream.headers["gateway-start-cursor"]
        assert stream.headers["x-correlation-id"]
        assert "content-length" not in stream.headers


async def test_the_first_bytes_are_retry_and_come_at_once(acme: Partner) -> None:
    async with acme.sse("numbers") as stream:
        first = await stream.next()
        assert re.match(rb"retry: [1-9][0-9]{2,4}\n(?!\n)", stream.raw), "alone, clients take it for an empty message"
        assert stream.retry_ms is not None
    assert (first.kind, first.cursor) == ("checkpoint", stream.headers["gateway-start-cursor"])


async def test_who_is_cut_off_before_the_first_record_has_an_id_to_come_back_with(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream()
    async with acme.sse(name, from_="latest") as stream:
        await stream.until("checkpoint")
    await served.estate.produce(name, [b"1"])
    # As an EventSource does: the same address, and the last id it saw.
    async with acme.as_(acme.token, Last_Event_ID=str(stream.last_cursor)).sse(name, from_="latest") as stream:
        assert (await stream.records(1))[0].data["data"] == 1


async def test_retry_is_jittered_so_that_not_all_come_back_at_once(acme: Partner) -> None:
    seen = set()
    for _ in range(5):
        async with acme.sse("numbers", from_="earliest") as stream:
            await stream.records(1)
            seen.add(stream.retry_ms)
    assert len(seen) > 1


async def test_a_record_is_an_id_line_and_a_data_line_and_has_no_event_name(acme: Partner) -> None:
    async with acme.sse("numbers", from_="earliest") as stream:
        records = await stream.records(TOTAL)
        raw = stream.raw
    for event in raw.split(b"\n\n")[1:10]:
        assert re.fullmatch(rb"id: [A-Za-z0-9_-]+\ndata: \{[^\n]*\}", event)
    assert b"\r" not in raw
    assert b"event: record" not in raw
    assert records[0].data.keys() == {"uid", "time", "data"}, "the cursor is the id line, not a member"
    assert numbers_by_partition(records) == ALL_NUMBERS


async def test_an_idle_stream_beats_with_checkpoints_that_have_an_id(acme: Partner) -> None:
    async with acme.sse("numbers") as stream:
        one, two = await stream.until("checkpoint"), await stream.until("checkpoint")
        assert b"event: checkpoint\nid: " in stream.raw
    assert one.data == two.data == {"behind_ms": 0, "retention_in_ms": None}
    assert one.cursor
    assert (await acme.pull("numbers", cursor=one.cursor))["records"] == []


async def test_records_come_as_they_are_produced(acme: Partner, served: Node) -> None:
    stream_name = await served.estate.new_stream(partitions=2)
    async with acme.sse(stream_name) as stream:
        for n in range(3):
            await served.estate.produce(stream_name, [b'{"n":%d}' % n], partition=n % 2)
            assert (await stream.records(1))[0].data["data"] == {"n": n}


async def test_old_records_run_into_live_ones_without_a_seam(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream()
    await served.estate.produce(name, [b"%d" % n for n in range(50)])
    async with acme.sse(name, from_="earliest") as stream:
        old = await stream.records(10)
        await served.estate.produce(name, [b"%d" % n for n in range(50, 80)])
        found = old + await stream.records(70)
    assert [record.data["data"] for record in found] == list(range(80))


async def test_last_event_id_resumes_as_a_browser_does(acme: Partner) -> None:
    async with acme.sse("numbers", from_="earliest") as stream:
        before = await stream.records(33)
    again = acme.as_(acme.token, Last_Event_ID=str(stream.last_cursor))
    # An EventSource comes back to the same address: what it asked for at first must not count any more.
    async with again.sse("numbers", from_="earliest") as stream:
        assert stream.headers["gateway-start-cursor"] == before[-1].cursor
        after = await stream.records(TOTAL - 33)
    assert numbers_by_partition([*before, *after]) == ALL_NUMBERS


async def test_a_gap_is_an_event_with_a_name_and_an_id_at_its_place(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream()
    async with acme.sse(name) as stream:
        await served.estate.produce(name, [b"1", b"SECRET", b"SECRET", b"2"])
        (one,) = await stream.records(1)
        gap = await stream.next_but_checkpoints()
        (two,) = await stream.records(1)
        assert b"SECRET" not in stream.raw
        assert b"event: gap\nid: " in stream.raw
    assert (one.data["data"], gap.kind, two.data["data"]) == (1, "gap", 2)
    assert gap.data.keys() == {"reason", "from", "resumed_at"}
    assert gap.data["reason"] == "undecodable"
    assert gap.cursor == gap.data["resumed_at"]
    assert gap.data["from"] == one.cursor
    assert [record["data"] for record in (await acme.pull(name, cursor=gap.cursor))["records"]] == [2]


async def test_what_a_payload_holds_never_breaks_an_event(acme: Partner) -> None:
    async with acme.sse("payloads", from_="earliest") as stream:
        records = await stream.records(4)
        raw = stream.raw
    assert records[1].data["data"] == {"broken": "lines", "unicode": "\u2028 \ufeff \0 🌍"}
    assert b"\r" not in raw
    assert b"\0" not in raw
    assert "1.10" in raw.decode()
    assert records[3].data["data"] is None


async def test_everything_filtered_out_is_told_as_progress(served: Node) -> None:
    async with served.partner(airport="nowhere").sse("rows", from_="earliest") as stream:
        # The first may come before the old records were looked through.
        await stream.until("checkpoint")
        checkpoint = await stream.next()
        start = stream.headers["gateway-start-cursor"]
    assert checkpoint.kind == "checkpoint"
    assert checkpoint.cursor != start
    again = served.partner(airport="ORD")
    assert (await again.pull("rows", cursor=checkpoint.cursor))["records"] == []


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "text/event-stream, */*;q=0.1", "application/json;q=0.1, text/*"]
)
async def test_accept_chooses_the_protocol(acme: Partner, accept: str) -> None:
    async with acme.as_(acme.token, Accept=accept)._http("/v1/streams/numbers", from_="earliest") as response:
        record = (await SseStream(response).records(1))[0]
    assert json.dumps(record.data["data"])
