"""HTTP pull as a partner sees it: pages, the chain of their cursors, bounds, waiting, what stands in a record."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import pytest

from tests.parts.estate import (
    ALL_NUMBERS,
    PARTITIONS,
    PAYLOAD_KEYS,
    PAYLOADS,
    PER_PARTITION,
    Node,
    numbers_by_partition,
)
from tests.parts.partner import Partner

pytest_plugins = ("tests.parts.served",)

TOTAL = PARTITIONS * PER_PARTITION


async def test_the_chain_of_next_cursors_gives_every_record_once_and_in_partition_order(acme: Partner) -> None:
    page = await acme.pull("numbers", from_="earliest", limit=7)
    found = page["records"]
    while page["records"]:
        assert len(page["records"]) <= 7
        page = await acme.pull("numbers", cursor=page["next_cursor"], limit=7)
        found += page["records"]
    assert numbers_by_partition(found) == ALL_NUMBERS
    assert len({record["uid"] for record in found}) == len({record["id"] for record in found}) == len(found)


async def test_a_page_holds_a_hundred_records_unless_told_otherwise(acme: Partner) -> None:
    assert len((await acme.pull("numbers", from_="earliest"))["records"]) == 100
    assert len((await acme.pull("numbers", from_="earliest", limit=1000))["records"]) == TOTAL
    assert len((await acme.pull("numbers", from_="earliest", limit=1))["records"]) == 1


async def test_the_default_is_the_latest_and_not_to_wait(acme: Partner) -> None:
    began = time.monotonic()
    page = await acme.pull("numbers")
    assert time.monotonic() - began < 5
    assert page.keys() == {"records", "next_cursor", "behind_ms", "lag", "throttled_ms", "gaps"}
    assert (page["records"], page["gaps"], page["behind_ms"], page["lag"], page["throttled_ms"]) == ([], [], 0, 0, 0)


async def test_any_records_cursor_goes_on_after_that_record(acme: Partner) -> None:
    whole = (await acme.pull("numbers", from_="earliest", limit=1000))["records"]
    middle = whole[41]
    rest = await acme.pull("numbers", cursor=middle["id"], limit=1000)
    seen = {record["uid"] for record in whole[:42]} | {record["uid"] for record in rest["records"]}
    assert len(rest["records"]) == TOTAL - 42
    assert seen == {record["uid"] for record in whole}


async def test_lag_and_behind_tell_how_much_and_how_old_what_is_left_is(acme: Partner, served: Node) -> None:
    page = await acme.pull("numbers", from_="earliest", limit=50)
    assert page["lag"] == TOTAL - 50
    assert 500_000 < page["behind_ms"] < time.time() * 1000 - served.estate.began_ms + 1000
    page = await acme.pull("numbers", cursor=page["next_cursor"], limit=1000)
    assert (page["lag"], page["behind_ms"]) == (0, 0)


async def test_max_bytes_bounds_the_page_and_the_chain_still_gives_all(acme: Partner) -> None:
    page = await acme.pull("numbers", from_="earliest", limit=1000)
    one = len(json.dumps(page["records"][0], separators=(",", ":")))
    cursor, found, sizes = None, [], []
    while True:
        start = {"cursor": cursor} if cursor else {"from_": "earliest"}
        page = await acme.pull("numbers", limit=1000, max_bytes=10 * one, **start)
        if not page["records"]:
            break
        sizes.append(len(json.dumps(page["records"], separators=(",", ":"))))
        found += page["records"]
        cursor = page["next_cursor"]
    assert numbers_by_partition(found) == ALL_NUMBERS
    assert max(sizes) <= 10 * one + 2
    assert min(sizes[:-1]) > 5 * one


async def test_a_record_larger_than_max_bytes_comes_alone_rather_than_never(acme: Partner, served: Node) -> None:
    stream = await served.estate.new_stream()
    start = (await acme.pull(stream))["next_cursor"]
    sizes = [10, 5000, 5000, 10]
    await served.estate.produce(stream, [b'{"pad":"%s"}' % (b"x" * size) for size in sizes])
    found = []
    for _ in sizes:
        page = await acme.pull(stream, cursor=start, max_bytes=1000, wait=10)
        found.append([len(record["data"]["pad"]) for record in page["records"]])
        start = page["next_cursor"]
    assert found == [[10], [5000], [5000], [10]]


async def test_a_waiting_pull_answers_as_soon_as_a_record_comes(acme: Partner, served: Node) -> None:
    stream = await served.estate.new_stream()
    start = (await acme.pull(stream))["next_cursor"]
    waiting = asyncio.create_task(acme.pull(stream, cursor=start, wait=25))
    await asyncio.sleep(0)
    began = time.monotonic()
    await served.estate.produce(stream, [b'{"n":1}'])
    page = await waiting
    assert [record["data"] for record in page["records"]] == [{"n": 1}]
    assert time.monotonic() - began < 10


async def test_a_pull_with_records_at_hand_does_not_wait_for_more(acme: Partner) -> None:
    began = time.monotonic()
    page = await acme.pull("numbers", from_="earliest", wait=30, limit=1000)
    assert page["records"]
    assert time.monotonic() - began < 10


async def test_a_wait_that_nothing_ends_answers_empty_after_its_time(acme: Partner) -> None:
    start = (await acme.pull("numbers"))["next_cursor"]
    began = time.monotonic()
    page = await acme.pull("numbers", cursor=start, wait=0.7)
    assert 0.6 < time.monotonic() - began < 5
    assert page["records"] == []
    assert (await acme.pull("numbers", cursor=page["next_cursor"]))["records"] == []


async def test_a_wait_over_others_rows_answers_empty_with_an_advanced_cursor(served: Node) -> None:
    partner = served.partner(airport="nowhere")
    start = (await partner.get("/v1/streams/rows/records", from_="earliest")).headers["gateway-start-cursor"]
    page = await partner.pull("rows", cursor=start, wait=0.5)
    assert page["records"] == []
    assert page["next_cursor"] != start
    assert "lag" not in page, "a lag would tell how much others get"
    assert page["behind_ms"] == 0


async def test_a_row_filter_gives_the_rows_of_the_claim_and_no_other(served: Node) -> None:
    ord_ = await served.partner(airport="ORD").pull("rows", from_="earliest")
    assert [record["data"]["delay"] for record in ord_["records"]] == [0, 2, 5]
    both = await served.partner(airport=["SEA", "LAX"]).pull("rows", from_="earliest")
    assert [record["data"]["delay"] for record in both["records"]] == [1, 3, 4]
    assert "lag" not in both


async def test_a_record_has_its_cursor_identity_key_time_and_data(acme: Partner, served: Node) -> None:
    page = await acme.pull("payloads", from_="earliest")
    first, second, third, fourth = page["records"]
    assert first.keys() == {"id", "uid", "key", "headers", "time", "data"}
    assert len(first["uid"]) <= 24
    assert len(first["id"]) <= 128
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(served.estate.began_ms / 1000))
    assert first["time"] == f"{moment}.{served.estate.began_ms % 1000:03d}Z"
    assert first["headers"] == {"trace": "t-2"}
    assert (first["key"], third["key"], fourth["key"]) == ("first", "schlüssel", "first")
    assert base64.b64decode(second["key_base64"]) == PAYLOAD_KEYS[1]
    assert fourth["data"] is None, "a tombstone"
    assert [record["data"] for record in page["records"][1:3]] == [
        json.loads(payload) for payload in PAYLOADS[1:3] if payload
    ]


async def test_number_text_stays_as_it_was_produced(acme: Partner) -> None:
    text = (await acme.get("/v1/streams/payloads/records", from_="earliest")).text
    for number in ("1.10", "123456789012345678901234567890", "1E+400", "-0.0"):
        assert f":{number}" in text.replace(" ", "")


async def test_a_contract_that_hides_the_key_shows_neither_key_nor_headers(acme: Partner) -> None:
    page = await acme.pull("keyless", from_="earliest")
    assert all(record.keys() == {"id", "uid", "time", "data"} for record in page["records"])


async def test_a_payload_that_is_not_json_by_contract_is_base64(acme: Partner) -> None:
    first, second = (await acme.pull("texts", from_="earliest"))["records"]
    assert first.keys() == {"id", "uid", "time", "data_base64"}
    assert base64.b64decode(first["data_base64"]) == b"plain \xff\n\ntext"
    assert second["data_base64"] == ""


async def test_a_projection_shows_what_it_lists_and_nothing_else(acme: Partner) -> None:
    answer = await acme.get("/v1/streams/cut/records", from_="earliest")
    assert [record["data"] for record in answer.json()["records"]] == [
        {"kept": [1.5, {"x": 2}], "deep": {"in": 0.1}},
        {"kept": None},
        {},
        None,
    ]
    assert "secret" not in answer.text
    assert "1.50" in answer.text


async def test_undecodable_records_are_a_gap_at_their_place_and_never_sent(acme: Partner, served: Node) -> None:
    stream = await served.estate.new_stream()
    start = (await acme.pull(stream))["next_cursor"]
    await served.estate.produce(
        stream, [b'{"n":1}', b"SECRET {", b'{"SECRET":\xff}', b'{"n":2}', b"SECRET", b'{"n":3}', b'{"SECRET":1}}']
    )
    answer = await acme.get(f"/v1/streams/{stream}/records", cursor=start, wait=10)
    while len((page := answer.json())["gaps"]) < 3:
        # The records may come in several fetches: ask again from the start until all are there.
        answer = await acme.get(f"/v1/streams/{stream}/records", cursor=start, wait=10)
    assert [record["data"]["n"] for record in page["records"]] == [1, 2, 3]
    assert [(gap["before"], gap["reason"]) for gap in page["gaps"]] == [
        (1, "undecodable"),
        (2, "undecodable"),
        (3, "undecodable"),
    ]
    assert b"SECRET" not in answer.content
    assert all(gap.keys() == {"before", "reason", "from", "resumed_at"} for gap in page["gaps"])
    assert page["gaps"][0]["from"] == page["records"][0]["id"]
    resumed = await acme.pull(stream, cursor=page["gaps"][0]["resumed_at"])
    assert [record["data"]["n"] for record in resumed["records"]] == [2, 3]
    again = await acme.pull(stream, cursor=page["gaps"][0]["from"])
    assert [gap["before"] for gap in again["gaps"]] == [0, 1, 2], "who starts before a gap hears of it"


async def test_the_answer_names_where_the_read_starts_and_is_not_stored(acme: Partner) -> None:
    answer = await acme.get("/v1/streams/numbers/records", from_="earliest", limit=1)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    again = await acme.pull("numbers", cursor=answer.headers["gateway-start-cursor"], limit=1000)
    assert numbers_by_partition(again["records"]) == ALL_NUMBERS


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/*;q=0.5, text/plain"])
async def test_pull_is_what_an_undecided_client_gets(acme: Partner, accept: str | None) -> None:
    partner = acme if accept is None else acme.as_(acme.token, Accept=accept)
    answer = await partner.get("/v1/streams/numbers", from_="earliest", limit=3)
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.json()["records"]) == 3
