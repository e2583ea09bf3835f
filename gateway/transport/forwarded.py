"""Whose request it is when proxies stand between: the address that the last trusted one saw, and over which scheme."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Headers = Iterable[tuple[bytes, bytes]]

MAX_HOPS: Final = 32
"""Proxies walked through at most, counted from us; whoever stands behind more is not known."""

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rf'\s*({_WORD})=(?:({_WORD})|"([^"\\]*)")\s*')
_NODE = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([0-9.]+)(?::\d{1,5})?|([0-9A-Fa-f:.]+)")
_SCHEMES = frozenset({"http", "https"})
_SECURE = {"http": {"http": "http", "https": "https"}, "websocket": {"http": "ws", "https": "wss"}}


@dataclass(frozen=True, slots=True)
class Hop:
    """What one proxy said of who came to it; None where it said nothing that can be read."""

    address: Address | None
    scheme: str | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent a request, as far as trusted proxies vouch for it."""

    address: str
    """In its shortest form; an IPv4 address that came through an IPv6 socket is an IPv4 address."""
    scheme: str | None
    """``http`` or ``https``, as the outermost trusted proxy was asked; None where none said so."""


class TrustedProxies:
    """The rule: of a chain of proxies, only what a trusted one added counts.

    Each proxy adds who came to it at the right end, so the chain is walked from the right for as long as the one who
    speaks is trusted. The first address that is none of ours is the client, whatever stands to its left: that part is
    the client's own word. What cannot be read ends the walk at the proxy that passed it on.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        """Addresses or networks, of both families. Raises ValueError for anything else."""
        self._networks = [ipaddress.ip_network(one, strict=False) for one in networks]

    def trusts(self, address: Address) -> bool:
        return any(address.version == one.version and address in one for one in self._networks)

    def client(self, peer: str, headers: Headers) -> Client:
        """Who it is that came over a connection from ``peer``. Never raises for anything that a peer can send.

        ``Forwarded`` and ``X-Forwarded-For`` that name different clients are both left alone, and the peer stands for
        whoever it is: most proxies write one of them and pass the other one on as the client wrote it.
        """
        address = parse_address(peer)
        if address is None:
            return Client(peer, None)
        alone = Client(str(address), None)
        if not self.trusts(address):
            return alone
        found = {self._walk(address, hops) for hops in (read_forwarded(headers), read_x_forwarded(headers)) if hops}
        if len({client.address for client in found}) > 1:
            return alone
        schemes = {client.scheme for client in found if client.scheme}
        scheme = schemes.pop() if len(schemes) == 1 else None
        return Client(next(iter(found)).address, scheme) if found else alone

    def _walk(self, peer: Address, hops: Sequence[Hop]) -> Client:
        """``hops`` in the order of the header; the last one is what ``peer`` said."""
        nearest, scheme = peer, None
        for hop in hops[: -MAX_HOPS - 1 : -1]:
            scheme = hop.scheme or scheme
            if hop.address is None:
                break
            nearest = hop.address
            if not self.trusts(nearest):
                break
        return Client(str(nearest), scheme)


class ClientNaming:
    """ASGI: ``scope["client"]`` and ``scope["scheme"]`` of requests that come through trusted proxies.

    Nothing else of what a proxy says is used: no link is built from a request, so its host does not matter.
    """

    def __init__(self, app: ASGIApp, *, trusted: TrustedProxies) -> None:
        self._app = app
        self._trusted = trusted

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine for what only passes on, and no copy where nothing changes: both would stay as long as a stream.
        if scope["type"] in ("http", "websocket") and scope.get("client"):
            peer, port = scope["client"]
            client = self._trusted.client(peer, scope["headers"])
            if client.address != peer or client.scheme is not None:
                # The port was the last proxy's and says nothing of the client's.
                scope = {**scope, "client": (client.address, port if client.address == peer else 0)}
            if client.scheme is not None:
                scope["scheme"] = _SECURE[scope["type"]][client.scheme]
        return self._app(scope, receive, send)


def parse_address(text: str) -> Address | None:
    """An IP address without port, brackets or zone; None for anything else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def parse_node(text: str) -> Address | None:
    """A node (RFC 7239 §6) or an entry of X-Forwarded-For: an address with or without port; None for names."""
    found = _NODE.fullmatch(text)
    return parse_address(found[1] or found[2] or found[3]) if found else None


def read_forwarded(headers: Headers) -> list[Hop]:
    """The hops of ``Forwarded`` (RFC 7239 §4), all lines as one; an element that cannot be read is a hop unknown.

    It is cut at every comma and semicolon, within quotes too: no address and no scheme holds one, and a client that
    opens a quote and leaves it open must not swallow what its proxy adds.
    """
    return [_hop(element) for element in _elements(headers, b"forwarded")]


def _hop(element: str) -> Hop:
    pairs: dict[str, str] = {}
    for part in element.split(";"):
        pair = _PAIR.fullmatch(part)
        if pair is None or pair[1].lower() in pairs:
            return Hop(None)
        pairs[pair[1].lower()] = pair[2] or pair[3] or ""
    scheme = pairs.get("proto", "").lower()
    return Hop(parse_node(pairs.get("for", "")), scheme if scheme in _SCHEMES else None)


def read_x_forwarded(headers: Headers) -> list[Hop]:
    """The hops of ``X-Forwarded-For``, with ``X-Forwarded-Proto`` where it has one value or one for each."""
    nodes = _elements(headers, b"x-forwarded-for")
    schemes = [scheme.lower() for scheme in _elements(headers, b"x-forwarded-proto")]
    if len(schemes) == 1:
        schemes *= len(nodes)
    if len(schemes) != len(nodes) or not _SCHEMES.issuperset(schemes):
        schemes = [""] * len(nodes)
    return [Hop(parse_node(node), scheme or None) for node, scheme in zip(nodes, schemes, strict=True)]


def _elements(headers: Headers, name: bytes) -> list[str]:
    """What is between the commas and not blank, in all lines of this name."""
    text = ",".join(value.decode("latin-1") for given, value in headers if given == name)
    return [element for part in text.split(",") if (element := part.strip())]
