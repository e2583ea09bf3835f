"""The partner's client: one reading over four protocols, through cuts, goodbyes and refusals, and its command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.tail import PROTOCOLS, record_line
from gateway.client import (
    Backoff,
    Event,
    ProtocolName,
    StreamClient,
    StreamInterrupted,
    StreamRefused,
    StreamRequest,
    follow,
)
from gateway.client.event import MalformedEvent, decode_frame, decode_page
from gateway.client.ndjson import NdjsonDecoder
from tests.parts.certificates import make_certificate
from tests.parts.process import die_with_parent
from tests.parts.scripted import Step, answer, head, refusal, scripted
from tests.parts.serving import serving

EVENT_STREAM = head("text/event-stream", "Gateway-Start-Cursor: start", "Gateway-Session: s1")
LINES = head("application/x-ndjson")
TOKEN = "a.b.c"

ODD = (
    '{"uid":"u","key":"k","time":"2026-11-22T10:00:00.000Z",'
    '"data":{"n":1.10,"big":123456789012345678901234567890,"s":"\\ud800"}}'
)
"""A record's JSON without its id, as only a careful client gives it back."""


def sse_record(number: int) -> bytes:
    return f'id: c{number}\ndata: {{"uid":"u{number}","time":"t","data":{number}}}\n\n'.encode()


