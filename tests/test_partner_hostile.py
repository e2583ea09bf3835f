"""Hostile payloads, keys and headers through a real gateway: each one exact or a gap, and nobody else notices."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from websockets.asyncio.client import connect

from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.hostile import (
    MARK,
    decoded,
    illegible_batch,
    is_deliverable,
    payloads,
    server_sent_events,
    squeezed,
)
from tests.parts.kafka import Kafka
from tests.parts.partner import Partner

PROTOCOLS = ("sse", "ws", "ndjson", "pull")
PASSES = [
    *itertools.product(PROTOCOLS, ("record", "cloudevents")),
    ("sse", "none"),
    ("pull", "none"),
]
PATIENCE_SECONDS = 60.0
CORPUS = payloads()
GOOD = {name for name, value in CORPUS.items() if value is None or is_deliverable(value)}
LAST = MARK % (len(CORPUS) - 1)
CALM = [b'{"calm":%d}' % number for number in range(60)]
LONGEST_KEY = 2000


@dataclass(frozen=True)
class Piece:
    """One thing as it was sent: ``kind`` of event, the cursor beside it, and its JSON text."""

    kind: str
    cursor: str
    text: bytes

    def member(self, name: str) -> Any:
        return decoded(self.text)[name]


@dataclass
class Scene:
    """The gateway, and what its readers heard while the hostile records were produced."""

    process: GatewayProcess
    partner: Partner
    live: dict[str, list[Piece]] = field(default_factory=dict)
    neighbours: dict[str, list[Piece]] = field(default_factory=dict)


def key_of(value: bytes | None) -> bytes:
    return b"a tombstone needs one" if value is None else value[:LONGEST_KEY]


@pytest.fixture(scope="module")
def scene(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    prefix = f"hostile.{uuid.uuid4().hex[:8]}"
    shape: dict[str, Any] = {
        "payload": {"type": "object", "properties": {"mark": {}, "a": {}, "who": {}}},
        "partitions": 1,
    }
    marks = {"mark": {"pointer": "/mark", "type": "integer"}}
    documents = [
        contract("whole", f"{prefix}.hostile", **shape, headers=["trace"], filters=marks),
        contract("cut", f"{prefix}.hostile", **shape, projection=["/mark", "/a"]),
        contract(
            "mine",
            f"{prefix}.hostile",
            **shape,
            filters={"who": {"pointer": "/who", "type": "string"}},
            row_filter={"field": "who", "claim": "who"},
        ),
        contract("bytes", f"{prefix}.hostile", partitions=1, content_type="application/octet-stream", payload={}),
        contract("calm", f"{prefix}.calm", partitions=1),
    ]
    deployment = Deployment(tmp_path_factory.mktemp("hostile"), kafka.bootstrap, documents)

    async def fill(here: Scene) -> None:
        await kafka.create_topic(f"{prefix}.hostile")
        await kafka.create_topic(f"{prefix}.calm")
        async with contextlib.AsyncExitStack() as stack:
            readers = {
                (stream, protocol): await stack.enter_async_context(opened(here.partner, protocol, stream))
                for stream in ("whole", "calm")
                for protocol in PROTOCOLS
            }
            await kafka.produce(f"{prefix}.calm", CALM[:20])
            producing = [
                asyncio.create_task(produce(kafka, f"{prefix}.hostile")),
                asyncio.create_task(kafka.produce(f"{prefix}.calm", CALM[20:40])),
            ]
            await asyncio.gather(*producing)
            await kafka.produce(f"{prefix}.calm", CALM[40:])
            last = {"whole": LAST, "calm": CALM[-1]}
            async with asyncio.timeout(PATIENCE_SECONDS):
                heard = await asyncio.gather(
                    *[reader(last[stream]) for (stream, _), reader in readers.items()],
                )
        for (stream, protocol), pieces in zip(readers, heard, strict=True):
            (here.live if stream == "whole" else here.neighbours)[protocol] = pieces

    with deployment.gateway() as process:
        here = Scene(process, Partner(process.base_url, deployment.token(who="me")))
        asyncio.run(fill(here))
        yield here


async def produce(kafka: Kafka, topic: str) -> None:
    """Every payload as value, key and header, with a mark after each; some of the marks have names that are no text."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=5) as producer:
        sent = []
        for number, value in enumerate(CORPUS.values()):
            trace = None if value is None else value[:LONGEST_KEY]
            headers = [("trace", b"earlier"), ("data: \r\n\r\nforged", b"forged"), ("trace", trace)]
            sent.append(await producer.send(topic, value, key=key_of(value), partition=0, headers=headers))
            if number % 50 == 5:
                await asyncio.gather(*sent)
                batch = illegible_batch(producer, MARK % number)
                await (await producer.send_batch(batch, topic, partition=0))
            else:
                sent.append(await producer.send(topic, MARK % number, partition=0))
        await asyncio.gather(*sent)


