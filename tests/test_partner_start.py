"""Where a read starts, the same on every protocol: from, cursor, Last-Event-ID, retention, the worth of a cursor."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.parts.estate import (
    ALL_NUMBERS,
    PARTITIONS,
    PER_PARTITION,
    TIME_STEP_MS,
    Estate,
    Node,
    numbers_by_partition,
)
from tests.parts.gateway import Deployment
from tests.parts.partner import PROTOCOLS, Heard, Partner, problem

pytest_plugins = ("tests.parts.served",)

TOTAL = PARTITIONS * PER_PARTITION
EVERYWHERE = ("pull", *PROTOCOLS)


async def read(partner: Partner, protocol: str, stream: str, count: int, **parameters: Any) -> list[Heard]:
    """``count`` things of a stream over any protocol, records and gaps in their order."""
    if protocol != "pull":
        async with partner.open(protocol, stream, **parameters) as opened:
            return [await opened.next_but_checkpoints() for _ in range(count)]
    found: list[Heard] = []
    while len(found) < count:
        page = await partner.pull(stream, **{"limit": 1000, "wait": 10} | parameters)
        gaps = {gap.pop("before"): gap for gap in page["gaps"]}
        assert page["records"] or gaps, f"only {found} of {count}"
        for place in range(len(page["records"]) + 1):
            if place in gaps:
                found.append(Heard("gap", gaps[place]["resumed_at"], gaps[place]))
            if place < len(page["records"]):
                record = page["records"][place]
                found.append(Heard("record", record["id"], record))
        parameters = {"cursor": page["next_cursor"]}
    return found[:count]


def values(heard: list[Heard]) -> list[Any]:
    """The data of records, and the reasons of gaps."""
    return [one.data["data"] if one.kind == "record" else one.data["reason"] for one in heard]


@pytest.mark.parametrize("protocol", EVERYWHERE)
async def test_earliest_gives_everything_in_partition_order(acme: Partner, protocol: str) -> None:
    assert numbers_by_partition(await read(acme, protocol, "numbers", TOTAL, from_="earliest")) == ALL_NUMBERS


@pytest.mark.parametrize("protocol", EVERYWHERE)
async def test_the_default_and_latest_give_what_comes_after_the_open(
    acme: Partner, served: Node, protocol: str
) -> None:
    name = await served.estate.new_stream()
    await served.estate.produce(name, [b"1"])
    if protocol == "pull":
        start, other = (await acme.pull(name))["next_cursor"], (await acme.pull(name, from_="latest"))["next_cursor"]
        await served.estate.produce(name, [b"2"])
        assert values(await read(acme, "pull", name, 1, cursor=start)) == [2]
        assert values(await read(acme, "pull", name, 1, cursor=other)) == [2]
        return
    async with acme.open(protocol, name) as one, acme.open(protocol, name, from_="latest") as two:
        await served.estate.produce(name, [b"2"])
        assert values(await one.records(1)) == values(await two.records(1)) == [2]


def spellings(moment: datetime) -> list[str]:
    """One time in every form that is allowed."""
    berlin = moment.astimezone(timezone(timedelta(hours=2)))
    return [
        str(int(moment.timestamp() * 1000)),
        moment.isoformat().replace("+00:00", "Z"),
        moment.isoformat().replace("+00:00", "z").replace("T", "t"),
        moment.isoformat(),
        berlin.isoformat(),
        # As it arrives where the plus was not escaped.
        berlin.isoformat().replace("+", " "),
    ]


@pytest.mark.parametrize("spelling", range(6))
async def test_a_time_is_rfc_3339_or_epoch_milliseconds(acme: Partner, served: Node, spelling: int) -> None:
    moment = datetime.fromtimestamp((served.estate.began_ms + 20 * TIME_STEP_MS) / 1000, UTC)
    text = spellings(moment)[spelling]
    found = await read(acme, "pull", "numbers", TOTAL - 20 * PARTITIONS, from_=text)
    assert numbers_by_partition(found) == {p: list(range(20, PER_PARTITION)) for p in range(PARTITIONS)}


async def test_a_plus_that_is_not_escaped_is_taken_for_what_it_was(acme: Partner, served: Node) -> None:
    moment = datetime.fromtimestamp((served.estate.began_ms + 20 * TIME_STEP_MS) / 1000, timezone(timedelta(hours=2)))
    answer = await acme.get(f"/v1/streams/numbers/records?from={moment.isoformat()}&limit=1000")
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["records"]) == TOTAL - 20 * PARTITIONS


@pytest.mark.parametrize("protocol", EVERYWHERE)
async def test_a_time_starts_at_the_first_record_at_or_after_it(acme: Partner, served: Node, protocol: str) -> None:
    found = await read(
        acme, protocol, "numbers", TOTAL - 13 * PARTITIONS, from_=served.estate.began_ms + 12 * TIME_STEP_MS + 1
    )
    assert numbers_by_partition(found) == {p: list(range(13, PER_PARTITION)) for p in range(PARTITIONS)}


async def test_a_time_ahead_is_the_latest_and_one_before_all_is_the_earliest(acme: Partner) -> None:
    ahead = await acme.pull("numbers", from_="2100-01-01T00:00:00Z")
    assert (ahead["records"], ahead["gaps"]) == ([], [])
    before = await acme.pull("numbers", from_="1970-01-01T00:00:00Z", limit=1000)
    assert len(before["records"]) == TOTAL
    assert before["gaps"] == [], "nothing was ever taken away"


@pytest.mark.parametrize("name", ["cursor", "last_event_id"])
@pytest.mark.parametrize("protocol", EVERYWHERE)
async def test_a_cursor_of_any_protocol_resumes_on_every_protocol(acme: Partner, protocol: str, name: str) -> None:
    before = await read(acme, "pull", "numbers", 40, from_="earliest", limit=40)
    for follower in EVERYWHERE:
        if (name == "cursor") == (follower == protocol):
            continue
        cursor = (await read(acme, protocol, "numbers", 40, from_="earliest", **_forty(protocol)))[39].cursor
        after = await read(acme, follower, "numbers", TOTAL - 40, **{name: cursor})
        assert numbers_by_partition([*before, *after]) == ALL_NUMBERS


def _forty(protocol: str) -> dict[str, int]:
    return {"limit": 40} if protocol == "pull" else {}


async def test_the_header_wins_over_the_cursor_and_the_cursor_over_from(acme: Partner) -> None:
    whole = await read(acme, "pull", "numbers", TOTAL, from_="earliest")
    early, late = str(whole[9].cursor), str(whole[99].cursor)
    by_header = await acme.as_(acme.token, Last_Event_ID=late).pull(
        "numbers", cursor=early, from_="earliest", limit=1000
    )
    assert by_header["records"][0]["uid"] == whole[100].data["uid"]
    assert len(by_header["records"]) == TOTAL - 100
    by_cursor = await acme.pull("numbers", cursor=early, from_="latest", limit=1000)
    assert len(by_cursor["records"]) == TOTAL - 10
    by_other_name = await acme.pull("numbers", last_event_id=early, from_="latest", limit=1000)
    assert len(by_other_name["records"]) == TOTAL - 10
    async with acme.as_(acme.token, Last_Event_ID=late).sse("numbers", cursor=early) as stream:
        assert len(await stream.records(TOTAL - 100)) == TOTAL - 100


async def test_an_empty_last_event_id_header_is_none(acme: Partner) -> None:
    page = await acme.as_(acme.token, Last_Event_ID="").pull("numbers", from_="earliest", limit=5)
    assert len(page["records"]) == 5


@pytest.mark.parametrize("protocol", EVERYWHERE)
async def test_the_start_cursor_is_where_the_read_starts(acme: Partner, protocol: str) -> None:
    if protocol == "pull":
        answer = await acme.get("/v1/streams/numbers/records", from_="earliest", limit=1)
        start = answer.headers["gateway-start-cursor"]
    else:
        async with acme.open(protocol, "numbers", from_="earliest") as stream:
            start = stream.headers["gateway-start-cursor"]
    assert numbers_by_partition(await read(acme, "pull", "numbers", TOTAL, cursor=start)) == ALL_NUMBERS


# ---- what a cursor is ------------------------------------------------------------------------------------------------


def _spoiled(cursor: str) -> dict[str, str]:
    swapped = "A" if cursor[20] != "A" else "B"
    return {
        "short": cursor[:-4],
        "shorter": cursor[:8],
        "changed": cursor[:20] + swapped + cursor[21:],
        "padded": cursor + "=" * (-len(cursor) % 4 or 4),
        "spaced": cursor + " ",
        "with a foreign character": cursor[:-1] + "!",
        "doubled": cursor + cursor,
        "a number": "1234567890",
        "one character": "A",
        "not ascii": "ü" * 40,
        "very long": "A" * 7000,
    }


@pytest.mark.parametrize("how", list(_spoiled("x" * 40)))
async def test_a_cursor_that_is_not_exactly_as_given_is_refused_with_one_message(acme: Partner, how: str) -> None:
    good = (await acme.pull("numbers", from_="earliest", limit=3))["next_cursor"]
    members = await acme.refused("/v1/streams/numbers/records", 400, "invalid_cursor", cursor=_spoiled(good)[how])
    assert members["detail"] == await _refusal(acme)


async def _refusal(acme: Partner) -> str:
    """What is said of a cursor of another stream: the message that all bad ones get."""
    foreign = (await acme.pull("others"))["next_cursor"]
    members = await acme.refused("/v1/streams/numbers/records", 400, "invalid_cursor", cursor=foreign)
    return str(members["detail"])


@pytest.mark.parametrize("protocol", ["sse", "ndjson"])
async def test_a_bad_cursor_is_refused_on_every_protocol_and_under_every_name(acme: Partner, protocol: str) -> None:
    message = await _refusal(acme)
    path = f"/v1/streams/numbers/{protocol}"
    for parameter in ("cursor", "last_event_id"):
        members = await acme.refused(path, 400, "invalid_cursor", **{parameter: "forged"})
        assert members["detail"] == message
    answer = await acme.as_(acme.token, Last_Event_ID="forged").get(path)
    assert problem(answer, 400, "invalid_cursor")["detail"] == message


async def test_every_bit_of_a_cursor_counts(acme: Partner) -> None:
    good = (await acme.pull("numbers", from_="earliest", limit=3))["next_cursor"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for place in range(0, len(good), 3):
        other = alphabet[(alphabet.index(good[place]) + 1) % 64]
        await acme.refused(
            "/v1/streams/numbers/records",
            400,
            "invalid_cursor",
            cursor=good[:place] + other + good[place + 1 :],
        )


async def test_a_cursor_tells_nothing_of_offsets_by_its_length(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream(partitions=4)
    empty = (await acme.pull(name))["next_cursor"]
    full = (await acme.pull("numbers"))["next_cursor"]
    assert len(empty) == len(full) <= 128


async def test_a_cursor_of_one_node_is_good_on_the_other(gateway_node: Node, hypercorn_node: Node) -> None:
    here, there = gateway_node.partner(), hypercorn_node.partner()
    before = await read(here, "sse", "numbers", 61, from_="earliest")
    after = await read(there, "ws", "numbers", 20, cursor=before[-1].cursor)
    rest = await read(here, "ndjson", "numbers", TOTAL - 81, cursor=after[-1].cursor)
    assert numbers_by_partition([*before, *after, *rest]) == ALL_NUMBERS


async def test_a_record_has_one_uid_everywhere_and_cursors_differ_by_place(
    gateway_node: Node, hypercorn_node: Node
) -> None:
    sets = []
    for node in (gateway_node, hypercorn_node):
        for protocol in EVERYWHERE:
            found = await read(node.partner(), protocol, "numbers", TOTAL, from_="earliest")
            sets.append({(one.data["data"]["p"], one.data["data"]["n"]): one.data["uid"] for one in found})
    assert all(one == sets[0] for one in sets)
    assert len(set(sets[0].values())) == TOTAL


async def test_cursors_of_older_keys_stay_good_and_those_of_unknown_keys_do_not(
    kafka: Any, estate: Estate, gateway_node: Node, tmp_path: Any
) -> None:
    foreign = (await gateway_node.partner().pull("numbers", from_="earliest", limit=3))["next_cursor"]
    old, new = "an-old-secret-of-24-chars", "a-new-secret-of-24-chars!"
    document = dict(estate.deployment.contracts[0])
    settings = {"cursor": {"keys": [old]}}
    own = Deployment(tmp_path / "own", kafka.bootstrap, [document], settings=settings)

    def partner(base_url: str) -> Partner:
        return Partner(base_url, own.token())

    with own.gateway("before") as node:
        await partner(node.base_url).refused("/v1/streams/numbers/records", 400, "invalid_cursor", cursor=foreign)
        cursor = (await partner(node.base_url).pull("numbers", from_="earliest", limit=3))["next_cursor"]
    own.settings = {"cursor": {"keys": [new, old]}}
    with own.gateway("after") as node:
        page = await partner(node.base_url).pull("numbers", cursor=cursor, limit=1000)
        assert len(page["records"]) == TOTAL - 3
    own.settings = {"cursor": {"keys": [new]}}
    with own.gateway("later") as node:
        await partner(node.base_url).refused("/v1/streams/numbers/records", 400, "invalid_cursor", cursor=cursor)


# ---- retention and the contract's bounds -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", EVERYWHERE)
async def test_retention_that_passed_the_cursor_is_a_gap_before_the_first_record(
    acme: Partner, served: Node, protocol: str
) -> None:
    name = await served.estate.new_stream()
    start = (await acme.pull(name))["next_cursor"]
    await served.estate.produce(name, [b"%d" % n for n in range(10)])
    await served.estate.kafka.delete_records(served.estate.topic(name), {0: 6})
    gap, *records = await read(acme, protocol, name, 5, cursor=start)
    assert (gap.kind, gap.data["reason"], gap.data["from"]) == ("gap", "retention", start)
    assert values(records) == [6, 7, 8, 9]
    resumed = await read(acme, protocol, name, 4, cursor=gap.data["resumed_at"])
    assert values(resumed) == [6, 7, 8, 9], "who goes on after the gap does not hear of it again"
    if protocol != "pull":
        assert gap.cursor == gap.data["resumed_at"]


@pytest.mark.parametrize("path", ["records", "sse", "ndjson"])
async def test_on_gap_error_refuses_with_the_earliest_cursor_instead(acme: Partner, served: Node, path: str) -> None:
    name = await served.estate.new_stream()
    start = (await acme.pull(name))["next_cursor"]
    await served.estate.produce(name, [b"%d" % n for n in range(10)])
    await served.estate.kafka.delete_records(served.estate.topic(name), {0: 7})
    members = await acme.refused(f"/v1/streams/{name}/{path}", 410, "cursor_expired", cursor=start, on_gap="error")
    assert members["close_code"] == 4410
    found = await read(acme, "pull", name, 3, cursor=members["earliest"], on_gap="error")
    assert values(found) == [7, 8, 9]


@pytest.mark.parametrize("on_gap", ["continue", "error"])
async def test_on_gap_changes_nothing_where_there_is_no_gap(acme: Partner, on_gap: str) -> None:
    start = (await acme.pull("numbers", from_="earliest", limit=5))["next_cursor"]
    assert len((await acme.pull("numbers", cursor=start, on_gap=on_gap, limit=1000))["records"]) == TOTAL - 5


async def test_a_time_before_retention_is_a_gap_and_earliest_is_none(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream()
    hour_ago = int(time.time() * 1000) - 3_600_000
    await served.estate.produce(name, [b"%d" % n for n in range(4)], timestamps=[hour_ago + n for n in range(4)])
    await served.estate.kafka.delete_records(served.estate.topic(name), {0: 2})
    heard = await read(acme, "pull", name, 3, from_=hour_ago)
    assert values(heard) == ["retention", 2, 3]
    assert values(await read(acme, "pull", name, 2, from_="earliest")) == [2, 3]


@pytest.mark.parametrize("protocol", EVERYWHERE)
async def test_a_start_before_the_contracts_max_age_is_a_gap_and_then_what_is_allowed(
    acme: Partner, protocol: str
) -> None:
    heard = await read(acme, protocol, "recent", 4, from_="2020-01-01T00:00:00Z")
    assert values(heard) == ["retention", {"new": 0}, {"new": 1}, {"new": 2}]


async def test_earliest_begins_at_the_contracts_max_age(acme: Partner) -> None:
    assert values(await read(acme, "pull", "recent", 3, from_="earliest")) == [{"new": 0}, {"new": 1}, {"new": 2}]


@pytest.mark.parametrize("start", ["earliest", "2026-01-01T00:00:00Z", "0"])
async def test_a_contract_without_replay_refuses_a_start_in_the_past(acme: Partner, start: str) -> None:
    for suffix in ("records", "sse", "ndjson"):
        await acme.refused(f"/v1/streams/onward/{suffix}", 403, "replay_not_allowed", from_=start)
    assert (await acme.pull("onward"))["records"] == []


async def test_a_topic_that_was_made_anew_is_a_gap_that_says_so(gateway_node: Node) -> None:
    acme, estate = gateway_node.partner(), gateway_node.estate
    name = await estate.new_stream()
    await estate.produce(name, [b"%d" % n for n in range(6)])
    end = (await acme.pull(name))["next_cursor"]
    topic = estate.topic(name)
    await estate.kafka.delete_topic(topic)
    async with asyncio.timeout(30):
        while True:
            try:
                await estate.kafka.create_topic(topic)
                break
            except Exception:  # noqa: BLE001 - the old one is not gone yet
                await asyncio.sleep(0.1)
    await estate.produce(name, [b"100", b"101"])
    async with asyncio.timeout(60):
        while True:
            page = await acme.pull(name, cursor=end, wait=1)
            if page["gaps"] or page["records"]:
                break
    assert [gap["reason"] for gap in page["gaps"]] == ["history_changed"]
    assert page["gaps"][0]["before"] == 0
    assert [record["data"] for record in page["records"]] == [100, 101]


async def test_partitions_that_are_new_are_read_from_their_beginning(gateway_node: Node) -> None:
    acme, estate = gateway_node.partner(), gateway_node.estate
    name = await estate.new_stream(partitions=1)
    start = (await acme.pull(name))["next_cursor"]
    await estate.kafka.grow_topic(estate.topic(name), 3)
    for partition in range(3):
        await estate.produce(name, [b'{"p":%d,"n":0}' % partition], partition=partition)
    async with acme.sse(name, cursor=start) as stream:
        records = await stream.records(3, seconds=40)
    assert numbers_by_partition(records) == {0: [0], 1: [0], 2: [0]}
