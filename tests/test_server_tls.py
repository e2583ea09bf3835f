"""TLS in the process, on both event loops: certificates, handshakes, and the direct writer's promises under it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import json
import logging
import re
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from click.testing import CliRunner
from websockets.frames import Frame, Opcode

from gateway.cli import main
from gateway.errors import ConfigurationProblems
from gateway.ports import WRITER_EXTENSION, DirectWriter
from gateway.server.bounds import ConnectionBounds
from gateway.server.listener import Listener
from gateway.server.loop import LoopName, run_loop
from gateway.server.tls import Certificates
from tests.parts.certificates import DAY, make_certificate, trusting
from tests.parts.serving import LOOPS, chunk, connected, dechunked, request, serving, until

Drive = Callable[[DirectWriter, Any], Awaitable[None]]


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> LoopName:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def cert_file(tmp_path: Path) -> Path:
    return make_certificate(tmp_path, name="one")[0]


def files(cert_file: Path) -> dict[str, str]:
    return {"tls_cert_file": str(cert_file), "tls_key_file": str(cert_file.with_name("key.pem"))}


def driven(drive: Drive) -> Any:
    """An app that begins an answer or accepts a socket, gives the writer to ``drive``, and ends in order."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            assert scope["scheme"] == "wss"
            await receive()
            await send({"type": "websocket.accept"})
            await drive(scope["extensions"][WRITER_EXTENSION](), receive)
            await send({"type": "websocket.close", "code": 4503, "reason": "draining"})
            return
        assert scope["scheme"] == "https"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await drive(scope["extensions"][WRITER_EXTENSION](), receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def hello(scope: Any, receive: Any, send: Any) -> None:
    answer = scope["scheme"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


async def disconnected(receive: Any) -> None:
    while not (await receive())["type"].endswith(".disconnect"):
        pass


def text_frame(text: bytes) -> bytes:
    return bytes(Frame(Opcode.TEXT, text).serialize(mask=False))


@asynccontextmanager
async def stalled(listener: Listener, cert_file: Path, said: bytes) -> AsyncIterator[ssl.SSLSocket]:
    """A TLS client which has said this and reads nothing; its kernel takes some megabytes all the same."""

    def dial() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", listener.port), timeout=30)
        client = trusting(cert_file).wrap_socket(plain, server_hostname="127.0.0.1")
        client.sendall(said)
        return client

    client = await asyncio.to_thread(dial)
    with client:
        yield client


def handshake() -> bytes:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    return request("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)


# ---- the direct writer -----------------------------------------------------------------------------------------------


def test_a_stalled_reader_pauses_the_writer_and_gets_every_byte_when_it_reads_on(
    loop: LoopName, cert_file: Path
) -> None:
    pieces = [chunk(bytes([65 + number % 26]) * (1000 + 977 * (number % 40))) for number in range(400)]
    pauses: list[int] = []
    written = hashlib.sha256(chunk(b"first"))

    async def drive(writer: DirectWriter, receive: Any) -> None:
        resumed = asyncio.Event()
        writer.on_resume = resumed.set
        number = 0
        while len(pauses) < 3:
            while not writer.paused:
                piece = pieces[number % len(pieces)]
                number += 1
                writer.write(piece)
                written.update(piece)
            pauses.append(writer.unsent())
            resumed.clear()
            await resumed.wait()
        writer.on_resume = None

    async def scenario() -> None:
        async with (
            serving(driven(drive), **files(cert_file)) as listener,
            stalled(listener, cert_file, request()) as client,
        ):
            await until(lambda: len(pauses) == 1, within_seconds=30)

            def read() -> bytes:
                received = bytearray()
                while not received.endswith(b"\r\n0\r\n\r\n"):
                    received += client.recv(65536)
                return bytes(received)

            received = await asyncio.to_thread(read)
        body = received.partition(b"\r\n\r\n")[2]
        written.update(b"0\r\n\r\n")
        assert hashlib.sha256(body).digest() == written.digest()
        # The high-water mark and at most one piece more: a slow reader holds no more than that above its kernel.
        assert all(64 * 1024 <= unsent < 128 * 1024 for unsent in pauses)

    run_loop(scenario(), loop=loop)


def test_a_reader_that_takes_bytes_slowly_is_seen_to_take_them_though_the_buffer_stands_still(
    loop: LoopName, cert_file: Path
) -> None:
    opened: list[DirectWriter] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        while not writer.paused:
            # Ciphered at once and handed to the socket's own buffer, which the writer does not see.
            writer.write(chunk(b"x" * 32_000_000))
        opened.append(writer)
        await disconnected(receive)

    async def scenario() -> None:
        bounds = ConnectionBounds(sweep_seconds=0.02)
        async with (
            serving(driven(drive), bounds=bounds, **files(cert_file)) as listener,
            stalled(listener, cert_file, request()) as client,
        ):
            await until(lambda: bool(opened), within_seconds=30)
            (writer,) = opened
            # The kernels' own buffers fill for a moment yet.
            await until(lambda: time.monotonic() - writer.accepted_monotonic > 0.3)
            stalled_at, unsent = writer.accepted_monotonic, writer.unsent()
            deadline = time.monotonic() + 30
            while writer.accepted_monotonic == stalled_at and time.monotonic() < deadline:
                await asyncio.to_thread(client.recv, 16384)
                await asyncio.sleep(0.02)
            assert writer.accepted_monotonic > stalled_at
            assert (writer.paused, writer.unsent()) == (True, unsent)

    run_loop(scenario(), loop=loop)


def test_an_abort_frees_the_connection_and_says_so_once(loop: LoopName, cert_file: Path) -> None:
    told: list[tuple[int, int]] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        while not writer.paused:
            writer.write(chunk(b"x" * 5000))
        unsent = writer.unsent()
        writer.on_close = lambda: told.append((unsent, writer.unsent()))
        writer.abort()
        writer.abort()
        assert writer.closed
        writer.write(chunk(b"nobody hears"))
        await disconnected(receive)

    async def scenario() -> None:
        async with serving(driven(drive), **files(cert_file)) as listener, stalled(listener, cert_file, request()):
            await until(lambda: bool(told) and listener.connections == 0, within_seconds=30)
        ((before, after),) = told
        assert before == after >= 64 * 1024

    run_loop(scenario(), loop=loop)


@pytest.mark.parametrize("how", ["goodbye", "silent", "reset"])
def test_a_client_that_goes_frees_its_connection_however_it_goes(loop: LoopName, cert_file: Path, how: str) -> None:
    told: list[bool] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        writer.on_close = lambda: told.append(writer.closed)
        writer.write(chunk(b"there"))
        await disconnected(receive)
        for _ in range(10):
            writer.write(chunk(b"nobody hears"))

    async def scenario() -> None:
        async with (
            serving(driven(drive), **files(cert_file)) as listener,
            stalled(listener, cert_file, request()) as client,
        ):

            def hear() -> None:
                received = b""
                while b"there" not in received:
                    received += client.recv(65536)
                if how == "goodbye":
                    with contextlib.suppress(ssl.SSLError, ConnectionError):
                        client.unwrap()
                elif how == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()

            await asyncio.to_thread(hear)
            await until(lambda: listener.connections == 0, within_seconds=30)
        assert told == [True]

    run_loop(scenario(), loop=loop)


def test_frames_mix_with_pings_and_the_close_code_arrives(loop: LoopName, cert_file: Path) -> None:
    frames = [text_frame(b'{"n":%d,"pad":"%s"}' % (number, b"x" * (number % 300))) for number in range(1000)]

    async def drive(writer: DirectWriter, receive: Any) -> None:
        assert not writer.chunked
        for number, frame in enumerate(frames):
            writer.write(frame)
            if number % 50 == 0:
                await asyncio.sleep(0)

    async def scenario() -> None:
        bounds = ConnectionBounds(control_frames_per_second=1000)
        trust = trusting(cert_file)
        async with (
            serving(driven(drive), bounds=bounds, **files(cert_file)) as listener,
            websockets.connect(f"wss://127.0.0.1:{listener.port}/", ssl=trust, ping_interval=None) as client,
        ):
            pongs = [await client.ping() for _ in range(20)]
            for number in range(len(frames)):
                assert f'"n":{number},' in str(await asyncio.wait_for(client.recv(), 30))
            with pytest.raises(websockets.ConnectionClosed):
                await asyncio.wait_for(client.recv(), 30)
            assert (client.close_code, client.close_reason) == (4503, "draining")
            assert all(pong.done() for pong in pongs)
            for pong in pongs:
                # Those that came after the close are answered by nobody.
                pong.exception()

    run_loop(scenario(), loop=loop)


def test_a_closed_websocket_whose_reader_has_stalled_is_freed_soon(loop: LoopName, cert_file: Path) -> None:
    closed: list[bool] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        while not writer.paused:
            writer.write(text_frame(b"x" * 60_000))
        closed.append(True)

    async def scenario() -> None:
        bounds = ConnectionBounds(close_seconds=0.2, sweep_seconds=0.05)
        async with (
            serving(driven(drive), bounds=bounds, **files(cert_file)) as listener,
            stalled(listener, cert_file, handshake()),
        ):
            await until(lambda: bool(closed), within_seconds=30)
            await until(lambda: listener.connections == 0, within_seconds=30)

    run_loop(scenario(), loop=loop)


def test_a_stalled_reader_does_not_keep_the_listener_from_closing(loop: LoopName, cert_file: Path) -> None:
    paused: list[bool] = []
    left: list[str] = []

    async def drive(writer: DirectWriter, receive: Any) -> None:
        writer.on_close = lambda: left.append("writer")
        while not writer.paused:
            writer.write(chunk(b"x" * 60_000))
        paused.append(True)
        await disconnected(receive)
        left.append("receive")

    async def scenario() -> None:
        async with serving(driven(drive), **files(cert_file)) as listener, stalled(listener, cert_file, request()):
            await until(lambda: bool(paused), within_seconds=30)
            await listener.close(timeout_seconds=0)
            assert listener.connections == 0
            assert sorted(left) == ["receive", "writer"]

    run_loop(scenario(), loop=loop)


def test_a_connection_goes_on_after_a_stream(loop: LoopName, cert_file: Path) -> None:
    async def drive(writer: DirectWriter, receive: Any) -> None:
        writer.write(chunk(b" second"))

    async def scenario() -> None:
        async with (
            serving(driven(drive), **files(cert_file)) as listener,
            connected(listener, ssl=trusting(cert_file)) as client,
        ):
            for _ in range(3):
                await client.say(request())
                await client.hear(b"\r\n\r\n")
                assert dechunked(await client.hear(b"\r\n0\r\n\r\n")) == b"first second"

    run_loop(scenario(), loop=loop)


# ---- handshakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [request(), b"\x00" * 600, b"\x16\x03\x01\x02\x00\x01garbage" * 40, b"SSH-2.0-x\r\n"])
def test_what_is_no_tls_is_closed_without_a_word_and_leaves_nothing(
    loop: LoopName, cert_file: Path, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(hello, **files(cert_file)) as listener:
            async with connected(listener) as client:
                await client.say(said)
                with contextlib.suppress(ConnectionResetError):
                    # An alert at most, which a TLS client would understand.
                    answer = await client.hear_all()
                    assert answer == b"" or answer[0] == 0x15
            assert listener.connections == 0
            async with connected(listener, ssl=trusting(cert_file)) as client:
                await client.say(request())
                assert (await client.answer()).body == b"https"

    run_loop(scenario(), loop=loop)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_silent_client_is_ended_before_and_after_its_handshake(loop: LoopName, cert_file: Path) -> None:
    bounds = ConnectionBounds(header_seconds=0.3, sweep_seconds=0.02)

    async def scenario() -> None:
        async with serving(hello, bounds=bounds, **files(cert_file)) as listener:
            async with connected(listener) as client:
                assert await client.ended()
            async with connected(listener) as client:
                # Half of a hello.
                await client.say(b"\x16\x03\x01\x02\x00\x01")
                assert await client.ended()
            async with connected(listener, ssl=trusting(cert_file)) as client:
                assert (await client.answer()).status == 408

    run_loop(scenario(), loop=loop)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "spoken"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
async def test_tls_1_2_and_later_are_spoken(cert_file: Path, version: ssl.TLSVersion, spoken: bool) -> None:
    trust = trusting(cert_file)
    trust.set_ciphers("DEFAULT:@SECLEVEL=0")
    trust.minimum_version = trust.maximum_version = version
    async with serving(hello, **files(cert_file)) as listener:
        if spoken:
            async with connected(listener, ssl=trust) as client:
                connection = client.writer.get_extra_info("ssl_object")
                assert connection.version() == version.name.replace("TLSv1_", "TLSv1.")
        else:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await asyncio.open_connection("127.0.0.1", listener.port, ssl=trust)


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)])
async def test_http_1_1_is_what_alpn_chooses(cert_file: Path, offered: list[str], chosen: str | None) -> None:
    trust = trusting(cert_file)
    if offered:
        trust.set_alpn_protocols(offered)
    async with serving(hello, **files(cert_file)) as listener, connected(listener, ssl=trust) as client:
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen


# ---- certificates ----------------------------------------------------------------------------------------------------


async def test_new_connections_get_the_new_certificate_and_open_streams_stay(cert_file: Path) -> None:
    end = asyncio.Event()

    async def drive(writer: DirectWriter, receive: Any) -> None:
        await end.wait()
        writer.write(chunk(b" and on"))

    first = trusting(cert_file)
    async with (
        serving(driven(drive), **files(cert_file)) as listener,
        connected(listener, ssl=first, server_hostname="localhost") as before,
    ):
        await before.say(request())
        await before.hear(b"first\r\n")
        make_certificate(cert_file.parent, name="two")
        take = listener.prepare_certificate()
        async with connected(listener, ssl=first):
            # Read is not yet taken.
            pass
        take()
        second = trusting(cert_file)
        # With a name and without one.
        for name in ("localhost", "127.0.0.1"):
            async with connected(listener, ssl=second, server_hostname=name) as after:
                shown = after.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                assert listener.certificate is not None
                assert hashlib.sha256(shown).hexdigest() == listener.certificate.fingerprint
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", listener.port, ssl=first)
        end.set()
        assert dechunked(b"5\r\nfirst\r\n" + await before.hear(b"\r\n0\r\n\r\n")) == b"first and on"


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no certificate file": (lambda folder: (folder / "cert.pem").unlink(), "No such file or directory"),
    "no key file": (lambda folder: (folder / "key.pem").unlink(), "No such file or directory"),
    "half a certificate": (
        lambda folder: (folder / "cert.pem").write_bytes((folder / "cert.pem").read_bytes()[:200]),
        "no certificate in PEM can be read from it",
    ),
    "half a key": (
        lambda folder: (folder / "key.pem").write_bytes((folder / "key.pem").read_bytes()[:100]),
        "no private key in PEM can be read from it",
    ),
    "an empty key": (lambda folder: (folder / "key.pem").write_bytes(b""), "no private key in PEM"),
    "another's key": (
        lambda folder: (folder / "key.pem").write_bytes(
            make_certificate(_made(folder / "other"), name="x")[1].read_bytes()
        ),
        "the key is not the certificate's",
    ),
    "a key with a password": (
        lambda folder: make_certificate(folder, name="x", password=b"secret"),
        "the key has a password",
    ),
    "an old certificate": (
        lambda folder: make_certificate(folder, name="x", begins=-2 * DAY, ends=-DAY),
        "it expired on ",
    ),
    "one that is not valid yet": (
        lambda folder: make_certificate(folder, name="x", begins=DAY, ends=2 * DAY),
        "it is not valid before ",
    ),
}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("spoil", "reason"), SPOILED.values(), ids=SPOILED)
async def test_a_bad_pair_is_one_clear_line_at_the_start_and_changes_nothing_later(
    cert_file: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    trust = trusting(cert_file)
    async with serving(hello, **files(cert_file)) as listener:
        spoil(cert_file.parent)
        with pytest.raises(ConfigurationProblems) as caught:
            listener.prepare_certificate()
        (line,) = caught.value.problems
        key_file = cert_file.with_name("key.pem")
        assert line.startswith(f"http: cannot use certificate {cert_file} with key {key_file}: {reason}")
        async with connected(listener, ssl=trust) as client:
            await client.say(request())
            assert (await client.answer()).body == b"https"
        with pytest.raises(ConfigurationProblems):
            await Listener(hello, host="127.0.0.1", port=0, name="http", **files(cert_file)).start()


async def test_one_file_may_hold_both(cert_file: Path) -> None:
    both = cert_file.with_name("both.pem")
    both.write_bytes(b"".join(file.read_bytes() for file in (cert_file.with_name("key.pem"), cert_file)))
    async with (
        serving(hello, tls_cert_file=str(both)) as listener,
        connected(listener, ssl=trusting(cert_file)) as client,
    ):
        await client.say(request())
        assert (await client.answer()).body == b"https"


def test_a_certificate_says_until_when_it_is_valid(cert_file: Path) -> None:
    certificates = Certificates(cert_file=str(cert_file), key_file=str(cert_file.with_name("key.pem")), name="http")
    with pytest.raises(RuntimeError, match="no certificate"):
        _ = certificates.current
    expires = certificates.read().expires
    assert abs(expires - datetime.datetime.now(datetime.UTC) - DAY) < datetime.timedelta(hours=1)
    with pytest.raises(ConfigurationProblems, match=r"expired on .* UTC; renew it"):
        certificates.read(now=expires)


def test_gateway_check_tells_of_the_certificate(cert_file: Path, tmp_path: Path) -> None:
    def finding() -> tuple[bool, str]:
        named = {"http.tls_cert_file": cert_file, "http.tls_key_file": cert_file.with_name("key.pem")}
        options = [f"--set={name}={value}" for name, value in {**named, "data.dir": tmp_path / "data"}.items()]
        result = CliRunner().invoke(main, ["check", "--format", "json", *options])
        (found,) = [one for one in json.loads(result.stdout)["checks"] if one["name"] == "certificate"]
        return found["ok"], found["details"][0]

    ok, detail = finding()
    assert ok
    assert re.fullmatch(rf"{cert_file}, valid until \d{{4}}-\d\d-\d\d \d\d:\d\d UTC", detail)
    make_certificate(cert_file.parent, name="x", begins=-2 * DAY, ends=-DAY)
    ok, detail = finding()
    assert not ok
    assert "it expired on" in detail


async def test_a_port_without_tls_has_nothing_to_read_again() -> None:
    async with serving(hello) as listener:
        listener.prepare_certificate()()
        assert listener.certificate is None
