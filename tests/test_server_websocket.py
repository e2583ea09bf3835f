"""What a WebSocket peer may not do, and the close code it gets."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets
from websockets.frames import Frame, Opcode

from gateway.ports import WRITER_EXTENSION
from gateway.server.bounds import ConnectionBounds
from gateway.server.listener import Listener
from gateway.server.loop import LoopName, run_loop
from tests.parts.serving import LOOPS, RawClient, connected, request, serving, until


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says every message back; ``/idle`` takes none until the connection ends."""
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/raise":
        raise RuntimeError("broken on purpose")
    if scope["path"] == "/refuse":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        message = {key: value for key, value in message.items() if value is not None}
        await send({**message, "type": "websocket.send"})


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", KEY)


@asynccontextmanager
async def upgraded(listener: Listener, target: str = "/", **options: Any) -> AsyncIterator[RawClient]:
    async with connected(listener, **options) as client:
        await client.say(request(target, *HANDSHAKE))
        assert (await client.hear(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        yield client


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    return bytes(Frame(opcode, data, fin).serialize(mask=True))


async def close_code(client: RawClient) -> int:
    """The code of the close frame in what is still to come; other frames before it are passed over."""
    data = await client.hear_all()
    while data:
        opcode, length, start = data[0] & 15, data[1], 2
        if length == 126:
            (length,), start = struct.unpack("!H", data[2:4]), 4
        if opcode == Opcode.CLOSE:
            code: int = struct.unpack("!H", data[start : start + 2])[0]
            return code
        data = data[start + length :]
    raise AssertionError("the connection ended without a close frame")


FLOODS = {
    "oversize message": (frame(Opcode.TEXT, b"x" * 65_537), 1009),
    "oversize in fragments": (
        frame(Opcode.TEXT, b"x" * 40_000, fin=False) + frame(Opcode.CONT, b"x" * 40_000, fin=False),
        1009,
    ),
    "announced 1 TB": (b"\x81\xff" + struct.pack("!Q", 1 << 40), 1009),
    "fragments": (frame(Opcode.TEXT, b"x", fin=False) + frame(Opcode.CONT, b"", fin=False) * 64, 1008),
    "many more fragments": (frame(Opcode.TEXT, b"", fin=False) + frame(Opcode.CONT, b"", fin=False) * 100_000, 1008),
    "pings": (frame(Opcode.PING, b"x") * 51, 1008),
    "many more pings": (frame(Opcode.PING, b"x" * 125) * 20_000, 1008),
    "pongs": (frame(Opcode.PONG) * 51, 1008),
    "bad UTF-8": (frame(Opcode.TEXT, b"\xff\xfe"), 1007),
    "bad UTF-8 across fragments": (frame(Opcode.TEXT, b"\xc3", fin=False) + frame(Opcode.CONT, b"("), 1007),
    "unmasked": (bytes(Frame(Opcode.TEXT, b"x").serialize(mask=False)), 1002),
    "compressed without the extension": (b"\xc1\x85\x00\x00\x00\x00xxxxx", 1002),
    "unknown opcode": (b"\x83\x80\x00\x00\x00\x00", 1002),
    "continuation of nothing": (frame(Opcode.CONT, b"x"), 1002),
}


@pytest.mark.parametrize("case", FLOODS)
@pytest.mark.parametrize("loop", LOOPS)
def test_abuse_is_closed_with_its_code_within_two_seconds(case: str, loop: LoopName) -> None:
    sent, code = FLOODS[case]

    async def scenario() -> None:
        async with serving(echo) as listener:
            async with upgraded(listener) as client:
                begun = time.monotonic()
                client.writer.write(sent)
                assert await close_code(client) == code
                assert time.monotonic() - begun < 2
            await until(lambda: listener.connections == 0)

    run_loop(scenario(), loop=loop)


async def test_a_flooder_that_reads_nothing_is_cut_off() -> None:
    bounds = ConnectionBounds(linger_seconds=0.2)
    async with serving(echo, bounds=bounds) as listener, upgraded(listener) as client:
        client.writer.write(frame(Opcode.PING) * 60)
        await until(lambda: listener.connections == 0, within_seconds=5)


async def test_what_stands_at_the_bounds_passes() -> None:
    async with serving(echo) as listener:
        url = f"ws://127.0.0.1:{listener.port}/"
        async with websockets.connect(url, compression="deflate") as client:
            assert client.response is not None
            assert "Sec-WebSocket-Extensions" not in client.response.headers
            await client.send("é" * 32_768)
            assert await client.recv() == "é" * 32_768
            await client.send(["ab"] * 63)  # and an empty last one
            assert await client.recv() == "ab" * 63
            await client.send(b"\x00\xff")
            assert await client.recv() == b"\x00\xff"
            for _ in range(50):
                await (await client.ping())


async def test_a_burst_of_messages_waits_for_the_application_and_none_is_lost() -> None:
    async with serving(echo) as listener, upgraded(listener) as client:
        sent = [b"%d" % number for number in range(5000)]
        client.writer.write(b"".join(frame(Opcode.TEXT, text) for text in sent))
        for text in sent:
            head = await asyncio.wait_for(client.reader.readexactly(2), 10)
            assert await client.reader.readexactly(head[1]) == text


async def test_a_burst_of_messages_leaves_the_loop_to_others() -> None:
    taken = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal taken
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            taken += 1

    async with serving(app) as listener, upgraded(listener) as client:
        client.writer.write(frame(Opcode.TEXT, b"x") * 30_000)
        seen = [0]
        while taken < 30_000:
            await asyncio.sleep(0)
            seen.append(taken)
        assert max(after - before for before, after in itertools.pairwise(seen)) <= 1000


async def test_messages_wait_in_bounds_while_the_application_takes_none() -> None:
    release = asyncio.Event()
    taken: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await release.wait()
        while (message := await receive())["type"] == "websocket.receive":
            taken.append(message["text"])

    async with serving(app) as listener, upgraded(listener) as client:
        texts = [str(number) for number in range(500)]
        client.writer.write(b"".join(frame(Opcode.TEXT, text.encode()) for text in texts))
        client.writer.write(frame(Opcode.CLOSE, struct.pack("!H", 1000)))
        (connection,) = listener._state.connections
        await until(lambda: connection.queue.qsize() > 0)  # type: ignore[union-attr]
        assert connection.queue.qsize() <= 64 + 1024 // 7  # type: ignore[union-attr]
        release.set()
        await until(lambda: listener.connections == 0)
    assert taken == texts


BAD_HANDSHAKES = {
    "no key": (request("/", *HANDSHAKE[:3]), 400, "bad_request"),
    "bad key": (request("/", *HANDSHAKE[:3], "Sec-WebSocket-Key: short"), 400, "bad_request"),
    "old version": (request("/", *HANDSHAKE[:2], "Sec-WebSocket-Version: 8", KEY), 400, "bad_request"),
    "not a GET": (request("/", *HANDSHAKE, method="POST"), 405, "method_not_allowed"),
    "refused by the app": (request("/refuse", *HANDSHAKE), 403, "forbidden"),
    "app broken": (request("/raise", *HANDSHAKE), 500, "internal"),
}


@pytest.mark.parametrize("case", BAD_HANDSHAKES)
async def test_a_refused_handshake_is_a_problem(case: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    sent, status, code = BAD_HANDSHAKES[case]
    async with serving(echo) as listener, connected(listener) as client:
        await client.say(sent)
        answer = await client.answer()
        assert (answer.status, answer.problem()["code"]) == (status, code)
        assert answer.headers["connection"] == "close"
        assert "date" in answer.headers
        assert await client.ended()


async def test_the_application_may_refuse_with_an_answer_of_its_own() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        start = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Bearer")]}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b'{"code": "token_missing"}'})

    async with serving(app) as listener, connected(listener) as client:
        await client.say(request("/", *HANDSHAKE))
        answer = await client.answer()
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(answer.body) == {"code": "token_missing"}


async def test_an_app_that_sends_after_the_server_failed_the_peer_sees_a_client_gone() -> None:
    raised: list[type[BaseException]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive()) == {"type": "websocket.disconnect", "code": 1007, "reason": "text is not UTF-8"}
        await send({"type": "websocket.close", "code": 4400})
        try:
            await send({"type": "websocket.send", "text": "late"})
        except OSError as error:
            raised.append(type(error))

    async with serving(app) as listener, upgraded(listener) as client:
        client.writer.write(frame(Opcode.TEXT, b"\xff"))
        assert await close_code(client) == 1007
    assert len(raised) == 1


async def test_a_peer_that_does_not_answer_a_close_is_dropped() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4410})

    bounds = ConnectionBounds(close_seconds=0.2, sweep_seconds=0.02)
    async with serving(app, bounds=bounds) as listener, upgraded(listener) as client:
        assert await close_code(client) == 4410
        await until(lambda: listener.connections == 0, within_seconds=5)


async def test_no_query_of_an_upgrade_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("gateway").setLevel(logging.DEBUG)
    async with serving(echo) as listener:
        async with websockets.connect(f"ws://127.0.0.1:{listener.port}/?ticket=secret", logger=_silent()) as client:
            await client.send("secret message")
            await client.recv()
        with pytest.raises(websockets.InvalidStatus):
            async with websockets.connect(f"ws://127.0.0.1:{listener.port}/refuse?ticket=secret", logger=_silent()):
                pass
    logging.getLogger("gateway").setLevel(logging.NOTSET)
    assert "secret" not in caplog.text


def _silent() -> logging.Logger:
    silent = logging.Logger("client")
    silent.addHandler(logging.NullHandler())
    return silent


async def test_the_writer_opens_only_after_the_accept() -> None:
    refused: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(RuntimeError, match="opens after"):
            scope["extensions"][WRITER_EXTENSION]()
        refused.append(True)
        await send({"type": "websocket.accept"})
        assert scope["extensions"][WRITER_EXTENSION]() is scope["extensions"][WRITER_EXTENSION]()

    async with serving(app) as listener, upgraded(listener) as client:
        await client.hear_all()
    assert refused == [True]
