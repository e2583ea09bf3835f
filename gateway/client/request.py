"""What a partner asks for: where, which stream, by which protocol, from which place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Self
from urllib.parse import quote, urlencode, urlsplit

from gateway import __version__
from gateway.client.event import Envelope

ProtocolName = Literal["sse", "ws", "ndjson", "pull"]

_SUFFIX: Final = {"sse": "sse", "ws": "ws", "ndjson": "ndjson", "pull": "records"}
_ACCEPT: Final = {"sse": "text/event-stream", "ndjson": "application/x-ndjson", "pull": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRequest:
    """One reading of one stream.

    ``base_url``: of the gateway, http or https, with a path where a proxy puts one before ``/v1``.
    ``start``: the API's ``from``; not sent once there is a ``cursor``. ``parameters``: further query parameters of the
    API, in order. ``silence_seconds``: a connection that brings nothing for so long, heartbeats included, is given up.
    ``wait_seconds``: how long one pull may wait for its first record.
    Raises ValueError for what cannot be asked.
    """

    base_url: str
    stream: str
    protocol: ProtocolName = "sse"
    token: str | None = field(default=None, repr=False)
    start: str | None = None
    cursor: str | None = None
    envelope: Envelope = "record"
    parameters: Sequence[tuple[str, str]] = ()
    silence_seconds: float = 60.0
    open_seconds: float = 15.0
    wait_seconds: int = 20

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.base_url!r} is not an address such as http://127.0.0.1:8080")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("the gateway's address has no user name, no query and no fragment")
        # An impossible port number is a ValueError of its own.
        _ = parts.port
        if not self.stream:
            raise ValueError("a stream has a name")
        if self.token is not None and not all("!" <= character <= "~" for character in self.token):
            raise ValueError("a token is visible ASCII characters, without spaces or line ends")

    @property
    def url(self) -> str:
        """The request's address; its scheme is ws or wss for WebSocket."""
        base = self.base_url.rstrip("/")
        if self.protocol == "ws":
            base = "ws" + base.removeprefix("http")
        query: list[tuple[str, str]] = []
        if self.cursor is not None:
            query.append(("cursor", self.cursor))
        elif self.start is not None:
            query.append(("from", self.start))
        if self.envelope != "record":
            query.append(("envelope", self.envelope))
        if self.protocol == "pull":
            query.append(("wait", str(self.wait_seconds)))
        query += self.parameters
        address = f"{base}/v1/streams/{quote(self.stream, safe='')}/{_SUFFIX[self.protocol]}"
        return f"{address}?{urlencode(query)}" if query else address

    def resumed(self, cursor: str | None) -> Self:
        """The same reading from ``cursor`` on; with None as it is."""
        return self if cursor is None else replace(self, cursor=cursor)

    @property
    def headers(self) -> dict[str, str]:
        """What the protocol and the credential ask for."""
        headers = {"User-Agent": f"streaming-gateway/{__version__}"}
        if self.protocol in _ACCEPT:
            headers["Accept"] = _ACCEPT[self.protocol]
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers
