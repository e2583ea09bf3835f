"""The management port under TLS: who shows no certificate of the operator's authority gets no byte of an answer."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import load_settings
from gateway.errors import ConfigurationProblems
from gateway.server.loop import LoopName, run_loop
from gateway.server.tls import Certificates
from tests.parts.certificates import DAY, Authority, make_authority, make_certificate, trusting
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.serving import LOOPS, connected, request, serving, until

ADMIN_TOKEN = "an-operators-secret-of-some-length"


@pytest.fixture
def cert_file(tmp_path: Path) -> Path:
    return make_certificate(tmp_path, name="gateway")[0]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path, name="operators")


def showing(cert_file: Path, client: Path | None) -> ssl.SSLContext:
    """A client that trusts the gateway's certificate and shows its own."""
    context = trusting(cert_file)
    if client is not None:
        context.load_cert_chain(client)
    return context


def files(cert_file: Path, authority: Authority) -> dict[str, str]:
    return {
        "tls_cert_file": str(cert_file),
        "tls_key_file": str(cert_file.with_name("key.pem")),
        "tls_client_ca_file": str(authority.cert_file),
    }


class Counting:
    """An app that knows how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def is_let_in(listener: Any, context: ssl.SSLContext) -> bool:
    """Whether a request over a new connection is answered."""
    try:
        async with asyncio.timeout(30), connected(listener, ssl=context) as client:
            await client.say(request())
            return (await client.answer()).body == b"ok"
    except (OSError, asyncio.IncompleteReadError):
        # TLS 1.3 tells a client that its certificate is missing only after the client's own handshake is done.
        return False


@pytest.mark.parametrize("loop", LOOPS)
def test_only_who_shows_a_certificate_of_the_authority_is_let_in(
    loop: LoopName, cert_file: Path, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "others").mkdir()
    stranger = make_authority(tmp_path / "others", name="operators")
    shown: dict[str, tuple[Path | None, bool]] = {
        "a good one": (authority.client("ann"), True),
        "none": (None, False),
        "one of another authority of the same name": (stranger.client("ann"), False),
        "one that has expired": (authority.client("old", ends=-DAY), False),
    }
    make_certificate(tmp_path / "others", name="operators")
    combined = tmp_path / "others" / "itself.pem"
    combined.write_bytes(b"".join((tmp_path / "others" / name).read_bytes() for name in ("cert.pem", "key.pem")))
    shown["the authority's word for itself"] = (combined, False)

    async def look() -> None:
        app = Counting()
        async with serving(app, **files(cert_file, authority)) as listener:
            for name, (client, is_good) in shown.items():
                before = app.asked
                assert await is_let_in(listener, showing(cert_file, client)) is is_good, name
                assert app.asked - before == is_good, name
            older = showing(cert_file, authority.client("older"))
            older.maximum_version = ssl.TLSVersion.TLSv1_2
            assert not await is_let_in(listener, older)
            # Refused connections are gone, not kept.
            await until(lambda: listener.connections == 0, within_seconds=60)

    run_loop(look(), loop=loop)


async def test_another_authority_counts_from_the_reload_on_also_for_who_was_in_before(
    cert_file: Path, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "later").mkdir()
    later = make_authority(tmp_path / "later", name="later")
    ann, bob = showing(cert_file, authority.client("ann")), showing(cert_file, later.client("bob"))
    async with (
        serving(Counting(), **files(cert_file, authority)) as listener,
        connected(listener, ssl=ann) as before,
    ):
        await before.say(request())
        assert (await before.answer()).body == b"ok"
        assert not await is_let_in(listener, bob)
        authority.cert_file.write_bytes(later.cert_file.read_bytes())
        take = listener.prepare_certificate()
        assert not await is_let_in(listener, bob), "read is not yet taken"
        take()
        assert await is_let_in(listener, bob)
        assert not await is_let_in(listener, ann)
        await before.say(request())
        assert (await before.answer()).body == b"ok", "what is open goes on"


def test_no_session_is_taken_up_again_without_its_certificate(cert_file: Path, authority: Authority) -> None:
    """A ticket from before a change of the authorities would bring in who is none of theirs any more."""
    ann = showing(cert_file, authority.client("ann"))

    def dial(port: int, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            ann.wrap_socket(plain, server_hostname="localhost", session=session) as client,
        ):
            client.sendall(request())
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            return bool(client.session_reused), client.session

    async def look() -> None:
        async with serving(Counting(), **files(cert_file, authority)) as listener:
            _, session = await asyncio.to_thread(dial, listener.port, None)
            assert session is None or not session.has_ticket
            assert (await asyncio.to_thread(dial, listener.port, session))[0] is False

    asyncio.run(look())


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda file: file.unlink(), "No such file or directory"),
    "no certificate": (lambda file: file.write_text("-----BEGIN NOTHING"), "no certificate in PEM in it"),
    "an empty one": (lambda file: file.write_bytes(b""), "no certificate in PEM in it"),
    "half of one": (lambda file: file.write_bytes(file.read_bytes()[:200]), "no certificate in PEM in it"),
    "one that has expired": (
        lambda file: file.write_bytes(
            make_certificate(file.parent, name="x", begins=-2 * DAY, ends=-DAY)[0].read_bytes()
        ),
        "the last in it expired on ",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILED.values(), ids=SPOILED)
def test_a_file_without_an_authority_is_one_clear_line(
    tmp_path: Path, authority: Authority, spoil: Callable[[Path], object], reason: str
) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    cert_file, key_file = make_certificate(folder, name="gateway")
    spoil(authority.cert_file)
    certificates = Certificates(
        cert_file=str(cert_file), key_file=str(key_file), client_ca_file=str(authority.cert_file), name="admin"
    )
    with pytest.raises(ConfigurationProblems) as caught:
        certificates.read()
    (line,) = caught.value.problems
    assert line.startswith(f"admin: cannot use {authority.cert_file} for clients' certificates: {reason}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("tls_client_ca_file",), "tls_client_ca_file needs tls_cert_file and tls_key_file"),
        (("tls_cert_file",), "tls_cert_file and tls_key_file must be given together"),
        (("tls_key_file", "tls_client_ca_file"), "tls_cert_file and tls_key_file must be given together"),
    ],
)
def test_half_of_the_settings_is_a_configuration_error(given: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationProblems, match=said):
        load_settings(None, environ={}, overrides={f"admin.{name}": "/x.pem" for name in given})


async def test_a_gateway_keeps_its_management_port_to_its_operators(
    kafka: Kafka, tmp_path: Path, cert_file: Path, authority: Authority
) -> None:
    given = files(cert_file, authority)
    deployment = Deployment(
        tmp_path / "d",
        kafka.bootstrap,
        [contract("none", "no-topic")],
        settings={"admin": {"port": 0, "tokens": [ADMIN_TOKEN], **given}},
    )
    ann, nobody = showing(cert_file, authority.client("ann")), showing(cert_file, None)
    gateway = GatewayProcess(deployment, "a")
    gateway.start(wait_ready=False)
    try:
        base = gateway.admin_url.replace("http:", "https:")

        def ask(path: str, context: ssl.SSLContext, *, token: str | None = None) -> int:
            asked = urllib.request.Request(base + path, headers={"Authorization": f"Bearer {token}"} if token else {})
            with urllib.request.urlopen(asked, timeout=30, context=context) as answer:
                return int(answer.status)

        assert await asyncio.to_thread(ask, "/livez", ann) == 200
        assert await asyncio.to_thread(ask, "/admin/streams", ann, token=ADMIN_TOKEN) == 200
        for path in ("/livez", "/metrics", "/admin/streams"):
            with pytest.raises(OSError, match=r"certificate required|closed|reset|EOF"):
                await asyncio.to_thread(ask, path, nobody, token=ADMIN_TOKEN)
        with pytest.raises(OSError, match="401"):
            await asyncio.to_thread(ask, "/admin/streams", ann)

        authority.cert_file.write_text("nothing")
        gateway.signal(signal.SIGHUP)
        await eventually(lambda: "for clients' certificates: no certificate in PEM in it" in gateway.log())
        assert await asyncio.to_thread(ask, "/livez", ann) == 200, "refused as a whole"
    finally:
        gateway.stop()


def test_gateway_check_tells_of_the_authorities(tmp_path: Path, cert_file: Path, authority: Authority) -> None:
    given = files(cert_file, authority)
    authority.cert_file.write_text("nothing")
    named = [f"--set=admin.{name}={value}" for name, value in given.items()]
    result = CliRunner().invoke(main, ["check", "--format", "json", *named, f"--set=data.dir={tmp_path / 'data'}"])
    (found,) = [one for one in json.loads(result.stdout)["checks"] if one["name"] == "admin certificate"]
    assert not found["ok"]
    assert "for clients' certificates" in found["details"][0]
