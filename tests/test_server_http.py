"""What an HTTP connection may not do, and the answer it gets."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from gateway.ports import WRITER_EXTENSION
from gateway.server.bounds import ConnectionBounds
from gateway.server.listener import Listener
from gateway.server.loop import LoopName, run_loop
from tests.parts.serving import LOOPS, Answer, connected, request, serving, until

QUICK = ConnectionBounds(
    header_seconds=0.3, body_seconds=0.3, idle_seconds=0.3, close_seconds=0.3, linger_seconds=0.3, sweep_seconds=0.02
)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with method, target and body; ``/early`` does so before it has read anything."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    answer = b"%s %s %s" % (scope["method"].encode(), scope["raw_path"], body)
    length = (b"content-length", b"%d" % len(answer))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": answer})


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """Begins a body and never ends it."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer_to(listener: Listener, *parts: bytes) -> Answer:
    async with connected(listener) as client:
        for part in parts:
            await client.say(part)
        answer = await client.answer()
        assert answer.headers["connection"] == "close"
        assert "date" in answer.headers
        assert await client.ended()
        return answer


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " + "A" * 22 + "==",
)

REFUSED = {
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
    "another version": (request(version="2.0"), 400, "bad_request"),
    "no host": (request(host=False), 400, "bad_request"),
    "two hosts": (request("/", "Host: other.example"), 400, "bad_request"),
    "two hosts in 1.0": (request("/", "Host: other.example", version="1.0"), 400, "bad_request"),
    "two lengths": (request("/", "Content-Length: 1", "Content-Length: 2", method="POST"), 400, "bad_request"),
    "length and chunks": (
        request("/", "Content-Length: 1", "Transfer-Encoding: chunked", method="POST"),
        400,
        "bad_request",
    ),
    "control in a value": (request("/", "X-A: b\x00c"), 400, "bad_request"),
    "path outside ASCII": (request("/\xff"), 400, "bad_request"),
    "proxy request": (request("gateway.example:443", method="CONNECT"), 400, "bad_request"),
    "long line": (request("/", "X-A: " + "a" * 8190), 431, "headers_too_large"),
    "many lines": (request("/", *[f"X-{n}: a" for n in range(100)]), 431, "headers_too_large"),
    "many bytes": (request("/", *[f"X-{n}: {'a' * 8000}" for n in range(5)]), 431, "headers_too_large"),
    "long target": (request("/?a=" + "a" * 8190), 414, "uri_too_long"),
    "announced body": (request("/", "Content-Length: 65537", method="POST"), 413, "payload_too_large"),
    "sent body": (
        request("/", "Transfer-Encoding: chunked", method="POST") + b"10001\r\n" + b"x" * 65537,
        413,
        "payload_too_large",
    ),
    "upgrade, long line": (request("/", *UPGRADE, "X-A: " + "a" * 8190), 431, "headers_too_large"),
    "upgrade, many lines": (request("/", *UPGRADE, *[f"X-{n}: a" for n in range(100)]), 431, "headers_too_large"),
    "upgrade, long target": (request("/?a=" + "a" * 8190, *UPGRADE), 414, "uri_too_long"),
    "upgrade, no host": (request("/", *UPGRADE, host=False), 400, "bad_request"),
    # These pass our bounds and break the WebSocket parser's, which count line ends and the rest of the request line.
    "upgrade, line at the edge": (request("/", *UPGRADE, "X-A: " + "a" * 8187), 431, "headers_too_large"),
    "upgrade, target at the edge": (request("/" + "a" * 8191, *UPGRADE), 414, "uri_too_long"),
    "upgrade with a body": (request("/", *UPGRADE, "Content-Length: 3"), 400, "bad_request"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_broken_bound_is_answered_with_a_problem_and_closed(case: str, loop: LoopName) -> None:
    sent, status, code = REFUSED[case]

    async def scenario() -> None:
        async with serving(echo) as listener:
            answer = await answer_to(listener, sent)
            assert (answer.status, answer.problem()["code"]) == (status, code)
            await until(lambda: listener.connections == 0)

    run_loop(scenario(), loop=loop)


async def test_what_stands_exactly_at_the_bounds_is_served() -> None:
    lines = [f"X-{n}: a" for n in range(97)] + ["X-A: " + "a" * 8187, "Content-Length: 65536"]
    async with serving(echo) as listener, connected(listener) as client:
        await client.say(request("/" + "a" * 8191, *lines, method="POST") + b"x" * 65536)
        answer = await client.answer()
        assert answer.status == 200
        assert len(answer.body) == len("POST ") + 8192 + 1 + 65536


async def test_an_endless_header_line_is_refused_before_its_end() -> None:
    async with serving(echo) as listener:
        answer = await answer_to(listener, request()[:-2] + b"X-A: ", *[b"a" * 16384] * 40)
        assert answer.problem()["code"] == "headers_too_large"


async def test_the_answer_to_an_oversize_body_survives_the_rest_of_the_body() -> None:
    """A close with input unread resets the connection, and clients lose an answer they have not read yet."""
    async with serving(echo) as listener, connected(listener) as client:
        await client.say(request("/", "Content-Length: 800000", method="POST"))
        await until(lambda: listener.connections == 1)
        await client.say(b"x" * 800_000)
        assert (await client.answer()).problem()["code"] == "payload_too_large"


async def test_a_refused_client_that_never_stops_sending_is_cut_off() -> None:
    async with serving(echo) as listener, connected(listener) as client:
        client.writer.write(request("/", "Content-Length: 70000", method="POST"))
        with pytest.raises(ConnectionError):
            while True:
                await client.say(b"x" * 65536)
        await until(lambda: listener.connections == 0)


SLOW = {
    "nothing": b"",
    "half a request line": b"GET / HT",
    "half the headers": request()[:-2],
    "half a body": request("/", "Content-Length: 10", method="POST") + b"12345",
}


@pytest.mark.parametrize("case", SLOW)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_request_that_does_not_arrive_is_answered_408_and_closed(case: str, loop: LoopName) -> None:
    async def scenario() -> None:
        async with serving(echo, bounds=QUICK) as listener:
            assert (await answer_to(listener, SLOW[case])).problem()["code"] == "request_timeout"

    run_loop(scenario(), loop=loop)


async def test_dripping_bytes_buys_no_time() -> None:
    async with serving(echo, bounds=QUICK) as listener, connected(listener) as client:
        await client.say(request()[:-2])
        begun = time.monotonic()
        dripping = asyncio.get_running_loop().create_task(drip(client.say))
        assert (await client.answer()).status == 408
        dripping.cancel()
        assert time.monotonic() - begun < 5


async def drip(say: Any) -> None:
    while True:
        await say(b"X-A: b\r\n")
        await asyncio.sleep(0.05)


async def test_a_later_request_has_its_own_deadline_and_idleness_ends_without_an_answer() -> None:
    async with serving(echo, bounds=QUICK) as listener:
        async with connected(listener) as client:
            await client.say(request())
            assert (await client.answer()).status == 200
            await client.say(b"GET")
            assert (await client.answer()).status == 408
        async with connected(listener) as client:
            await client.say(request())
            assert (await client.answer()).status == 200
            assert await client.ended()
        # Empty lines before a request line are allowed (RFC 9112 §2.2), and are no request.
        async with connected(listener) as client:
            await client.say(request())
            assert (await client.answer()).status == 200
            await client.say(b"\r\n\r\n")
            assert await client.ended()


async def test_a_running_answer_has_no_deadline() -> None:
    async with serving(stream, bounds=QUICK) as listener, connected(listener) as client:
        await client.say(request())
        await client.hear(b"first\r\n")
        await client.say(b"GET /next")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 1)
        assert listener.connections == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_two_hundred_silent_connections_are_all_ended(loop: LoopName) -> None:
    async def scenario() -> None:
        async with serving(echo, bounds=QUICK) as listener:
            pairs = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(200)]
            await until(lambda: listener.connections == 200)
            answers = await asyncio.gather(*[reader.read(-1) for reader, _ in pairs])
            assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)
            await until(lambda: listener.connections == 0)
            for _, writer in pairs:
                writer.close()

    run_loop(scenario(), loop=loop)