def sse_event(name: str, **data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def line(**members: object) -> bytes:
    return json.dumps(members).encode() + b"\n"


def asking(url: str, protocol: ProtocolName = "sse", **options: Any) -> StreamRequest:
    return StreamRequest(base_url=url, stream="flights", protocol=protocol, token=TOKEN, **options)


async def take(request: StreamRequest, *, records: int, **options: Any) -> list[Event]:
    """Follow until so many records have come."""
    options.setdefault("backoff", Backoff(base_seconds=0.01, cap_seconds=0.02))
    events: list[Event] = []
    async with asyncio.timeout(20), contextlib.aclosing(follow(request, **options)) as stream:
        async for event in stream:
            events.append(event)
            if sum(event.kind == "record" for event in events) == records:
                return events
    raise AssertionError("a stream never ends by itself")


def cursors(events: list[Event]) -> list[str | None]:
    return [event.cursor for event in events if event.kind == "record"]


def websocket_app(*scripts: Callable[[Any, Any], Any]) -> tuple[Any, list[Any]]:
    """An app that plays one script per connection, the last one again and again; and the scopes it saw."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        script = scripts[min(len(scopes), len(scripts) - 1)]
        scopes.append(scope)
        assert (await receive())["type"] == "websocket.connect"
        await script(receive, send)

    return app, scopes


def frames(*said: dict[str, Any], close: int | None = None, reason: str = "") -> Callable[[Any, Any], Any]:
    async def script(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "subprotocol": "gateway.v1"})
        for frame in said:
            await send({"type": "websocket.send", "text": json.dumps(frame)})
        if close is not None:
            await send({"type": "websocket.close", "code": close, "reason": reason})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    return script


# Decoding.


def test_the_same_record_comes_out_the_same_from_every_protocol() -> None:
    with_id = '{"id":"c1",' + ODD[1:]
    frame = decode_frame('{"type":"record",' + with_id[1:])
    spaced = decode_frame('{ "type" : "record" , ' + with_id[1:])
    page = decode_page(f'{{"records": [{with_id}], "next_cursor": "c1", "behind_ms": 0}}', envelope="record")
    assert frame == spaced == page[0] == Event("record", "c1", with_id)
    assert [event.kind for event in page] == ["record", "checkpoint"]


def test_a_cloud_event_is_a_record_whatever_its_type() -> None:
    text = '{"specversion":"1.0","type":"checkpoint","id":"uid","cursor":"c1","data":1}'
    assert decode_frame(text) == Event("record", "c1", text)
    (record, _) = decode_page(f'{{"records":[{text}],"next_cursor":"c1"}}', envelope="cloudevents")
    assert record == Event("record", "c1", text)
    (payload, _) = decode_page('{"records":[{"id":"theirs"}],"next_cursor":"c1"}', envelope="none")
    assert payload.cursor is None


def test_a_page_has_its_gaps_at_their_places_and_says_that_it_was_paced() -> None:
    gaps = [{"before": at, "reason": "retention", "from": "x", "resumed_at": f"g{at}"} for at in (0, 1, 2)]
    page = {"records": [{"id": "c1"}, {"id": "c2"}], "next_cursor": "c3", "throttled_ms": 40, "gaps": gaps}
    events = decode_page(json.dumps(page), envelope="record")
    assert [(event.kind, event.cursor) for event in events] == [
        ("gap", "g0"),
        ("record", "c1"),
        ("gap", "g1"),
        ("record", "c2"),
        ("gap", "g2"),
        ("throttled", None),
        ("checkpoint", "c3"),
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"records":[]}', '{"records":1,"next_cursor":"a"}', '{"records":[],"next_cursor":"a"} x']
)
def test_what_is_no_page_is_refused(text: str) -> None:
    with pytest.raises(MalformedEvent):
        decode_page(text, envelope="record")


@pytest.mark.parametrize("text", ["", "5", '{"type":"record","id":5}', '{"type":"gap"', '{"a":1}{}', "[" * 100_000])
def test_what_is_no_frame_is_refused(text: str) -> None:
    with pytest.raises(MalformedEvent):
        decode_frame(text)


def test_frames_of_the_future_are_passed_over() -> None:
    assert decode_frame('{"type":"hologram"}') is None
    assert decode_frame('{"no":"type"}') is None


def test_ndjson_lines_may_be_split_at_any_byte() -> None:
    whole = line(type="welcome", cursor="c0") + b"\r\n\n" + line(type="record", id="c1", data="é\u2028") + b'{"type"'
    expected = list(NdjsonDecoder().feed(whole))
    assert [event.kind for event in expected] == ["welcome", "record"]
    for at in range(len(whole) + 1):
        decoder = NdjsonDecoder()
        assert [*decoder.feed(whole[:at]), *decoder.feed(whole[at:])] == expected


# One reading over many connections.


async def test_a_cut_in_the_middle_of_a_record_loses_nothing_and_repeats_nothing() -> None:
    for cut in (1, 4, 9, 20, len(sse_record(2)) - 1):
        first = [EVENT_STREAM, b"retry: 100\n\n" + sse_record(1) + sse_record(2)[:cut]]
        async with scripted(first, [EVENT_STREAM, sse_record(2) + sse_record(3), None]) as server:
            events = await take(asking(server.url, start="earliest"), records=3)
            assert cursors(events) == ["c1", "c2", "c3"]
            assert server.targets == ["/v1/streams/flights/sse?from=earliest", "/v1/streams/flights/sse?cursor=c1"]
            assert [headers["authorization"] for headers in server.headers] == [f"Bearer {TOKEN}"] * 2


async def test_a_drop_before_the_first_record_goes_on_at_the_start_and_not_at_the_then_latest() -> None:
    async with scripted([EVENT_STREAM], [EVENT_STREAM, sse_record(1), None]) as server:
        await take(asking(server.url, start="latest"), records=1)
        assert server.targets[1] == "/v1/streams/flights/sse?cursor=start"
    page = answer(200, {"records": [{"id": "c1"}], "next_cursor": "c1"})
    begun = answer(200, {"records": [{"id": "c1"}], "next_cursor": "c1"}, "Gateway-Start-Cursor: start")
    async with scripted([begun[:-5]], [page]) as server:
        await take(asking(server.url, "pull"), records=1)
        assert server.targets == [
            "/v1/streams/flights/records?wait=20",
            "/v1/streams/flights/records?cursor=start&wait=20",
        ]


@pytest.mark.parametrize("event", ["checkpoint", "gap", "goodbye"])
async def test_a_reading_goes_on_from_what_moved_it_last(event: str) -> None:
    moved = {
        "checkpoint": b"id: moved\n" + sse_event("checkpoint", behind_ms=0),
        "gap": sse_event("gap", reason="retention", **{"from": "x"}, resumed_at="moved"),
        "goodbye": sse_event("goodbye", code="draining", reconnect=True, retry_after_ms=1, cursor="moved"),
    }[event]
    async with scripted([EVENT_STREAM, sse_record(1) + moved], [EVENT_STREAM, sse_record(2), None]) as server:
        assert cursors(await take(asking(server.url), records=2)) == ["c1", "c2"]
        assert server.targets[1].endswith("?cursor=moved")


async def test_waits_are_told_and_not_shorter_than_the_server_asked() -> None:
    goodbye = sse_event("goodbye", code="draining", reason="Stopping.", reconnect=True, retry_after_ms=80, cursor="g")
    busy = refusal(503, "unavailable", "Retry-After: 1", retry_after_ms=60)
    paced = answer(429, {}, "Retry-After: 0")
    told: list[tuple[str, int | None, float]] = []

    def on_wait(interruption: StreamInterrupted, seconds: float) -> None:
        told.append((interruption.reason, interruption.retry_after_ms, seconds))

    script: list[list[Step]] = [[busy], [EVENT_STREAM + goodbye], [paced], [EVENT_STREAM, sse_record(1), None]]
    async with scripted(*script) as server:
        await take(asking(server.url), records=1, on_wait=on_wait)
    assert [(reason, asked) for reason, asked, _ in told] == [
        ("503 Unavailable: About unavailable.", 60),
        ("goodbye draining: Stopping.", 80),
        ("429 HTTP 429: {}", 0),
    ]
    assert all(seconds >= (asked or 0) / 1000 for _, asked, seconds in told)


async def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    async with scripted([b""]) as server:
        url = server.url
    told: list[str] = []
    with pytest.raises(StreamInterrupted, match="cannot connect to"):
        await take(asking(url), records=1, reconnect=False, on_wait=lambda why, _: told.append(why.reason))
    assert told == []
    backoff = Backoff(base_seconds=0.001, cap_seconds=0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await take(asking(url), records=1, backoff=backoff, on_wait=lambda why, _: told.append(why.reason))
    assert len(told) > 1
    assert "Connection refused" in told[0]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_cursor"),
        (401, "token_expired"),
        (403, "insufficient_scope"),
        (404, "stream_not_found"),
        (410, "cursor_expired"),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refusal_is_final_and_says_all_that_the_problem_says(
    protocol: ProtocolName, status: int, code: str
) -> None:
    async with scripted([refusal(status, code)]) as server:
        with pytest.raises(StreamRefused) as caught:
            await take(asking(server.url, protocol), records=1)
    refused = caught.value
    assert (refused.status, refused.code, refused.detail) == (status, code, f"About {code}.")
    assert (refused.action, refused.correlation_id) == ("Do something about it.", "c0ffee")
    assert len(server.targets) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_redirect_is_not_followed_with_the_credentials(protocol: ProtocolName) -> None:
    async with scripted([answer(200, {})]) as elsewhere:
        moved = answer(307, {}, f"Location: {elsewhere.url}/v1/streams/flights/sse")
        async with scripted([moved]) as server:
            with pytest.raises(StreamRefused, match="redirects are not followed"):
                await take(asking(server.url, protocol), records=1)
        assert elsewhere.targets == []


@pytest.mark.parametrize("protocol", ["sse", "ndjson", "pull"])
@pytest.mark.parametrize(
    "said", [head("text/html") + b"<html>", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000]
)
async def test_what_is_no_gateway_is_said_to_be_none(protocol: ProtocolName, said: bytes) -> None:
    async with scripted([said]) as server:
        with pytest.raises(StreamRefused, match="Not a gateway"):
            await take(asking(server.url, protocol), records=1)


async def test_a_final_goodbye_ends_the_reading_after_it_was_heard() -> None:
    goodbye = sse_event(
        "goodbye", code="access_withdrawn", close_code=4403, reason="Gone.", reconnect=False, cursor="g"
    )
    heard: list[str] = []
    async with scripted([EVENT_STREAM + sse_record(1) + goodbye + sse_record(2), None]) as server:
        with pytest.raises(StreamRefused, match="access_withdrawn: Gone"):
            async for event in follow(asking(server.url)):
                heard += [event.kind]
    assert heard == ["welcome", "record", "goodbye"]


async def test_silence_beyond_the_heartbeats_is_a_broken_connection() -> None:
    async with scripted([EVENT_STREAM + sse_record(1), None], [EVENT_STREAM, sse_record(2), None]) as server:
        request = asking(server.url, silence_seconds=0.05)
        assert cursors(await take(request, records=2)) == ["c1", "c2"]


async def test_a_stream_that_breaks_its_protocol_is_left_and_resumed() -> None:
    broken = EVENT_STREAM + sse_record(1) + b"id: x\ndata: no json\n\n"
    async with scripted([broken, None], [EVENT_STREAM, sse_record(2), None]) as server:
        assert cursors(await take(asking(server.url), records=2)) == ["c1", "c2"]
        assert server.targets[1].endswith("?cursor=c1")


@pytest.mark.parametrize("said", ["[]", b"binary"])
async def test_a_websocket_that_breaks_its_protocol_is_left_and_resumed(said: str | bytes) -> None:
    async def broken(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "subprotocol": "gateway.v1"})
        await send({"type": "websocket.send", "text": '{"type":"record","id":"c1"}'})
        await send({"type": "websocket.send", "bytes" if isinstance(said, bytes) else "text": said})
        await receive()

    app, scopes = websocket_app(broken, frames({"type": "record", "id": "c2"}))
    async with serving(app) as listener:
        assert cursors(await take(asking(f"http://127.0.0.1:{listener.port}", "ws"), records=2)) == ["c1", "c2"]
    assert scopes[1]["query_string"] == b"cursor=c1"


async def test_a_page_that_is_none_is_asked_for_again() -> None:
    page = answer(200, {"records": [{"id": "c1"}], "next_cursor": "c1"})
    async with scripted([answer(200, {"records": []})], [page]) as server:
        assert cursors(await take(asking(server.url, "pull"), records=1)) == ["c1"]
        assert len(server.targets) == 2


async def test_chunked_bodies_and_early_hints_are_read() -> None:
    body = sse_record(1) + sse_record(2)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    start = head("text/event-stream; charset=utf-8", "Transfer-Encoding: chunked")
    async with scripted([hints + start + chunks, None]) as server:
        assert cursors(await take(asking(server.url), records=2)) == ["c1", "c2"]


async def test_ndjson_reads_and_resumes() -> None:
    first = [
        LINES,
        line(type="welcome", session="s", cursor="c0", heartbeat_ms=15000),
        line(type="record", id="c1"),
        b'{"ty',
    ]
    second = [LINES, line(type="checkpoint", cursor="c1b"), line(type="record", id="c2", data=None), None]
    async with scripted(first, second) as server:
        events = await take(asking(server.url, "ndjson"), records=2)
        assert [event.kind for event in events] == ["welcome", "record", "checkpoint", "record"]
        assert server.targets[1] == "/v1/streams/flights/ndjson?cursor=c1"
        assert server.headers[0]["accept"] == "application/x-ndjson"


async def test_pull_walks_from_page_to_page() -> None:
    def page(*numbers: int, cursor: str) -> bytes:
        return answer(200, {"records": [{"id": f"c{number}"} for number in numbers], "next_cursor": cursor})

    busy = refusal(429, "rate_limited", "Retry-After: 0")
    async with scripted([page(1, 2, cursor="p1")], [busy], [page(3, cursor="p2")], [page(4, cursor="p3")]) as server:
        request = asking(server.url, "pull", start="earliest", parameters=[("limit", "2")])
        assert cursors(await take(request, records=4)) == ["c1", "c2", "c3", "c4"]
        assert [target.partition("?")[2] for target in server.targets] == [
            "from=earliest&wait=20&limit=2",
            "cursor=p1&wait=20&limit=2",
            "cursor=p1&wait=20&limit=2",
            "cursor=p2&wait=20&limit=2",
        ]


async def test_empty_pages_are_not_asked_for_faster_than_one_a_second() -> None:
    empty = answer(200, {"records": [], "next_cursor": "p"})
    async with scripted([empty]) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await take(asking(server.url, "pull"), records=1)
        assert len(server.targets) == 1


async def test_a_websocket_reads_resumes_and_honours_close_codes() -> None:
    welcome = {"type": "welcome", "session": "s", "cursor": "c0", "heartbeat_ms": 15000}
    goodbye = {"type": "goodbye", "code": "draining", "close_code": 4503, "reconnect": True, "retry_after_ms": 1}
    scripts = [
        frames(welcome, {"type": "record", "id": "c1"}, {"type": "error", "code": "bad_request"}, close=4500),
        frames(welcome, {"type": "record", "id": "c2"}, {**goodbye, "cursor": "g"}, close=4503),
        frames(welcome, {"type": "record", "id": "c3"}, close=4409, reason="taken_over"),
    ]
    app, scopes = websocket_app(*scripts)
    events: list[Event] = []
    async with serving(app) as listener:
        request = asking(f"http://127.0.0.1:{listener.port}", "ws", start="earliest")
        with pytest.raises(StreamRefused, match="4409 taken_over"):
            async for event in follow(request, backoff=Backoff(base_seconds=0.01)):
                events += [event]
    assert cursors(events) == ["c1", "c2", "c3"]
    assert [scope["query_string"].decode() for scope in scopes] == ["from=earliest", "cursor=c1", "cursor=g"]
    assert scopes[0]["path"] == "/v1/streams/flights/ws"
    assert scopes[0]["subprotocols"] == ["gateway.v1"]
    assert (b"authorization", f"Bearer {TOKEN}".encode()) in scopes[0]["headers"]


async def test_a_websocket_that_is_busy_before_the_upgrade_is_tried_again() -> None:
    told: list[int | None] = []
    async with scripted([refusal(503, "unavailable", retry_after_ms=30)], [refusal(403, "not_entitled")]) as server:
        with pytest.raises(StreamRefused, match="Not entitled"):
            request = asking(server.url, "ws")
            await take(request, records=1, on_wait=lambda why, _: told.append(why.retry_after_ms))
    assert told == [30]


async def test_a_websocket_without_our_subprotocol_is_no_gateway() -> None:
    async def accept(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()

    app, _ = websocket_app(accept)
    async with serving(app) as listener:
        with pytest.raises(StreamRefused, match="does not speak"):
            await take(asking(f"http://127.0.0.1:{listener.port}", "ws"), records=1)


@pytest.mark.parametrize("protocol", ["sse", "ndjson", "ws"])
async def test_an_aborted_connection_is_an_interruption(protocol: ProtocolName) -> None:
    app, _ = websocket_app(frames({"type": "welcome", "cursor": "c0"}))
    body = EVENT_STREAM if protocol == "sse" else LINES + line(type="welcome", cursor="c0")
    async with serving(app) as listener, scripted([body, None]) as server:
        url = f"http://127.0.0.1:{listener.port}" if protocol == "ws" else server.url
        async with asyncio.timeout(10), StreamClient(asking(url, protocol)) as client:
            assert (await anext(client)).kind == "welcome"
            client.abort()
            with pytest.raises(StreamInterrupted):
                await anext(client)


@pytest.mark.parametrize("protocol", ["sse", "ws"])
async def test_a_certificate_is_trusted_only_where_its_authority_is(
    protocol: ProtocolName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert_file, key_file = make_certificate(tmp_path, name="one")
    websocket, _ = websocket_app(frames({"type": "record", "id": "c1"}))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await websocket(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": sse_record(1), "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving(app, tls_cert_file=str(cert_file), tls_key_file=str(key_file)) as listener:
        request = asking(f"https://127.0.0.1:{listener.port}", protocol)
        with pytest.raises(StreamRefused, match="Certificate not trusted") as caught:
            await take(request, records=1)
        assert "SSL_CERT_FILE" in caught.value.action
        monkeypatch.setenv("SSL_CERT_FILE", str(cert_file))
        assert cursors(await take(request, records=1)) == ["c1"]


def test_delays_grow_to_the_cap_and_begin_anew() -> None:
    backoff = Backoff(cap_seconds=10, uniform=lambda low, high: high)
    assert [backoff.next_delay(told_ms=None, retry_ms=None) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    backoff.reset()
    assert backoff.next_delay(told_ms=None, retry_ms=3000) == 3
    assert backoff.next_delay(told_ms=100, retry_ms=3000) == 6
    assert backoff.next_delay(told_ms=60_000, retry_ms=None) == 75
    week = 7 * 86_400
    assert backoff.next_delay(told_ms=week * 1000, retry_ms=None) == week + 30, "nobody comes back hours too late"
    backoff.reset()
    assert backoff.next_delay(told_ms=0, retry_ms=0) == 0
    assert backoff.next_delay(told_ms=0, retry_ms=0) == 0.2
    low = Backoff(uniform=lambda low, high: low)
    assert (low.next_delay(told_ms=2000, retry_ms=None), low.next_delay(told_ms=None, retry_ms=None)) == (2, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "ftp://x"},
        {"base_url": "127.0.0.1:8080"},
        {"base_url": "http://"},
        {"base_url": "http://user:secret@x"},
        {"base_url": "http://x/?a=b"},
        {"base_url": "http://x:99999"},
        {"stream": ""},
        {"token": "a\r\nX: y"},
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(change: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        StreamRequest(**({"base_url": "http://x", "stream": "s"} | change))  # type: ignore[arg-type]


def test_an_address_keeps_its_path_and_a_token_stays_out_of_sight() -> None:
    request = StreamRequest(
        base_url="https://x/api/", stream="a/b", protocol="ws", token=TOKEN, start="2026-01-01T00:00:00+02:00"
    )
    assert request.url == "wss://x/api/v1/streams/a%2Fb/ws?from=2026-01-01T00%3A00%3A00%2B02%3A00"
    assert TOKEN not in repr(request)


# The command.


def test_a_record_is_one_line_that_moves_no_cursor() -> None:
    text = '{"id":"c", "time":"t",\n"key":"a b\\u001b[2J", "data": {"x": 1.10, "s": "a \x9b\u2028\x1b\\"]"}}'
    as_text = record_line(Event("record", "c", text), output="text")
    assert as_text == 't "a b\\u001b[2J" {"x":1.10,"s":"a \\u009b\\u2028\\u001b\\"]"}'
    as_json = record_line(Event("record", "c", text), output="json")
    assert as_json.isprintable()
    assert json.loads(as_json)["data"]["s"] == 'a \x9b\u2028\x1b"]'
    assert record_line(Event("record", "c", '{"time":"t","key":"k","data":null}'), output="text") == "t k null"
    assert record_line(Event("record", "c", '{"time":"t","data_base64":"AA=="}'), output="text") == 't - "AA=="'


async def run_tail(*arguments: str, token: str | None = TOKEN) -> asyncio.subprocess.Process:
    environ = {name: value for name, value in os.environ.items() if name != "GATEWAY_TOKEN"}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "tail",
        *arguments,
        env=environ | ({"GATEWAY_TOKEN": token} if token else {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent,
    )


async def finished(running: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    out, err = await asyncio.wait_for(running.communicate(), 30)
    return running.returncode, out.decode(), err.decode()


async def test_the_command_reads_through_a_cut_to_its_limit() -> None:
    gap = sse_event("gap", reason="retention", **{"from": "x"}, resumed_at="g")
    first = EVENT_STREAM + b"retry: 100\n\n" + sse_record(1) + b'id: c2\ndata: {"ui'
    async with scripted([first], [EVENT_STREAM + gap + sse_record(2) + sse_record(3), None]) as server:
        running = await run_tail("flights", "--url", server.url, "--limit", "2", "--from", "earliest")
        code, out, err = await finished(running)
    assert code == 0
    assert out == "t - 1\nt - 2\n"
    assert server.headers[1]["authorization"] == f"Bearer {TOKEN}"
    assert "reading, session s1" in err
    assert "trying again in" in err
    assert "gap (retention)" in err
    assert "go on with --cursor c2" in err


async def test_the_command_prints_records_as_json_as_they_were_sent() -> None:
    async with scripted([EVENT_STREAM + b"id: c1\ndata: " + ODD.encode() + b"\n\n", None]) as server:
        running = await run_tail("flights", "--url", server.url, "--limit", "1", "--format", "json")
        code, out, _ = await finished(running)
    assert (code, out) == (0, '{"id":"c1",' + ODD[1:] + "\n")


async def test_the_command_ends_with_1_and_plain_words_when_it_is_refused() -> None:
    async with scripted(
        [refusal(403, "insufficient_scope", detail="The scope flights:read is missing\x1b[2J.")]
    ) as server:
        code, out, err = await finished(await run_tail("flights", "--url", server.url))
    assert (code, out) == (1, "")
    assert err == (
        "gateway: Insufficient scope: The scope flights:read is missing [2J.\n"
        "gateway: Do something about it.\n"
        "gateway: correlation id c0ffee\n"
    )


async def test_the_command_does_not_come_back_when_told_so() -> None:
    async with scripted([EVENT_STREAM + sse_record(1)]) as server:
        code, out, err = await finished(await run_tail("flights", "--url", server.url, "--no-reconnect"))
        assert len(server.targets) == 1
    assert (code, out) == (1, "t - 1\n")
    assert "without a goodbye" in err
    assert "go on with --cursor c1" in err


async def test_the_command_ends_with_0_at_ctrl_c_and_says_where_it_was() -> None:
    async with scripted([EVENT_STREAM + sse_record(1), None]) as server:
        running = await run_tail("flights", "--url", server.url, token=None)
        assert running.stdout is not None
        assert await asyncio.wait_for(running.stdout.readline(), 60) == b"t - 1\n"
        running.send_signal(signal.SIGINT)
        code, _, err = await finished(running)
    assert code == 0
    assert "Traceback" not in err
    assert "go on with --cursor c1" in err
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["flights", "--url", "nowhere"], "not an address"),
        (["flights", "--from", "latest", "--cursor", "c"], "give one of them"),
        (["flights", "--limit", "0"], "--limit"),
        (["flights", "--set", "http.port=0"], "give --url"),
        (["flights", "--protocol", "carrier-pigeon"], "--protocol"),
        ([], "STREAM"),
    ],
)
async def test_a_command_that_cannot_be_run_is_a_usage_error(arguments: list[str], said: str) -> None:
    code, _, err = await finished(await run_tail(*arguments))
    assert code == 2
    assert said in err


async def test_without_an_address_the_settings_say_where_the_gateway_is(tmp_path: Path) -> None:
    async with scripted([EVENT_STREAM + sse_record(1) + sse_record(2), None]) as server:
        file = tmp_path / "gateway.toml"
        file.write_text(f"[http]\npublic_url = {json.dumps(server.url)}\n")
        code, out, err = await finished(await run_tail("flights", "--config", str(file), "--limit", "2"))
    assert (code, out) == (0, "t - 1\nt - 2\n"), err
