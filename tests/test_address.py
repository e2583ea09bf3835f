"""One GET for an issuer's keys against real servers: what is wrong with them is a reason, in time and within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from gateway.auth.address import HttpAddress, KeysUnreachable, fresh_seconds_of
from gateway.auth.apart import Apart
from gateway.auth.keys import MAX_DOCUMENT_BYTES
from tests.parts import keyserver
from tests.parts.certificates import DAY, make_certificate
from tests.parts.kafka import eventually
from tests.parts.keyserver import Behaviour, KeyServer
from tests.parts.ports import free_port

DOCUMENT = json.dumps({"keys": []}).encode()
LONG_SECONDS = 60.0
"""A limit that no good answer meets, on however busy a machine."""


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer() as server:
        server.publish(DOCUMENT)
        yield server


@pytest.fixture
async def apart() -> AsyncIterator[Apart]:
    apart = Apart()
    yield apart
    await apart.close()


@pytest.fixture
def address(apart: Apart) -> Callable[..., HttpAddress]:
    return partial(HttpAddress, apart=apart, timeout_seconds=LONG_SECONDS)


Make = Callable[..., HttpAddress]


async def reason_of(address: Make, server: KeyServer, behave: Behaviour, *, seconds: float = LONG_SECONDS) -> str:
    server.behave = behave
    with pytest.raises(KeysUnreachable) as caught:
        async with asyncio.timeout(LONG_SECONDS):
            await address(server.url, timeout_seconds=seconds).ask()
    reason = str(caught.value)
    assert reason.isascii()
    assert reason.isprintable()
    assert len(reason) < 300
    return reason


async def test_a_document_comes_with_how_long_it_holds(address: Make, server: KeyServer) -> None:
    server.publish(DOCUMENT, Cache_Control="public, max-age=600, must-revalidate", Age="100")
    answer = await address(server.url).ask()
    assert (answer.document, answer.fresh_seconds) == (DOCUMENT, 500)
    (exchange,) = server.exchanges
    head = exchange.head.decode().lower()
    assert head.startswith("get /jwks http/1.1\r\n")
    assert "accept-encoding: identity\r\n" in head
    assert "authorization" not in head
    assert "cookie" not in head


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        (keyserver.endless, "larger than"),
        (keyserver.endless_chunks, "larger than"),
        (keyserver.told_huge, "larger than"),
        (keyserver.endless_head, "no HTTP answer"),
        (keyserver.bomb, "compressed"),
        (keyserver.cut, "no HTTP answer"),
        (keyserver.cut_at_once, "no HTTP answer"),
        (keyserver.not_http, "no HTTP answer"),
        (keyserver.refuse("404 Not Found"), "answers 404; is jwks_url right?"),
        (keyserver.refuse("500 Oops"), "answers 500"),
        (keyserver.refuse("204 No Content"), "answers 204"),
    ],
)
async def test_what_is_no_document_has_a_reason(address: Make, server: KeyServer, behave: Behaviour, said: str) -> None:
    assert said in await reason_of(address, server, behave)
    (exchange,) = server.exchanges
    assert exchange.sent < (64 << 20)


@pytest.mark.parametrize(
    "behave", [keyserver.hang, keyserver.drip_head, keyserver.drip_body, keyserver.endless_informing]
)
async def test_an_answer_that_does_not_end_ends_at_the_limit(
    address: Make, server: KeyServer, behave: Behaviour
) -> None:
    assert await reason_of(address, server, behave, seconds=0.5) in (
        "no whole answer within 0.5 s",
        "no answer in time",
    )


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Again", "308 For Ever", "300 Many"])
async def test_nobody_is_followed_elsewhere(address: Make, server: KeyServer, status: str) -> None:
    with KeyServer() as elsewhere:
        elsewhere.publish(DOCUMENT)
        reason = await reason_of(address, server, keyserver.redirect(elsewhere.url, status))
        assert "redirect; set jwks_url to the address it leads to" in reason
        assert elsewhere.asked == 0
    assert server.asked == 1


async def test_a_document_may_be_as_large_as_one_in_a_file_and_not_larger(address: Make, server: KeyServer) -> None:
    server.publish(b" " * MAX_DOCUMENT_BYTES)
    assert len((await address(server.url).ask()).document) == MAX_DOCUMENT_BYTES
    server.publish(b" " * (MAX_DOCUMENT_BYTES + 1))
    assert "larger than" in await reason_of(address, server, server.behave)


async def test_nobody_listens(address: Make) -> None:
    with pytest.raises(KeysUnreachable, match="cannot connect"):
        await address(f"http://127.0.0.1:{free_port()}/jwks").ask()


async def test_over_tls_the_certificate_must_be_trusted_and_fit(address: Make, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, name="idp")
    with KeyServer(certificate=certificate) as server:
        server.publish(DOCUMENT)
        assert server.url.startswith("https:")
        trusted = address(server.url, ca_file=certificate[0])
        assert (await trusted.ask()).document == DOCUMENT
        with pytest.raises(KeysUnreachable, match=r"not trusted: .*; jwks_ca_file names authorities"):
            await address(server.url).ask()
        elsewhere = server.url.replace("127.0.0.1", "127.0.0.2")
        with pytest.raises(KeysUnreachable):
            await address(elsewhere, ca_file=certificate[0]).ask()
        assert server.asked == 1


async def test_an_old_certificate_is_not_trusted(address: Make, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, name="idp", begins=-2 * DAY, ends=-DAY)
    with KeyServer(certificate=certificate) as server:
        server.publish(DOCUMENT)
        with pytest.raises(KeysUnreachable, match="not trusted"):
            await address(server.url, ca_file=certificate[0]).ask()


async def test_a_plain_server_behind_an_https_address_is_no_answer(address: Make, server: KeyServer) -> None:
    with pytest.raises(KeysUnreachable, match="cannot connect"):
        await address(server.url.replace("http:", "https:")).ask()


@pytest.mark.parametrize("content", [b"no certificate", None])
async def test_a_file_of_authorities_that_is_none_is_named(
    address: Make, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeysUnreachable, match=r"jwks_ca_file .*ca\.pem: not readable as PEM certificates"):
        await address("https://127.0.0.1:1/jwks", ca_file=file).ask()


async def test_authorities_are_read_anew_each_time(address: Make, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    (tmp_path / "own").mkdir()
    certificate = make_certificate(tmp_path / "own", name="idp")
    with KeyServer(certificate=certificate) as server:
        server.publish(DOCUMENT)
        idp = address(server.url, ca_file=ca_file)
        with pytest.raises(KeysUnreachable):
            await idp.ask()
        ca_file.write_bytes(certificate[0].read_bytes())
        assert (await idp.ask()).document == DOCUMENT


async def test_environment_proxies_are_not_used(
    address: Make, server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert (await address(server.url).ask()).document == DOCUMENT


async def test_a_cancelled_request_leaves_nothing_open(address: Make, server: KeyServer) -> None:
    server.behave = keyserver.hang
    asking = asyncio.create_task(address(server.url).ask())
    await eventually(lambda: server.asked == 1)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    assert asking.cancelled()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"cache-control": "max-age=60"}, 60),
        ({"cache-control": "Public,Max-Age=60"}, 60),
        ({"cache-control": 'max-age="60"'}, 60),
        ({"cache-control": "max-age=60", "age": "61"}, 0),
        ({"cache-control": "max-age=60", "age": "old"}, 60),
        ({"cache-control": "max-age=60", "age": "9" * 5000}, 60),
        ({"cache-control": "max-age=" + "9" * 5000}, 999_999_999),
        ({"cache-control": "no-cache"}, None),
        ({"cache-control": "max-age=60, no-store"}, None),
        ({"cache-control": "s-maxage=60"}, None),
        ({"cache-control": "max-age=-1"}, None),
        ({"cache-control": "max-age=soon"}, None),
    ],
)
def test_how_long_an_answer_holds_is_read_from_its_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert fresh_seconds_of(headers) == seconds


async def test_a_context_for_tls_checks_names_and_authorities(address: Make) -> None:
    context = address("https://idp.example/jwks")._context()
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