async def test_garbage_behind_a_running_stream_ends_it_without_writing_into_it() -> None:
    for garbage in (b"\x00\x01\x02garbage\r\n\r\n", request("/", *UPGRADE), request("/", "Host: other")):
        async with serving(stream) as listener, connected(listener) as client:
            await client.say(request())
            head_and_first = await client.hear(b"first\r\n")
            assert head_and_first.endswith(b"5\r\nfirst\r\n")
            await client.say(garbage)
            assert await client.hear_all() == b""


async def test_pipelined_requests_are_answered_in_order_up_to_the_bound() -> None:
    async with serving(echo) as listener, connected(listener) as client:
        await client.say(b"".join(request(f"/{number}") for number in range(9)))
        assert [(await client.answer()).body for _ in range(9)] == [b"GET /%d " % number for number in range(9)]
    async with serving(stream) as listener, connected(listener) as client:
        await client.say(request() * 10)
        assert (await client.hear_all()).count(b"HTTP/1.1 ") <= 1
        await until(lambda: listener.connections == 0)


async def test_an_answer_before_the_body_leaves_the_connection_in_step() -> None:
    async with serving(echo) as listener, connected(listener) as client:
        await client.say(request("/early", "Content-Length: 5", method="POST"))
        assert (await client.answer()).body == b"POST /early "
        await client.say(b"12345" + request("/next"))
        assert (await client.answer()).body == b"GET /next "