# ---- reading, with nothing of the framing taken for granted ----------------------------------------------------------

Reader = Callable[[bytes], Any]
"""Reads on until the text given was delivered; what came till then."""


def opened(partner: Partner, protocol: str, stream: str, **parameters: Any) -> Any:
    return {"sse": http_stream, "ndjson": http_stream, "ws": ws_stream, "pull": pages}[protocol](
        partner, protocol, stream, **parameters
    )


@contextlib.asynccontextmanager
async def http_stream(partner: Partner, protocol: str, stream: str, **parameters: Any) -> AsyncIterator[Reader]:
    path = f"/v1/streams/{stream}/{protocol}"
    async with (
        httpx.AsyncClient(timeout=PATIENCE_SECONDS, headers=partner.all_headers(), trust_env=False) as client,
        client.stream("GET", partner.url(path, **parameters)) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()

        async def read(last: bytes) -> list[Piece]:
            chunks: list[bytes] = []
            tail = b""
            end = b"\n\n" if protocol == "sse" else b"\n"
            async for chunk in answer.aiter_raw():
                chunks.append(chunk)
                tail = (tail + chunk)[-len(last) - 1000 :] if len(chunk) < 1000 else chunk[-len(last) - 1000 :]
                if last in tail and tail.endswith(end):
                    break
            body = b"".join(chunks)
            if protocol == "sse":
                return [Piece(name or "record", place, data) for name, place, data in server_sent_events(body)]
            return [frame(line) for line in body.split(b"\n")[:-1]]

        yield read


@contextlib.asynccontextmanager
async def ws_stream(partner: Partner, protocol: str, stream: str, **parameters: Any) -> AsyncIterator[Reader]:
    url = partner.url(f"/v1/streams/{stream}/{protocol}", **parameters).replace("http", "ws", 1)
    async with connect(
        url, additional_headers=partner.all_headers(), proxy=None, compression=None, max_size=None, close_timeout=2
    ) as connection:

        async def read(last: bytes) -> list[Piece]:
            pieces = []
            while True:
                message = await connection.recv(decode=False)
                assert isinstance(message, bytes)
                pieces.append(frame(message))
                if last in message:
                    return pieces

        yield read


def frame(text: bytes) -> Piece:
    members = decoded(text)
    if "specversion" in members:
        return Piece("record", members["cursor"], text)
    return Piece(members["type"], members.get("id") or members.get("cursor") or "", text)


@contextlib.asynccontextmanager
async def pages(partner: Partner, protocol: str, stream: str, **parameters: Any) -> AsyncIterator[Reader]:
    first = await partner.get(f"/v1/streams/{stream}/records", limit=1, **parameters)
    assert first.status_code == 200, first.text
    started = first.headers["gateway-start-cursor"]
    more = {name: value for name, value in parameters.items() if name != "from_"}

    async def read(last: bytes) -> list[Piece]:
        found: list[Piece] = []
        cursor = started
        while True:
            answer = await partner.get(
                f"/v1/streams/{stream}/records", cursor=cursor, limit=1000, wait=10, max_bytes=64 << 20, **more
            )
            assert answer.status_code == 200, answer.text
            found += page(answer.content)
            cursor = decoded(answer.content)["next_cursor"]
            if found and last in found[-1].text:
                return found

    yield read


def page(body: bytes) -> list[Piece]:
    """Records and gaps of one page, in order; the records' text as it stands in it."""
    text = body.decode("utf-8")
    head = '{"records":['
    assert text.startswith(head)
    scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
    records, at = [], len(head)
    space = re.compile(r"[ \t\r\n]*")
    while text[at] != "]":
        value, end = scan(text, space.match(text, at).end())  # type: ignore[union-attr]
        end = space.match(text, end).end()  # type: ignore[union-attr]
        cursor = value.get("id") or value.get("cursor") or "" if isinstance(value, dict) else ""
        records.append(Piece("record", str(cursor), text[at:end].encode()))
        at = end + (text[end] == ",")
    rest = json.loads("{" + text[at + 2 :])
    assert rest.keys() == {"next_cursor", "behind_ms", "lag", "throttled_ms", "gaps"} - (
        set() if "lag" in rest else {"lag"}
    )
    pieces: list[Piece] = []
    for number in range(len(records) + 1):
        pieces += [
            Piece("gap", gap["resumed_at"], json.dumps(gap).encode()) for gap in rest["gaps"] if gap["before"] == number
        ]
        pieces += records[number : number + 1]
    return pieces


# ---- what must have come ---------------------------------------------------------------------------------------------


def payload_of(piece: Piece, envelope: str) -> bytes:
    """The payload's text; nothing in front of it can hold the name unescaped."""
    if envelope == "none":
        return piece.text
    _, found, rest = piece.text.partition(b'"data":')
    assert found and rest.endswith(b"}"), piece.text[:300]
    return rest[:-1]


def fates(pieces: Sequence[Piece], envelope: str) -> list[Piece]:
    """What became of each payload: exactly one thing between two marks."""
    found: list[Piece] = []
    between: list[Piece] = []
    for piece in pieces:
        if piece.kind in ("welcome", "checkpoint"):
            continue
        assert piece.kind in ("record", "gap"), piece
        if piece.kind == "record" and payload_of(piece, envelope) == MARK % len(found):
            assert len(between) == 1, f"{list(CORPUS)[len(found)]}: {between}"
            found += between
            between = []
        else:
            between.append(piece)
    assert between == []
    assert len(found) == len(CORPUS)
    return found


def check(pieces: Sequence[Piece], protocol: str, envelope: str) -> None:
    for (name, value), piece in zip(CORPUS.items(), fates(pieces, envelope), strict=True):
        if name not in GOOD:
            assert piece.kind == "gap", f"{name}: {piece.text[:300]!r}"
            assert piece.member("reason") == "undecodable"
            assert piece.member("resumed_at") == piece.cursor
            continue
        assert piece.kind == "record", f"{name}: {piece.text[:300]!r}"
        text = payload_of(piece, envelope)
        expected = b"null" if value is None else value
        if b"\r" in expected or b"\n" in expected:
            assert squeezed(text) == squeezed(expected), name
            assert b"\r" not in text
            assert b"\n" not in text
        else:
            assert text == expected, name
        if envelope != "none":
            head = decoded(piece.text[: -len(text) - 1] + b"null}")
            check_around(name, value, head, envelope, is_sse=protocol == "sse")


def check_around(name: str, value: bytes | None, members: dict[str, Any], envelope: str, *, is_sse: bool) -> None:
    """Key and header of one record, which hold the payload's first bytes; ``members`` are without its data."""
    first = key_of(value)
    text = None
    with contextlib.suppress(UnicodeDecodeError):
        text = first.decode("utf-8")
    if envelope == "cloudevents":
        expected = text if text is not None else base64.b64encode(first).decode()
        assert members.get("partitionkey") == (expected or None), name
        return
    assert members.get("key") == text, name
    if text is None:
        assert base64.b64decode(members["key_base64"]) == first, name
    assert members["headers"] == {"trace": (value or b"")[:LONGEST_KEY].decode("utf-8", "backslashreplace")}, name
    allowed = {"uid", "time", "data", "headers"} | (set() if is_sse else {"id"}) | {"key", "key_base64", "type"}
    assert members.keys() <= allowed, name


async def read_all(partner: Partner, protocol: str, stream: str, last: bytes, **parameters: Any) -> list[Piece]:
    async with asyncio.timeout(PATIENCE_SECONDS), opened(partner, protocol, stream, **parameters) as read:
        pieces: list[Piece] = await read(last)
        return pieces


def test_there_are_enough_of_them() -> None:
    assert len(set(CORPUS.values())) >= 200
    assert len(GOOD) >= 60
    assert len(CORPUS) - len(GOOD) >= 100


@pytest.mark.parametrize(("protocol", "envelope"), PASSES)
async def test_each_hostile_payload_is_delivered_exactly_or_is_a_gap(
    scene: Scene, protocol: str, envelope: str
) -> None:
    check(
        await read_all(scene.partner, protocol, "whole", LAST, from_="earliest", envelope=envelope), protocol, envelope
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_reads_while_they_are_produced_gets_the_same(scene: Scene, protocol: str) -> None:
    check(scene.live[protocol], protocol, "record")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_neighbours_stream_is_untouched(scene: Scene, protocol: str) -> None:
    heard = [piece for piece in scene.neighbours[protocol] if piece.kind not in ("welcome", "checkpoint")]
    assert [payload_of(piece, "record") for piece in heard] == CALM
    assert len({piece.cursor for piece in heard}) == len(CALM)


@pytest.mark.parametrize(("protocol", "envelope"), PASSES)
async def test_bytes_by_contract_come_back_exactly(scene: Scene, protocol: str, envelope: str) -> None:
    last = base64.b64encode(LAST)
    pieces = await read_all(scene.partner, protocol, "bytes", last, from_="earliest", envelope=envelope)
    found: list[bytes | None] = []
    for piece in pieces:
        if piece.kind in ("welcome", "checkpoint"):
            continue
        assert piece.kind == "record"
        members = decoded(piece.text)
        if envelope != "none":
            assert ("data" in members) != ("data_base64" in members)
            members = members.get("data_base64")
        found.append(None if members is None else base64.b64decode(members, validate=True))
    assert found == [value for number, one in enumerate(CORPUS.values()) for value in (one, MARK % number)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_projection_of_them_shows_what_it_lists_or_a_gap(scene: Scene, protocol: str) -> None:
    last = b'{"mark":%d}' % (len(CORPUS) - 1)
    pieces = await read_all(scene.partner, protocol, "cut", last, from_="earliest")
    found = [piece for piece in pieces if piece.kind in ("record", "gap")]
    assert len(found) == 2 * len(CORPUS)
    for (name, value), piece, mark in zip(CORPUS.items(), found[::2], found[1::2], strict=True):
        assert mark.kind == "record"
        if name not in GOOD:
            assert piece.kind == "gap", name
            continue
        whole = None if value is None else decoded(value)
        expected = (
            {member: whole[member] for member in ("mark", "a") if member in whole} if isinstance(whole, dict) else {}
        )
        assert piece.member("data") == (None if value is None else expected), name


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_filter_over_them_gives_the_marks_and_the_gaps(scene: Scene, protocol: str) -> None:
    pieces = await read_all(scene.partner, protocol, "whole", LAST, from_="earliest", filter="mark:ge:0")
    records = [payload_of(piece, "record") for piece in pieces if piece.kind == "record"]
    assert records == [MARK % number for number in range(len(CORPUS))]
    gaps = sum(piece.kind == "gap" for piece in pieces)
    assert gaps == len(CORPUS) - len(GOOD)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_who_sees_own_rows_only_hears_nothing_of_them(scene: Scene, protocol: str) -> None:
    pieces = await read_all(scene.partner, protocol, "mine", LAST, from_="earliest")
    assert [payload_of(piece, "record") for piece in pieces if piece.kind not in ("welcome", "checkpoint")] == [
        MARK % number for number in range(len(CORPUS))
    ]


def test_nothing_of_it_was_an_error_of_ours(scene: Scene) -> None:
    lines = [json.loads(line) for line in scene.process.log().splitlines()]
    assert [line for line in lines if line["level"] in ("ERROR", "CRITICAL")] == []
    assert {line["status"] for line in lines if line["event"] == "access"} <= {101, 200}
    assert scene.process.readiness()[0] == 200
