"""Who a request came from: what trusted proxies say counts, what anybody else says does not."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transport.forwarded import MAX_HOPS, Client, ClientNaming, TrustedProxies, parse_address, parse_node
from tests.parts.gateway import Deployment, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import Partner
from tests.parts.ports import free_port

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.7", "2001:db8:aa::/48"])
PROXY = "10.0.0.1"


def said(**lines: str | list[str]) -> list[tuple[bytes, bytes]]:
    """Headers as a server hands them over; ``x_forwarded_for="…"``."""
    return [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, values in lines.items()
        for value in ([values] if isinstance(values, str) else values)
    ]


def address(peer: str, **lines: str | list[str]) -> str:
    return PROXIES.client(peer, said(**lines)).address


def test_without_headers_the_peer_is_the_client() -> None:
    assert PROXIES.client("203.0.113.5", []) == Client("203.0.113.5", None)
    assert PROXIES.client(PROXY, []) == Client(PROXY, None)


@pytest.mark.parametrize("peer", ["203.0.113.5", "2001:db8:ab::1", "unix", ""])
def test_a_peer_that_is_not_trusted_says_nothing(peer: str) -> None:
    headers = said(x_forwarded_for="1.1.1.1", forwarded="for=1.1.1.1", x_forwarded_proto="https")
    assert PROXIES.client(peer, headers) == Client(peer, None)


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("1.1.1.1", "1.1.1.1"),
        ("1.1.1.1, 2.2.2.2", "2.2.2.2"),
        ("1.1.1.1, 2.2.2.2, 10.9.9.9", "2.2.2.2"),
        ("1.1.1.1,10.9.9.9 ,\t192.0.2.7", "1.1.1.1"),
        ("10.9.9.9, 10.8.8.8", "10.9.9.9"),
        ("1.1.1.1, 2001:db8:aa::5", "1.1.1.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("1.1.1.1:4711", "1.1.1.1"),
        ("::ffff:1.1.1.1", "1.1.1.1"),
        ("9.9.9.9, ::ffff:10.1.1.1", "9.9.9.9"),
        (", , 1.1.1.1, ", "1.1.1.1"),
    ],
)
def test_the_rightmost_that_is_not_trusted_is_the_client(chain: str, client: str) -> None:
    assert address(PROXY, x_forwarded_for=chain) == client
    assert address(f"::ffff:{PROXY}", x_forwarded_for=chain) == client
    assert address("2001:db8:aa::1", x_forwarded_for=chain.split(",")) == client


@pytest.mark.parametrize(
    "chain",
    [
        "unknown",
        "_hidden",
        "1.1.1",
        "1.1.1.1.1",
        "300.1.1.1",
        "::g",
        "[::1",
        "fe80::1%eth0",
        "01.1.1.1",
        "-",
        "\xff\x00",
        "1.1.1.1:999999",
        "http://1.1.1.1",
        "9.9.9.9, nonsense",
        '"1.1.1.1"',
        "1.1.1.1;x",
        "9" * 5000,
    ],
)
def test_what_cannot_be_read_leaves_the_one_who_passed_it_on(chain: str) -> None:
    assert address(PROXY, x_forwarded_for=chain) == PROXY
    assert address(PROXY, x_forwarded_for=f"{chain}, 10.2.2.2") == "10.2.2.2"
    assert address(PROXY, x_forwarded_for=f"{chain}, 8.8.8.8") == "8.8.8.8"


@pytest.mark.parametrize(
    ("header", "client", "scheme"),
    [
        ("for=1.1.1.1", "1.1.1.1", None),
        ("For=1.1.1.1;Proto=HTTPS;by=10.0.0.1", "1.1.1.1", "https"),
        ('for="[2001:db8::1]:4711";proto=http', "2001:db8::1", "http"),
        ('for="1.1.1.1:80" ; host="x:80"', "1.1.1.1", None),
        ("for=1.1.1.1, for=2.2.2.2;proto=https, for=10.1.1.1;proto=http", "2.2.2.2", "https"),
        ("for=1.1.1.1;proto=https, for=10.1.1.1", "1.1.1.1", "https"),
        ("for=1.1.1.1, proto=https;for=unknown", PROXY, "https"),
        ("for=_secret;proto=gopher", PROXY, None),
        ("for=1.1.1.1;for=2.2.2.2", PROXY, None),
        ("for = 1.1.1.1", PROXY, None),
        ("1.1.1.1", PROXY, None),
        ("for=2001:db8::1", PROXY, None),
        ("proto=https", PROXY, "https"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_writes_it(header: str, client: str, scheme: str | None) -> None:
    assert PROXIES.client(PROXY, said(forwarded=header)) == Client(client, scheme)


@pytest.mark.parametrize(
    "planted",
    ['for="', 'for=6.6.6.6;x="', 'x="\\', "for=6.6.6.6;by=(", "for=6.6.6.6,", ",;,;", 'for="6.6.6.6', "\x00", 'y="a;b'],
)
def test_a_client_cannot_swallow_or_bend_what_its_proxy_adds(planted: str) -> None:
    honest = ['for="[2001:db8::9]";proto=https', "for=9.9.9.9;proto=https"]
    for added, client in zip(honest, ("2001:db8::9", "9.9.9.9"), strict=True):
        # In one line, as most proxies append; or in a line of the proxy's own.
        assert PROXIES.client(PROXY, said(forwarded=f"{planted}, {added}")) == Client(client, "https")
        assert PROXIES.client(PROXY, said(forwarded=[planted, added])) == Client(client, "https")


@pytest.mark.parametrize(
    ("nodes", "schemes", "scheme"),
    [
        ("1.1.1.1", "https", "https"),
        ("9.9.9.9, 1.1.1.1, 10.1.1.1", "https", "https"),
        ("9.9.9.9, 1.1.1.1, 10.1.1.1", "http, https, http", "https"),
        ("1.1.1.1", "http, https", None),
        ("1.1.1.1", "ftp", None),
        ("1.1.1.1", "", None),
    ],
)
def test_the_scheme_is_what_the_outermost_trusted_proxy_was_asked_over(
    nodes: str, schemes: str, scheme: str | None
) -> None:
    headers = said(x_forwarded_for=nodes, x_forwarded_proto=schemes)
    assert PROXIES.client(PROXY, headers) == Client("1.1.1.1", scheme)


def test_two_headers_that_contradict_each_other_are_both_left_alone() -> None:
    assert address(PROXY, forwarded="for=6.6.6.6", x_forwarded_for="1.1.1.1") == PROXY
    assert address(PROXY, forwarded="for=1.1.1.1", x_forwarded_for="6.6.6.6, 1.1.1.1") == "1.1.1.1"


def test_a_chain_is_walked_so_far_and_no_further() -> None:
    assert address(PROXY, x_forwarded_for=", ".join(["1.1.1.1"] + ["10.1.1.1"] * (MAX_HOPS - 1))) == "1.1.1.1"
    assert address(PROXY, x_forwarded_for=", ".join(["1.1.1.1"] + ["10.1.1.1"] * MAX_HOPS)) == "10.1.1.1"


LINE = st.text(alphabet='for=prto;,"\\[]:.0123456789abcdef_% ', max_size=80) | st.binary(max_size=40).map(
    lambda raw: raw.decode("latin-1")
)


@given(planted=st.lists(LINE, max_size=4), client=st.ip_addresses())
def test_whatever_a_client_plants_its_proxys_word_is_the_last(planted: list[str], client: Any) -> None:
    wanted = str(parse_address(str(client)))
    if PROXIES.trusts(parse_address(str(client)) or client):
        return
    node = f'"[{client}]"' if client.version == 6 else str(client)
    assert address(PROXY, forwarded=[*planted, f"for={node}"]) == wanted
    assert address(PROXY, x_forwarded_for=[*planted, str(client)]) == wanted


@given(text=LINE)
def test_no_text_is_taken_for_an_address_that_is_none(text: str) -> None:
    found = parse_node(text)
    assert found is None or re.fullmatch(r"[0-9a-f.:]+", str(found))


@pytest.mark.parametrize(("kind", "scheme", "wanted"), [("http", "http", "https"), ("websocket", "ws", "wss")])
async def test_an_app_sees_the_client_and_the_scheme_and_no_port_of_anothers(
    kind: str, scheme: str, wanted: str
) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"], scope["scheme"], scope["headers"]))

    named: Any = ClientNaming(app, trusted=PROXIES)
    headers = said(x_forwarded_for="1.1.1.1", x_forwarded_proto="https", x_forwarded_host="evil.example")
    scope = {"type": kind, "scheme": scheme, "headers": headers, "client": (PROXY, 4711)}
    await named(scope, None, None)
    await named({**scope, "client": ("8.8.8.8", 4711)}, None, None)
    await named({**scope, "client": None}, None, None)
    assert seen == [
        (("1.1.1.1", 0), wanted, headers),
        (("8.8.8.8", 4711), scheme, headers),
        (None, scheme, headers),
    ]
    assert scope["client"] == (PROXY, 4711)


def test_networks_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        TrustedProxies(["example.com"])


@pytest.mark.parametrize(("trusted", "client"), [(["127.0.0.0/8"], "198.51.100.77"), (["10.0.0.0/8"], "127.0.0.1")])
async def test_the_access_log_names_who_a_trusted_proxy_names_and_links_stay_ours(
    kafka: Kafka, tmp_path: Path, trusted: list[str], client: str
) -> None:
    port = free_port()
    settings = {"http": {"port": port, "trusted_proxies": trusted, "public_url": "https://streams.example"}}
    # Nothing is read: the topic need not be there.
    documents = [contract("one", f"forwarded-{uuid.uuid4().hex}")]
    deployment = Deployment(tmp_path, kafka.bootstrap, documents, settings=settings)
    with deployment.gateway() as gateway:
        partner = Partner(f"http://127.0.0.1:{port}", deployment.token()).as_(
            deployment.token(),
            X_Forwarded_For="6.6.6.6, 198.51.100.77",
            X_Forwarded_Proto="https",
            X_Forwarded_Host="evil.example",
        )
        answer = await partner.get("/v1/streams")
        assert answer.status_code == 200
        assert "evil.example" not in answer.text

        def lines() -> list[dict[str, Any]]:
            found = (json.loads(line) for line in gateway.log().splitlines() if line.startswith("{"))
            return [line for line in found if line["event"] == "access" and line["route"] == "/v1/streams"]

        await eventually(lambda: bool(lines()))
        assert lines()[0]["client_address"] == client
        assert "evil.example" not in gateway.log()
        assert "6.6.6.6" not in gateway.log()
