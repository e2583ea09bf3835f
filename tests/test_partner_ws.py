"""WebSocket as a partner sees it: subprotocol, frames, the client's commands, refusals before and after the upgrade."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.parts.estate import ALL_NUMBERS, ORIGIN, PARTITIONS, PER_PARTITION, Node, numbers_by_partition
from tests.parts.partner import Partner

pytest_plugins = ("tests.parts.served",)

TOTAL = PARTITIONS * PER_PARTITION


async def test_the_subprotocol_is_echoed_and_a_welcome_comes_first(acme: Partner) -> None:
    async with acme.ws("numbers", subprotocols=("other", "gateway.v1")) as stream:
        welcome = await stream.next()
        assert stream.connection.subprotocol == "gateway.v1"
        assert stream.headers["gateway-session"] == welcome.data["session"]
        assert stream.headers["x-correlation-id"]
    assert welcome.kind == "welcome"
    assert welcome.data.keys() == {"session", "cursor", "expires_at", "heartbeat_ms", "limits"}
    assert welcome.data["heartbeat_ms"] == 1000
    assert datetime.fromisoformat(welcome.data["expires_at"]).tzinfo is not None
    assert (await acme.pull("numbers", cursor=welcome.cursor))["records"] == []


async def test_a_client_without_a_subprotocol_is_served_too(acme: Partner) -> None:
    async with acme.ws("numbers", subprotocols=()) as stream:
        assert (await stream.next()).kind == "welcome"
        assert stream.connection.subprotocol is None


async def test_the_plain_address_of_the_stream_upgrades_as_well(acme: Partner) -> None:
    async with acme.ws("numbers", suffix="", from_="earliest") as stream:
        await stream.next()
        assert numbers_by_partition(await stream.records(TOTAL)) == ALL_NUMBERS


async def test_each_record_is_one_message(acme: Partner) -> None:
    async with acme.ws("numbers", from_="earliest") as stream:
        frames = [json.loads(await stream.connection.recv()) for _ in range(TOTAL)]
    records = [frame for frame in frames if frame["type"] == "record"]
    assert frames[0]["type"] == "welcome"
    assert len(records) > TOTAL / 2
    assert all(frame.keys() == {"type", "id", "uid", "time", "data"} for frame in records)
    assert len({frame["uid"] for frame in records}) == len(records)


async def test_number_text_tombstones_and_keys_are_as_on_every_protocol(acme: Partner) -> None:
    async with acme.ws("payloads", from_="earliest") as stream:
        await stream.next()
        raw = await stream.connection.recv()
        assert '"price": 1.10' in raw
        assert json.loads(raw)["key"] == "first"
        rest = await stream.records(3)
    assert rest[0].data["data"]["unicode"] == "\u2028 \ufeff \0 🌍"
    assert rest[2].data["data"] is None


async def test_a_large_record_arrives_whole(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream()
    sizes = [100, 125, 126, 65_535, 65_536, 300_000, 1]
    async with acme.ws(name) as stream:
        await stream.next()
        await served.estate.produce(name, [b'"%s"' % (b"x" * size) for size in sizes])
        records = await stream.records(len(sizes))
    assert [len(record.data["data"]) for record in records] == sizes


async def test_checkpoints_beat_and_gaps_stand_at_their_place(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream()
    async with acme.ws(name) as stream:
        await stream.next()
        checkpoint = await stream.until("checkpoint")
        assert checkpoint.cursor
        assert checkpoint.data["behind_ms"] == 0
        await served.estate.produce(name, [b"1", b"SECRET", b"2"])
        heard = [await stream.next_but_checkpoints() for _ in range(3)]
    assert [one.kind for one in heard] == ["record", "gap", "record"]
    assert heard[1].data["reason"] == "undecodable"
    assert "SECRET" not in str(heard)


async def test_it_resumes_at_any_frame(acme: Partner) -> None:
    async with acme.ws("numbers", from_="earliest") as stream:
        await stream.next()
        before = await stream.records(19)
    async with acme.ws("numbers", cursor=stream.last_cursor) as stream:
        assert (await stream.next()).cursor == before[-1].cursor
        after = await stream.records(TOTAL - 19)
    assert numbers_by_partition([*before, *after]) == ALL_NUMBERS


async def test_pause_holds_records_back_and_resume_gives_all_of_them(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream()
    async with acme.ws(name) as stream:
        await stream.next()
        await stream.say({"type": "pause"})
        # A frame that is answered shows that the one before it was obeyed.
        await stream.say({"type": "nonsense"})
        await stream.until("error")
        await served.estate.produce(name, [b"%d" % n for n in range(5)])
        async with acme.sse(name, from_="earliest") as other:
            await other.records(5)
        for _ in range(2):
            heard = await stream.next()
            assert heard.kind == "checkpoint", "the heart beats on, and nothing else comes"
        assert heard.data["behind_ms"] > 0
        week_ms = 7 * 86_400_000
        assert week_ms - 60_000 < heard.data["retention_in_ms"] <= week_ms, "how long what waits is still there"
        await stream.say({"type": "resume"})
        records = await stream.records(5)
    assert [record.data["data"] for record in records] == list(range(5))


BAD_FRAMES: list[tuple[str, Any]] = [
    ("no JSON", "{"),
    ("no object", "[1]"),
    ("no type", {"pause": 1}),
    ("a type that is no text", {"type": 5}),
    ("an unknown type", {"type": "rewind"}),
    ("an unknown member", {"type": "pause", "for": 3}),
    ("a binary frame", b'{"type":"pause"}'),
    ("nested without end", "[" * 5000),
    ("empty", ""),
]


@pytest.mark.parametrize("frame", [frame for _, frame in BAD_FRAMES], ids=[name for name, _ in BAD_FRAMES])
async def test_a_frame_that_is_no_command_is_told_and_the_stream_goes_on(acme: Partner, frame: Any) -> None:
    async with acme.ws("numbers") as stream:
        await stream.next()
        await stream.say(frame)
        error = await stream.until("error")
        assert error.data["code"] == "bad_request"
        assert error.data["reason"]
        await stream.until("checkpoint")


async def test_the_third_bad_frame_ends_the_stream_with_4400(acme: Partner) -> None:
    async with acme.ws("numbers") as stream:
        await stream.next()
        for _ in range(3):
            await stream.say({"type": "rewind"})
        heard = [await stream.next_but_checkpoints() for _ in range(4)]
        assert [one.kind for one in heard] == ["error", "error", "error", "goodbye"]
        goodbye = heard[-1].data
        assert goodbye.keys() >= {"code", "close_code", "reason", "reconnect", "cursor"}
        assert (goodbye["code"], goodbye["close_code"], goodbye["reconnect"]) == ("bad_request", 4400, False)
        assert await stream.over() == 4400


async def test_a_client_that_closes_gets_its_close_back(acme: Partner) -> None:
    async with acme.ws("numbers") as stream:
        await stream.next()
        await stream.connection.close(1000)
        assert stream.connection.close_code == 1000


REFUSALS = [
    ("no token", 401, 4401, "token_missing"),
    ("bad parameter", 400, 4400, "invalid_parameter"),
    ("unknown parameter", 400, 4400, "unknown_parameter"),
    ("pull only", 400, 4400, "invalid_parameter"),
    ("bad cursor", 400, 4400, "invalid_cursor"),
    ("absent", 404, 4400, "stream_not_found"),
    ("scope", 403, 4403, "insufficient_scope"),
    ("transport", 403, 4403, "transport_not_offered"),
    ("claim", 403, 4403, "claim_missing"),
    ("retired", 410, 4410, "stream_retired"),
]


def _refused(acme: Partner, what: str) -> tuple[Partner, str, dict[str, Any]]:
    """Who asks for which stream with which parameters."""
    parameters: dict[str, dict[str, Any]] = {
        "bad parameter": {"from_": "yesterday"},
        "unknown parameter": {"form": "latest"},
        "pull only": {"limit": 5},
        "bad cursor": {"cursor": "AAAA"},
    }
    streams = {"absent": "nothing", "scope": "guarded", "transport": "slow-only", "claim": "rows", "retired": "gone"}
    who = acme.as_(None) if what == "no token" else acme
    return who, streams.get(what, "numbers"), parameters.get(what, {})


@pytest.mark.parametrize(("what", "status", "close_code", "code"), REFUSALS, ids=[row[0] for row in REFUSALS])
async def test_a_refusal_before_the_upgrade_is_an_http_answer_with_a_problem(
    acme: Partner, what: str, status: int, close_code: int, code: str
) -> None:
    who, stream, parameters = _refused(acme, what)
    with pytest.raises(InvalidStatus) as refused:
        async with who.ws(stream, **parameters):
            pass
    response = refused.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.body is not None
    members = json.loads(response.body)
    assert (members["code"], members["status"], members["close_code"]) == (code, status, close_code)
    assert members["correlation_id"] == response.headers["x-correlation-id"]
    assert ("www-authenticate" in response.headers) == (what in ("no token", "scope"))


@pytest.mark.parametrize(("what", "status", "close_code", "code"), REFUSALS, ids=[row[0] for row in REFUSALS])
async def test_a_browser_hears_the_same_as_a_goodbye_and_a_close_code(
    acme: Partner, what: str, status: int, close_code: int, code: str
) -> None:
    who, stream, parameters = _refused(acme, what)
    async with who.as_(who.token, Origin=ORIGIN).ws(stream, **parameters) as opened:
        assert opened.connection.subprotocol == "gateway.v1"
        goodbye = await opened.next()
        assert goodbye.kind == "goodbye"
        assert (goodbye.data["code"], goodbye.data["close_code"]) == (code, close_code)
        assert goodbye.data["reconnect"] is False
        assert await opened.over() == close_code


async def test_an_origin_that_the_application_does_not_list_is_told_so(acme: Partner) -> None:
    async with acme.as_(acme.token, Origin="https://elsewhere.example").ws("numbers") as opened:
        assert (await opened.next()).data["code"] == "origin_not_allowed"
        assert await opened.over() == 4403


async def test_an_origin_that_the_application_lists_is_served(acme: Partner) -> None:
    async with acme.as_(acme.token, Origin=ORIGIN).ws("numbers", from_="earliest") as opened:
        await opened.next()
        assert len(await opened.records(TOTAL)) == TOTAL


async def test_an_address_that_is_none_refuses_an_upgrade_with_404(acme: Partner) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with acme.ws("numbers", suffix="/nothing"):
            pass
    assert refused.value.response.status_code == 404


async def test_many_readers_get_the_same_records(acme: Partner, served: Node) -> None:
    name = await served.estate.new_stream()

    async def read() -> list[int]:
        async with acme.ws(name, from_="earliest") as stream:
            await stream.next()
            return [record.data["data"] for record in await stream.records(20)]

    readers = [asyncio.create_task(read()) for _ in range(8)]
    await served.estate.produce(name, [b"%d" % n for n in range(20)])
    assert await asyncio.gather(*readers) == [list(range(20))] * 8
