"""One port: binding, stopping and draining."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from typing import Any

import pytest
import websockets

from gateway.errors import ConfigurationProblems
from gateway.server.bounds import ConnectionBounds
from gateway.server.listener import Listener
from gateway.server.loop import LoopName, loop_factory, run_loop
from tests.parts.serving import LOOPS, connected, request, serving, until


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    answer = scope["scheme"].encode()
    length = (b"content-length", b"%d" % len(answer))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": answer})


def listener_on(host: str, port: int, **options: Any) -> Listener:
    return Listener(hello, host=host, port=port, name="http", **options)


async def test_a_busy_port_is_one_clear_line() -> None:
    async with serving(hello) as listener:
        second = listener_on("127.0.0.1", listener.port)
        with pytest.raises(ConfigurationProblems) as caught:
            await second.start()
        assert caught.value.problems == [f"http: cannot listen on 127.0.0.1:{listener.port}: address already in use"]
        await second.close(timeout_seconds=0)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_a_host_that_is_not_ours_is_one_clear_line(host: str) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        await listener_on(host, 0).start()
    (line,) = caught.value.problems
    assert line.startswith(f"http: cannot listen on {host}:0: ")


@pytest.mark.parametrize("host", ["::1", "::", "localhost"])
async def test_a_host_may_be_ipv6_both_or_a_name(host: str) -> None:
    if not socket.has_ipv6 or not _ipv6_here():
        pytest.skip("no IPv6 on this machine")
    listener = listener_on(host, 0)
    await listener.start()
    named = {str(found[4][0]) for found in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    for address in {"::1": {"::1"}, "::": {"::1", "127.0.0.1"}, "localhost": named}[host]:
        reader, writer = await asyncio.open_connection(address, listener.port)
        writer.write(request())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
    await listener.close(timeout_seconds=1)


def _ipv6_here() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("loop", LOOPS)
def test_accepted_connections_carry_the_kernel_deadlines(loop: LoopName) -> None:
    seen: list[int] = []

    async def scenario() -> None:
        async with serving(hello) as listener, connected(listener) as client:
            await until(lambda: listener.connections == 1)
            (connection,) = listener._state.connections
            accepted = connection.transport.get_extra_info("socket")
            options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            seen.extend(accepted.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            seen.append(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            seen.append(int(bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))))
            client.leave()

    run_loop(scenario(), loop=loop)
    assert seen == [20_000, 15, 5, 3, 1, 1]


async def test_stop_accepting_keeps_what_is_open_and_its_new_requests() -> None:
    async with serving(hello) as listener, connected(listener) as client:
        await client.say(request())
        assert (await client.answer()).status == 200
        listener.stop_accepting()
        listener.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", listener.port)
        await client.say(request())
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("loop", LOOPS)
def test_close_ends_the_idle_at_once_and_waits_for_answers_on_their_way(loop: LoopName) -> None:
    async def scenario() -> None:
        release = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/slow":
                await release.wait()
            await hello(scope, receive, send)

        async with (
            serving(app) as listener,
            connected(listener) as idle,
            connected(listener) as slow,
            connected(listener) as silent,
        ):
            await idle.say(request())
            await idle.answer()
            await slow.say(request("/slow"))
            await until(lambda: len(listener._state.tasks) == 1)
            closing = asyncio.get_running_loop().create_task(listener.close(timeout_seconds=10))
            assert await idle.ended()
            assert await silent.ended()
            assert listener.connections == 1
            release.set()
            answer = await slow.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await slow.ended()
            await asyncio.wait_for(closing, 5)

    run_loop(scenario(), loop=loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_close_cuts_what_does_not_end_in_time_and_never_hangs(loop: LoopName, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def scenario() -> None:
        stubborn = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await hello(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            while True:
                try:
                    await stubborn.wait()
                    return
                except asyncio.CancelledError:
                    # An application that will not let go.
                    continue

        listener = Listener(app, host="127.0.0.1", port=0, name="http")
        await listener.start()
        async with connected(listener) as client:
            await client.say(request())
            await client.hear(b"first\r\n")
            async with websockets.connect(f"ws://127.0.0.1:{listener.port}/") as peer:
                begun = time.monotonic()
                await listener.close(timeout_seconds=0.2)
                assert time.monotonic() - begun < 3
                assert listener.connections == 0
                with pytest.raises(websockets.ConnectionClosed):
                    await peer.recv()
                assert peer.close_code == 1012
        await listener.close(timeout_seconds=0)
        stubborn.set()
        await until(lambda: not listener._state.tasks)

    run_loop(scenario(), loop=loop)


async def test_a_listener_that_was_never_started_closes() -> None:
    listener = listener_on("127.0.0.1", 0)
    with pytest.raises(RuntimeError, match="not started"):
        _ = listener.port
    await listener.close(timeout_seconds=5)


async def test_two_ports_share_a_loop_and_signals_stay_untouched() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with serving(hello) as public, serving(hello) as management:
        assert public.port != management.port
        for listener in (public, management):
            async with connected(listener) as client:
                await client.say(request())
                assert (await client.answer()).status == 200
        await management.close(timeout_seconds=1)
        async with connected(public) as client:
            await client.say(request())
            assert (await client.answer()).status == 200
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_a_connection_that_cannot_be_swept_is_dropped_and_the_others_are_swept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bounds = ConnectionBounds(header_seconds=0.2, sweep_seconds=0.02)
    async with serving(hello, bounds=bounds) as listener, connected(listener) as broken, connected(listener) as other:
        await until(lambda: listener.connections == 2)
        first = next(iter(listener._state.connections))
        first.sweep = None  # type: ignore[union-attr]
        assert sorted([await broken.hear_all() == b"", await other.hear_all() == b""]) == [False, True]
    assert "could not be checked" in caplog.text


def test_the_loop_is_uvloop_where_it_is_there_and_asyncio_when_asked() -> None:
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    assert run_loop(kind()) == "uvloop"
    assert run_loop(kind(), loop="uvloop") == "uvloop"
    assert run_loop(kind(), loop="asyncio") == "asyncio"
    assert loop_factory("asyncio") is asyncio.new_event_loop


async def test_a_port_that_another_has_bound_and_not_yet_opened_is_one_clear_line() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        first = listener_on("127.0.0.1", port)
        await first.start()
        with pytest.raises(OSError, match="in use"):
            other.listen()
        with pytest.raises(ConfigurationProblems):
            await listener_on("127.0.0.1", port).start()
        await first.close(timeout_seconds=1)
