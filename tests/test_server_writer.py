"""The direct writer: order, framing, pauses and ends, on HTTP and WebSocket, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import websockets
from websockets.frames import Frame, Opcode

from gateway.ports import WRITER_EXTENSION, DirectWriter
from gateway.server.bounds import ConnectionBounds
from gateway.server.loop import LoopName, run_loop
from tests.parts.serving import LOOPS, chunk, connected, dechunked, request, serving, until

Drive = Callable[[DirectWriter, Any], Awaitable[None]]


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> LoopName:
    return request.param  # type: ignore[no-any-return]


def streaming(drive: Drive, *, first: bytes = b"first") -> Any:
    """An app that begins a body by ASGI, gives the rest to ``drive``, and ends by ASGI."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        await drive(scope["extensions"][WRITER_EXTENSION](), receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def socketed(drive: Drive, *, code: int = 1000, reason: str = "") -> Any:
    """An app that accepts, gives the connection to ``drive``, and closes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await drive(scope["extensions"][WRITER_EXTENSION](), receive)
        await send({"type": "websocket.close", "code": code, "reason": reason})

    return app


def text_frame(text: bytes) -> bytes:
    return bytes(Frame(Opcode.TEXT, text).serialize(mask=False))


async def disconnected(receive: Any) -> None:
    while not (await receive())["type"].endswith(".disconnect"):
        pass


def stalled_socket(port: int) -> socket.socket:
    """A connection whose kernel takes as little as it can."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.setblocking(False)
    return client


def test_direct_writes_arrive_in_order_and_framed_and_the_connection_goes_on(loop: LoopName) -> None:
    async def drive(writer: DirectWriter, receive: Any) -> None:
        assert writer.chunked
        assert not writer.closed
        for number in range(1000):
            writer.write(chunk(b"<%d>" % number))
            if number % 100 == 0:
                await asyncio.sleep(0)

    async def scenario() -> None:
        async with serving(streaming(drive)) as listener, connected(listener) as client:
            for _ in range(3):
                await client.say(request())
                head = await client.hear(b"\r\n\r\n")
                assert b"transfer-encoding: chunked" in head.lower()
                body = dechunked(await client.hear(b"\r\n0\r\n\r\n"))
                assert body == b"first" + b"".join(b"<%d>" % number for number in range(1000))

    run_loop(scenario(), loop=loop)


def test_http_1_0_gets_the_bare_bytes_and_the_end_of_the_connection(loop: LoopName) -> None:
    async def drive(writer: DirectWriter, receive: Any) -> None:
        assert not writer.chunked
        writer.write(b" second")

    async def scenario() -> None:
        async with serving(streaming(drive)) as listener, connected(listener) as client:
            await client.say(request(version="1.0", host=False))
            head, _, body = (await client.hear_all()).partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in head.lower()
            assert b"connection: close" in head.lower()
            assert body == b"first second"

    run_loop(scenario(), loop=loop)


async def test_a_writer_ends_with_its_response_and_cannot_reach_into_the_next() -> None:
    kept: list[DirectWriter] = []
    told: list[str] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        for earlier in kept:
            assert earlier.closed
            earlier.write(chunk(b"from an earlier response"))
        writer.on_close = lambda: told.append("close")
        kept.append(writer)

    async with serving(streaming(drive)) as listener, connected(listener) as client:
        for _ in range(3):
            await client.say(request())
            await client.hear(b"\r\n\r\n")
            assert dechunked(await client.hear(b"\r\n0\r\n\r\n")) == b"first"
        client.leave()
        await until(lambda: listener.connections == 0)
    assert told == []