async def test_trailers_do_not_become_headers() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        seen.extend(name for name, _ in scope["headers"])
        await echo({**scope, "path": "/early"}, receive, send)

    async with serving(app) as listener, connected(listener) as client:
        chunks = b"1\r\nx\r\n0\r\nAuthorization: Bearer forged\r\n\r\n"
        await client.say(request("/", "Transfer-Encoding: chunked", method="POST") + chunks)
        assert (await client.answer()).status == 200
    assert b"authorization" not in seen
    assert b"transfer-encoding" in seen


async def test_an_offer_of_another_protocol_is_ignored_and_its_body_kept() -> None:
    offer = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    async with serving(echo) as listener, connected(listener) as client:
        await client.say(request("/a", *offer, "Content-Length: 4", method="POST") + b"body")
        assert (await client.answer()).body == b"POST /a body"
        head = request("/b", *offer, "Content-Length: 4", method="POST")
        await client.say(head)
        await client.say(b"late")
        assert (await client.answer()).body == b"POST /b late"
        await client.say(request("/c", *offer))
        assert (await client.answer()).body == b"GET /c "
        await client.say(request("/d", "Connection: close, Upgrade", "Upgrade: h2c"))
        assert (await client.answer()).body == b"GET /d "
        assert await client.ended()


async def test_expect_100_continue_is_answered_and_a_large_announcement_refused_at_once() -> None:
    async with serving(echo) as listener:
        async with connected(listener) as client:
            await client.say(request("/", "Expect: 100-continue", "Content-Length: 2", method="POST"))
            assert await client.hear(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.say(b"ok")
            assert (await client.answer()).body == b"POST / ok"
        expecting = request("/", "Expect: 100-continue", "Content-Length: 100000", method="POST")
        assert (await answer_to(listener, expecting)).status == 413


async def test_no_server_header_and_no_query_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(echo) as listener:
        async with connected(listener) as client:
            await client.say(request("/a?ticket=secret"))
            answer = await client.answer()
            assert "server" not in answer.headers
            assert "date" in answer.headers
        await answer_to(listener, request("/a?ticket=secret", *UPGRADE, "Content-Length: 3"))
    assert "secret" not in caplog.text


async def test_the_writer_is_offered_on_every_request() -> None:
    offered: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        offered.append(WRITER_EXTENSION in scope["extensions"])
        await echo(scope, receive, send)

    async with serving(app) as listener, connected(listener) as client:
        await client.say(request() + request())
        await client.answer()
        await client.answer()
    assert offered == [True, True]
