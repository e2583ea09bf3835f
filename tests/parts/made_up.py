"""Requests and WebSocket frames made up by a seeded chance, and answers read with nothing taken for granted."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

ANSWER_SECONDS = 40.0
"""Longer than any answer may take; what takes so long hangs."""

READS: Final = {"": "pull", "/records": "pull", "/sse": "sse", "/ndjson": "ndjson"}
LISTS: Final = ("/v1/streams", "/openapi.json", "/asyncapi.json", "/asyncapi.yaml")

_GOOD: Final[Mapping[str, Sequence[str]]] = {
    "from": ("latest", "earliest", "0", "1700000000000", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678+02:00"),
    "on_gap": ("continue", "error"),
    "envelope": ("record", "cloudevents"),
    "shard": ("0/1", "1/3", "63/64"),
    "fields": ("/site", "/level,/count", "/at/x", "/at"),
    "filter": (
        "site:eq:north",
        "level:ge:-1e3",
        "count:in:1,2,3",
        "live:ne:false",
        "site:exists:true",
        "site:prefix:n",
    ),
}
_GOOD_ON_PULL: Final[Mapping[str, Sequence[str]]] = {
    "limit": ("1", "1000"),
    "max_bytes": ("1", "67108864"),
    "wait": ("0", "0.01"),
}
_BAD: Final[Mapping[str, Sequence[str]]] = {
    "from": ("", "yesterday", "-1", "1e3", "2026-02-30T00:00:00Z", "9" * 40, "\0", "\U0001f30d", "NaN", "earliest "),
    "cursor": ("", "AAAA", "a" * 129, "A" * 4000, "../../etc/passwd", "\0", "==", "\u0660"),
    "last_event_id": ("", "0", "AUoo4WGVpk3XwmdIYny_EO3ygvq-JB"),
    "on_gap": ("", "CONTINUE", "null"),
    "envelope": ("", "Record", "none ", "\r\nX: y"),
    "shard": ("", "1", "1/1", "-1/2", "64/64", "0/65", "0x0/1", "1/2/3", "\u0661/2"),
    "fields": ("", "site", "/secret", "/site,", "/" * 200, "/~", "/at/x/" + "/y" * 40, ",".join(["/site"] * 101)),
    "filter": (
        *("", ":::", "site", "secret:eq:s", "site:like:x", "count:eq:1.5", "level:eq:NaN", "live:eq:1"),
        *("site:eq:" + "x" * 1001, "count:in:" + "1," * 100 + "1", "site:in:a\\b", "site:exists:1", "live:prefix:t"),
    ),
    "ticket": ("x",),
    "access_token": ("x",),
    "token": ("",),
    "form": ("latest",),
    "FROM": ("latest",),
    "filter[]": ("site:eq:north",),
    "": ("x",),
    "\0": ("x",),
}
_BAD_ON_PULL: Final[Mapping[str, Sequence[str]]] = {
    "limit": ("", "0", "1001", "-1", "1.0", "1e2", " 1", "\u0661", "9" * 50),
    "max_bytes": ("", "0", "67108865", "1MiB", "-1"),
    "wait": ("", "-0", "31", "30.0000001", "nan", "inf", "1e1", "0x1", "1,5"),
}
_BAD_METHODS: Final = ("POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")
_BAD_ADDRESSES: Final = (
    "/",
    "/v1",
    "/v1/streams/",
    "/v1/streams/sensors/xml",
    "/v1/streams/sensors/sse/",
    "/v2/streams",
)
_BAD_ADDRESSES_MORE: Final = (
    "//v1/streams",
    "/v1/streams/%2e%2e/records",
    "/v1/streams/sensors%2Frecords",
    "/V1/streams",
)
_MEDIA: Final = {"pull": "application/json", "sse": "text/event-stream", "ndjson": "application/x-ndjson"}
_NOISE: Final = (
    "X-Correlation-Id: <script>",
    "X-Forwarded-For: ' or 1=1 --",
    "X-Forwarded-Host: elsewhere.example",
    "Forwarded: host=elsewhere.example;proto=gopher",
    "Cookie: session=x",
    "Range: bytes=0-1",
    "If-None-Match: nothing",
    "If-Modified-Since: yesterday",
    "Accept-Encoding: gzip, br, zstd",
    "Accept-Language: \xff\xfe",
    "TE: trailers",
    "User-Agent: " + "x" * 3000,
    "Expect: nonsense",
    "Content-Type: application/json; charset=\x80",
    "X-HTTP-Method-Override: DELETE",
)


@dataclass(frozen=True)
class Request:
    """``raw`` bytes, and what they must be answered with: ``faults`` name all that is wrong, none means success."""

    raw: bytes
    kind: str
    method: str
    faults: tuple[str, ...]


def sensible_request(chance: random.Random, tokens: Mapping[str, str]) -> Request:
    """A request for a documented address with no fault, one, or several. ``tokens``: the good one, and others."""
    method, address = "GET", chance.choice([*LISTS, *[f"/v1/streams/sensors{suffix}" for suffix in READS] * 3])
    kind = READS.get(address.removeprefix("/v1/streams/sensors"), "list" if address == LISTS[0] else "document")
    wanted = 0 if chance.random() < 0.3 else chance.choice((1, 1, 1, 2, 3))
    possible = ["method", "address", "token", "parameter", "twice", "too many", "accept", "origin", "header", "host"]
    faults = chance.sample(possible, wanted)
    pairs = _parameters(chance, kind, faults)
    lines = chance.sample(_NOISE, chance.randint(0, 2))
    if "method" in faults:
        method = chance.choice(_BAD_METHODS)
    if "address" in faults:
        address = chance.choice(_BAD_ADDRESSES + _BAD_ADDRESSES_MORE)
    if "token" in faults and (kind != "document" or chance.random() < 0.8):
        name = chance.choice([one for one in tokens if one != "good" and (one or kind != "document")])
        lines += [f"Authorization: {tokens[name]}"] if name else []
    elif kind != "document" or chance.random() < 0.5 or "origin" in faults:
        lines.append(f"Authorization: Bearer {tokens['good']}")
        if "token" in faults:
            lines.append(f"Authorization: Bearer {tokens['good']}")
    elif "token" in faults:
        lines.append("Authorization: Basic eDp5")
    if "accept" in faults:
        lines.append(f"Accept: {chance.choice(('image/png', 'text/html;q=1', 'text/event-stream;q=2', '*/*;q=0'))}")
    elif kind in _MEDIA and (kind != "pull" or chance.random() < 0.5):
        lines.append(f"Accept: {_MEDIA[kind]}")
    if "origin" in faults:
        lines.append(f"Origin: {chance.choice(('https://elsewhere.example', 'null', '', 'file://', 'x' * 900))}")
    if "header" in faults:
        lines.append(
            chance.choice(("X: " + "y" * 8200, "\r\n".join(f"X-{n}: y" for n in range(101)), "No colon", " fold: x"))
        )
    hosts = chance.choice((0, 2)) if "host" in faults else 1
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
    body = chance.choice((b"", b"", b"", b"{}", b"\xff" * 500))
    lines += [f"Content-Length: {len(body)}"] if body or chance.random() < 0.3 else []
    chance.shuffle(lines)
    target = address + ("?" + query if query else "")
    head = [f"{method} {target} HTTP/1.1", *["Host: gateway.example"] * hosts, *lines, "", ""]
    return Request("\r\n".join(head).encode("latin-1") + body, kind, method, tuple(faults))


def _parameters(chance: random.Random, kind: str, faults: Sequence[str]) -> list[tuple[str, str]]:
    good: dict[str, Sequence[str]] = {}
    bad: dict[str, Sequence[str]] = dict(_BAD)
    if kind == "list":
        good = {"limit": ("1", "1000"), "next": ("a", "zzz")}
        bad = {"limit": ("0", "", "1001"), "next": ("",), "from": ("latest",), "\ufffd": ("x",)}
    elif kind == "document":
        bad = {"format": ("json",), "": ("",), "stream": ("numbers",)}
    elif kind == "pull":
        good, bad = {**_GOOD, **_GOOD_ON_PULL}, {**_BAD, **_BAD_ON_PULL}
    else:
        good, bad = dict(_GOOD), {**_BAD, "limit": ("1",), "max_bytes": ("1",), "wait": ("0",)}
    chosen = chance.sample(sorted(good), chance.randint(0, min(3, len(good))))
    pairs = [(name, chance.choice(good[name])) for name in chosen]
    if "parameter" in faults:
        name = chance.choice(sorted(bad))
        pairs = [pair for pair in pairs if pair[0] != name] + [(name, chance.choice(bad[name]))]
    if "twice" in faults:
        # Of the parameter that may repeat, too often; where there is no parameter at all, any will do.
        name = chance.choice([one for one in good if one != "filter"] or ["from"])
        pairs = [pair for pair in pairs if pair[0] != name] + [(name, good.get(name, ("latest",))[0])] * 2
    if "too many" in faults:
        pairs += [("filter", "site:ne:x")] * chance.choice((21, 101, 250)) if kind in _MEDIA else [("x", "1")] * 101
    chance.shuffle(pairs)
    return pairs


def _words(text: str, *more: str) -> list[str]:
    return [*text.split(), *more]


_PIECES: Final = {
    "path": _words("/ v1 streams numbers sse records ndjson ws .. %2e%2e %00 %ff {x} * %F0%9F%8C%8D rows gone hidden")
    + _words("; @ % admin readyz null openapi.json asyncapi.yaml", "a" * 500),
    "name": _words("from cursor last_event_id on_gap envelope limit max_bytes wait %00 filter fields shard", ""),
    "value": _words("latest earliest 0 -0 1e9 %ff%fe %00 2026-02-30T00:00:00Z + %2B 9999999999999 '-- %u0041 null 1")
    + _words("2026-11-22T10:00:00%2002:00 [] 0001-01-01T00:00:00Z 0/2 /n n:eq:1", "A" * 2000),
    "method": _words("GET GET GET GET GET GET GET GET HEAD POST OPTIONS DELETE PUT"),
    "header": _words("Accept Last-Event-ID X-Correlation-Id Origin Range If-None-Match Expect Upgrade Accept-Encoding")
    + _words("Connection Sec-WebSocket-Version Authorization Cookie"),
    "text": _words(
        "*/* text/event-stream application/json;q= \xff\xfe bytes=0-1 keep-alive ,,, ;q=1 Bearer 13 websocket"
    )
    + _words("text/*;q=2 application/x-ndjson", "", "a" * 3000, "Bearer x", "Basic eA==", "\tx\t"),
}


def wild_request(chance: random.Random, token: str) -> bytes:
    """A request that HTTP would call one, with nothing sensible in it but by accident."""

    def some(what: str, most: int) -> list[str]:
        return [chance.choice(_PIECES[what]) for _ in range(chance.randint(0, most))]

    path = "/v1/streams/numbers/records" if chance.random() < 0.5 else "/" + "/".join(some("path", 5))
    query = "&".join(f"{name}={chance.choice(_PIECES['value'])}" for name in some("name", 4))
    lines = [f"{name}: {chance.choice(_PIECES['text'])}" for name in some("header", 4)]
    if chance.random() < 0.8:
        lines.append(f"Authorization: Bearer {token}")
    target = f"{path}?{query}".replace(" ", "%20") if query else path
    head = [f"{chance.choice(_PIECES['method'])} {target} HTTP/1.1", "Host: x", "Content-Length: 0", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


def damaged(chance: random.Random, raw: bytes) -> bytes:
    """The request with a few bytes changed, taken out or put in."""
    found = bytearray(raw)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(found))
        what = chance.randrange(4)
        if what == 0:
            found[at] = chance.randrange(256)
        elif what == 1:
            del found[at : at + chance.randint(1, 20)]
        elif what == 2:
            found[at:at] = chance.choice(
                (b"\r\n", b"\n", b"\0", b"\xff", b": ", b" ", b"\r\n\r\n", b"Content-Length: 9\r\n")
            )
        else:
            found[at:at] = found[at : at + chance.randint(1, 60)]
    return bytes(found)


# ---- answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """``body`` is whole where its length was told, else what came first of it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def ask(host: str, port: int, raw: bytes, *, method: str = "GET", ends: bool = False) -> Answer | None:
    """The answer; None where the connection was closed without one. ``ends``: nothing more is ever sent."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            writer.write(raw)
            if ends:
                writer.write_eof()
            return await _answer(reader, method)
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    finally:
        writer.transport.abort()


async def _answer(reader: asyncio.StreamReader, method: str) -> Answer:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        if status != 100:
            break
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = b""
    if method != "HEAD" and status not in (101, 204, 304):
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            size = int(await reader.readline(), 16)
            body = await reader.readexactly(size)
    return Answer(status, headers, body)


# ---- WebSocket frames ------------------------------------------------------------------------------------------------

HANDSHAKE: Final = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: gateway.v1",
)
_TEXTS: Final = (
    b'{"type":"pause"}',
    b'{"type":"resume"}',
    b'{"type":"resume","x":1}',
    b'{"type":"auth","token":"x"}',
    b'{"type":"ack","cursor":"x"}',
    b'{"type":"pause","type":"resume"}',
    b'{"type":null}',
    b'{"type":"\\ud800"}',
    b'{"type":"pause"}\0',
    b"[]",
    b"null",
    b"",
    b"\xff",
    b"\xef\xbb\xbf{}",
    b"[" * 20_000,
    b'{"type":"' + b"x" * 60_000 + b'"}',
    b"9" * 10_000,
)
_CLOSES: Final = (b"", b"\x03", b"\x03\xe8", b"\x03\xe8bye", b"\x03\xed", b"\x13\x88", b"\x0f\xa0", b"\x03\xe8\xff")


def made_up_frames(chance: random.Random) -> tuple[bytes, bytes]:
    """A few frames of a client, now and then one that breaks the protocol among them; and a close frame.

    Nothing may follow that one: who sends on loses what it could have heard.
    """
    sent = [_proper_frame(chance) for _ in range(chance.randint(0, 8))]
    if chance.random() < 0.5:
        sent.insert(chance.randint(0, len(sent)), _broken_frame(chance))
    return b"".join(sent), client_frame(8, chance.choice(_CLOSES))


def _proper_frame(chance: random.Random) -> bytes:
    what = chance.randrange(4)
    if what == 0:
        return client_frame(chance.choice((9, 10)), b"p" * chance.choice((0, 1, 125)))
    if what == 1:
        return client_frame(1, b'{"type":', fin=False) + client_frame(9, b"") + client_frame(0, b'"pause"}')
    return client_frame(chance.choice((1, 1, 1, 2)), chance.choice(_TEXTS))


def _broken_frame(chance: random.Random) -> bytes:
    opcode = chance.choice((0, 1, 2, 3, 7, 9, 10, 11, 15))
    body = chance.choice((b"", b"x", b"\xff\xfe", b"x" * 126, b"x" * 70_000))
    return client_frame(opcode, body, fin=chance.random() < 0.7, rsv=chance.choice((0, 0, 0x40, 0x20, 0x10)))


def client_frame(opcode: int, body: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    """One masked frame."""
    size = len(body)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65_536:
        length = b"\xfe" + struct.pack("!H", size)
    else:
        length = b"\xff" + struct.pack("!Q", size)
    return bytes([(0x80 if fin else 0) | rsv | opcode]) + length + b"\0\0\0\0" + body


def server_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Opcode and body of each frame of a server; raises where one is masked, fragmented, reserved or cut off."""
    found = []
    at = 0
    while at < len(data):
        first, size = data[at], data[at + 1]
        at += 2
        if first & 0x70 or not first & 0x80 or size & 0x80:
            raise ValueError(f"a frame that a server may not send: {data[at - 2 : at + 20]!r}")
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        body = data[at : at + size]
        if len(body) < size:
            raise ValueError("the last frame is cut off")
        at += size
        if first & 0x0F == 1:
            json.loads(body)
        found.append((first & 0x0F, body))
    return found