async def test_no_writer_is_given_before_the_answer_begins_nor_for_a_body_of_known_length() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        open_writer = scope["extensions"][WRITER_EXTENSION]
        with pytest.raises(RuntimeError, match="between"):
            open_writer()
        headers = [] if scope["method"] == "HEAD" else [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with pytest.raises(RuntimeError, match="open length"):
            open_writer()
        await send({"type": "http.response.body", "body": b"ok"})
        with pytest.raises(RuntimeError, match="between"):
            open_writer()

    async with serving(app) as listener, connected(listener) as client:
        await client.say(request())
        assert (await client.answer()).body == b"ok"
        await client.say(request(method="HEAD"))
        await client.hear(b"\r\n\r\n")


def test_a_stalled_reader_pauses_the_writer_and_its_reading_resumes_it(loop: LoopName) -> None:
    events: list[str] = []
    shared = [chunk(bytes([65 + number % 26]) * (1000 + number)) for number in range(64)]
    written: list[int] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        resumed = asyncio.Event()

        def resume() -> None:
            events.append("resume")
            resumed.set()

        writer.on_resume = resume
        while len(events) < 6:
            while not writer.paused:
                number = len(written) % len(shared)
                writer.write(shared[number])
                written.append(number)
            events.append("pause")
            assert writer.unsent() > 64 * 1024
            resumed.clear()
            await resumed.wait()
            assert not writer.paused
        writer.on_resume = None

    async def scenario() -> None:
        async with serving(streaming(drive)) as listener:
            with stalled_socket(listener.port) as client:
                running = asyncio.get_running_loop()
                await running.sock_sendall(client, request())
                await until(lambda: events == ["pause"])
                received = bytearray()
                while not received.endswith(b"\r\n0\r\n\r\n"):
                    received += await asyncio.wait_for(running.sock_recv(client, 1 << 20), 10)
        assert events == ["pause", "resume"] * 3
        body = received.partition(b"\r\n\r\n")[2]
        assert body == chunk(b"first") + b"".join(shared[number] for number in written) + b"0\r\n\r\n"

    run_loop(scenario(), loop=loop)


def test_stalled_readers_of_the_same_objects_each_get_every_byte(loop: LoopName) -> None:
    """What waits in many transports is one object; a loop that wrote into it or lost its place would show here."""
    shared = [bytes([97 + number % 26]) * (7 + 977 * (number % 40)) for number in range(400)]
    expected = hashlib.sha256(b"first" + b"".join(shared)).hexdigest()
    writers: list[DirectWriter] = []

    async def scenario() -> None:
        done = asyncio.Event()

        async def drive(writer: DirectWriter, receive: Any) -> None:
            writers.append(writer)
            await done.wait()

        async with serving(streaming(drive)) as listener:
            running = asyncio.get_running_loop()
            clients = [stalled_socket(listener.port) for _ in range(20)]
            for client in clients:
                await running.sock_sendall(client, request(version="1.0", host=False))
            await until(lambda: len(writers) == len(clients))
            for piece in shared:
                for writer in writers:
                    writer.write(piece)
            assert all(writer.paused for writer in writers)
            done.set()

            async def digest(client: socket.socket) -> str:
                received = bytearray()
                while data := await running.sock_recv(client, 1 << 20):
                    received += data
                client.close()
                return hashlib.sha256(received.partition(b"\r\n\r\n")[2]).hexdigest()

            digests = await asyncio.wait_for(asyncio.gather(*map(digest, clients)), 30)
        assert set(digests) == {expected}

    run_loop(scenario(), loop=loop)


def test_a_client_that_vanishes_closes_the_writer_and_says_so_once(loop: LoopName) -> None:
    told: list[bool] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        writer.on_close = lambda: told.append(writer.closed)
        writer.write(chunk(b"there"))
        await disconnected(receive)
        for _ in range(10):
            writer.write(chunk(b"nobody hears"))

    async def scenario() -> None:
        async with serving(streaming(drive)) as listener:
            for reset in (False, True):
                client = socket.create_connection(("127.0.0.1", listener.port))
                client.sendall(request())
                client.setblocking(False)
                await until(lambda: listener.connections == 1)
                running = asyncio.get_running_loop()
                received = b""
                while b"there" not in received:
                    received += await running.sock_recv(client, 65536)
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                await until(lambda: listener.connections == 0)
        assert told == [True, True]

    run_loop(scenario(), loop=loop)


def test_what_an_abort_leaves_unsent_is_known_afterwards(loop: LoopName) -> None:
    left: list[tuple[int, int]] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        while not writer.paused:
            writer.write(chunk(b"x" * 5000))
        unsent = writer.unsent()
        writer.on_close = lambda: left.append((unsent, writer.unsent()))
        writer.abort()
        writer.abort()
        assert writer.closed
        await disconnected(receive)

    async def scenario() -> None:
        async with serving(streaming(drive)) as listener:
            with stalled_socket(listener.port) as client:
                await asyncio.get_running_loop().sock_sendall(client, request())
                await until(lambda: bool(left))
        ((before, after),) = left
        assert before == after > 64 * 1024

    run_loop(scenario(), loop=loop)


def test_accepted_monotonic_moves_only_while_the_stalled_peer_takes_bytes(loop: LoopName) -> None:
    bounds = ConnectionBounds(sweep_seconds=0.02)
    opened: list[DirectWriter] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        while not writer.paused:
            writer.write(chunk(b"x" * 32_000_000))
        opened.append(writer)
        await disconnected(receive)

    async def scenario() -> None:
        async with serving(streaming(drive), bounds=bounds) as listener:
            with stalled_socket(listener.port) as client:
                running = asyncio.get_running_loop()
                await running.sock_sendall(client, request())
                await until(lambda: bool(opened))
                (writer,) = opened
                # The kernels' own buffers fill for a moment yet.
                await until(lambda: time.monotonic() - writer.accepted_monotonic > 0.3)
                stalled_at, unsent = writer.accepted_monotonic, writer.unsent()
                while writer.unsent() == unsent:
                    await running.sock_recv(client, 1 << 16)
                await until(lambda: writer.accepted_monotonic > stalled_at)
                assert writer.paused

    run_loop(scenario(), loop=loop)


async def test_a_pipelined_request_does_not_hide_the_end_of_the_client_from_the_stream_before_it() -> None:
    ended: list[str] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        writer.on_close = lambda: ended.append("writer")
        await disconnected(receive)
        ended.append("receive")

    async with serving(streaming(drive)) as listener:
        async with connected(listener) as client:
            await client.say(request("/one") + request("/two"))
            await client.hear(b"first\r\n")
        # Reading stands still behind a pipelined request, so nothing tells of the client's end before a write or this.
        await listener.close(timeout_seconds=0)
    assert sorted(ended) == ["receive", "writer"]


def test_three_thousand_direct_frames_mix_with_pings_and_the_close_code_arrives(loop: LoopName) -> None:
    frames = [text_frame(b'{"n":%d,"pad":"%s"}' % (number, b"x" * (number % 300))) for number in range(3000)]

    async def drive(writer: DirectWriter, receive: Any) -> None:
        assert not writer.chunked
        for number, frame in enumerate(frames):
            writer.write(frame)
            if number % 50 == 0:
                await asyncio.sleep(0.002)

    async def scenario() -> None:
        bounds = ConnectionBounds(control_frames_per_second=1000)
        app = socketed(drive, code=4503, reason="draining")
        async with (
            serving(app, bounds=bounds) as listener,
            websockets.connect(f"ws://127.0.0.1:{listener.port}/", ping_interval=None) as client,
        ):
            pongs = [asyncio.ensure_future(await client.ping()) for _ in range(20)]
            received = 0
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    message = await asyncio.wait_for(client.recv(), 10)
                    assert f'"n":{received},' in str(message)
                    received += 1
                    if received % 500 == 0:
                        pongs.append(asyncio.ensure_future(await client.ping()))
            assert received == 3000
            assert sum(pong.done() and pong.exception() is None for pong in pongs) >= 20
            assert (client.close_code, client.close_reason) == (4503, "draining")

    run_loop(scenario(), loop=loop)


def test_direct_frames_end_with_the_close_frame_whoever_closes(loop: LoopName) -> None:
    kept: list[DirectWriter] = []
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        writer: DirectWriter = scope["extensions"][WRITER_EXTENSION]()
        writer.on_close = lambda: told.append("close")
        kept.append(writer)
        writer.write(text_frame(b"one"))
        if scope["path"] == "/server":
            await send({"type": "websocket.close", "code": 4401, "reason": "token_expired"})
            assert writer.closed
            writer.write(text_frame(b"late"))
        await disconnected(receive)
        assert writer.closed
        writer.write(text_frame(b"later"))

    async def scenario() -> None:
        async with serving(app) as listener:
            for path, code in (("/server", 4401), ("/client", 1000)):
                async with websockets.connect(f"ws://127.0.0.1:{listener.port}{path}") as client:
                    assert await client.recv() == "one"
                    if path == "/client":
                        await client.close()
                    with pytest.raises(websockets.ConnectionClosed):
                        await client.recv()
                    assert client.close_code == code
            await until(lambda: listener.connections == 0)
        assert told == ["close", "close"]
        assert all(writer.closed for writer in kept)

    run_loop(scenario(), loop=loop)


def test_a_close_never_waits_for_a_reader_that_has_stalled_and_frees_it_soon_after(loop: LoopName) -> None:
    closed_after: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        writer: DirectWriter = scope["extensions"][WRITER_EXTENSION]()
        while not writer.paused:
            writer.write(text_frame(b"x" * 60_000))
        before = time.monotonic()
        await send({"type": "websocket.close", "code": 4408, "reason": "too_slow"})
        closed_after.append(time.monotonic() - before)

    async def scenario() -> None:
        bounds = ConnectionBounds(close_seconds=0.2, sweep_seconds=0.05)
        async with serving(app, bounds=bounds) as listener:
            with stalled_socket(listener.port) as client:
                await asyncio.get_running_loop().sock_sendall(client, handshake())
                await until(lambda: bool(closed_after))
                await until(lambda: listener.connections == 0, within_seconds=5)
        assert closed_after[0] < 0.1

    run_loop(scenario(), loop=loop)


def handshake(*lines: str) -> bytes:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    return request("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key, *lines)
