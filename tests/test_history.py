"""History that changes under readers, on a real Kafka through real gateways: it is always said, never passed over.

A topic is deleted and made anew, retention overtakes a reader, partitions are added; two nodes share the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka
from tests.parts.partner import PROTOCOLS, Partner, Stream, heard_frame

STREAMS = ("open-short", "open-long", "alone-short", "alone-long", "slow", "grown", "kept")
NOTICED_SECONDS = 20.0
"""Longer than a node takes to look whether a topic is still the same, on a machine that is busy."""

KEPT_MS = 3_600_000
PADDING = "x" * 4000


@dataclass
class Estate:
    """Two nodes over one Kafka and one database."""

    kafka: Kafka
    deployment: Deployment
    prefix: str
    nodes: list[GatewayProcess] = field(default_factory=list)

    def topic(self, stream: str) -> str:
        return f"{self.prefix}.{stream}"

    def partner(self, node: int = 0) -> Partner:
        return Partner(self.nodes[node].base_url, self.deployment.token())

    async def produce(self, stream: str, first: int, last: int, *, partition: int = 0, **options: Any) -> None:
        values = [json.dumps({"p": partition, "n": number}).encode() for number in range(first, last)]
        await self.kafka.produce(self.topic(stream), values, partition=partition, **options)


@pytest.fixture(scope="module")
def estate(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    prefix = f"history.{uuid.uuid4().hex[:8]}"
    deployment = Deployment(
        tmp_path_factory.mktemp("history"),
        kafka.bootstrap,
        [contract(stream, f"{prefix}.{stream}") for stream in STREAMS],
        # Small rings, so that old records are Kafka's; no linger, so that nobody reads when nobody reads.
        settings={"stream": {"heartbeat_seconds": 0.5, "ring_records": 100, "linger_seconds": 0}},
    )
    estate = Estate(kafka, deployment, prefix)
    with contextlib.ExitStack() as running:
        estate.nodes += [running.enter_context(deployment.gateway(node)) for node in ("a", "b")]
        yield estate


def numbers(records: list[dict[str, Any]], partition: int = 0) -> list[int]:
    return [record["data"]["n"] for record in records if record["data"]["p"] == partition]


async def read_to_end(
    partner: Partner, stream: str, cursor: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Records, gaps and the last cursor of pages from ``cursor`` on, until there is nothing more."""
    records: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    while True:
        page = await partner.pull(stream, cursor=cursor, limit=1000)
        gaps += [{**gap, "before": gap["before"] + len(records)} for gap in page["gaps"]]
        records += page["records"]
        cursor = page["next_cursor"]
        if not page["behind_ms"]:
            return records, gaps, cursor


# ---- a topic that is made anew -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("stream", "count"), [("open-short", 3), ("open-long", 40)])
async def test_open_streams_of_a_topic_that_is_made_anew_end_and_are_told_on_their_return(
    estate: Estate, stream: str, count: int
) -> None:
    """Whether the new topic is shorter or longer than what was read of the old one."""
    acme = estate.partner()
    await estate.kafka.create_topic(estate.topic(stream))
    await estate.produce(stream, 0, 10)
    opened = [asyncio.Event() for _ in PROTOCOLS]

    async def told(protocol: str, is_open: asyncio.Event) -> list[str]:
        async with acme.open(protocol, stream, from_="earliest") as reading:
            first = await reading.records(10)
            is_open.set()
            goodbye = await reading.until("goodbye", seconds=NOTICED_SECONDS)
        assert (goodbye.data["code"], goodbye.data["close_code"]) == ("unavailable", 4503)
        assert goodbye.data["reconnect"] is True
        assert 0 < goodbye.data["retry_after_ms"] <= 5000
        async with acme.open(protocol, stream, cursor=goodbye.data["cursor"]) as reading:
            gap = await reading.next_but_checkpoints()
            assert (gap.kind, gap.data["reason"]) == ("gap", "history_changed"), gap
            assert gap.data["from"] == goodbye.data["cursor"]
            again = await reading.records(count)
        assert [record.data["data"]["n"] for record in again] == list(range(1000, 1000 + count))
        # The record at the same place is another record.
        assert not {one.data["uid"] for one in first} & {one.data["uid"] for one in again}
        async with acme.open(protocol, stream, cursor=gap.data["resumed_at"]) as reading:
            assert (await reading.records(count))[0].data["uid"] == again[0].data["uid"]
        return [record.data["uid"] for record in again]

    readers = [asyncio.create_task(told(*one)) for one in zip(PROTOCOLS, opened, strict=True)]
    await asyncio.gather(*(one.wait() for one in opened))
    await estate.kafka.recreate_topic(estate.topic(stream))
    await estate.produce(stream, 1000, 1000 + count)
    uids = await asyncio.gather(*readers)
    assert uids[0] == uids[1] == uids[2]


@pytest.mark.parametrize(("stream", "count"), [("alone-short", 3), ("alone-long", 40)])
async def test_a_topic_that_is_made_anew_while_nobody_reads_is_a_gap_on_every_node(
    estate: Estate, stream: str, count: int
) -> None:
    """No node has seen anything happen, and in the longer topic no offset tells either: only its id does."""
    acme = estate.partner()
    await estate.kafka.create_topic(estate.topic(stream))
    await estate.produce(stream, 0, 10)
    page = await acme.pull(stream, from_="earliest")
    assert numbers(page["records"]) == list(range(10))
    await estate.kafka.recreate_topic(estate.topic(stream))
    await estate.produce(stream, 1000, 1000 + count)
    for node in (1, 0):
        records, gaps, cursor = await read_to_end(estate.partner(node), stream, page["next_cursor"])
        assert [(gap["before"], gap["reason"]) for gap in gaps] == [(0, "history_changed")]
        assert gaps[0]["from"] == page["next_cursor"]
        assert numbers(records) == list(range(1000, 1000 + count))
        assert not {one["uid"] for one in page["records"]} & {one["uid"] for one in records}
        # Both nodes count the same lives: what one gives out is good on the other.
        assert (await estate.partner(1 - node).pull(stream, cursor=cursor))["gaps"] == []
        assert (await estate.partner(1 - node).pull(stream, from_="earliest"))["records"][0] == records[0]
    refusal = await acme.refused(
        f"/v1/streams/{stream}/records", 410, "cursor_expired", cursor=page["next_cursor"], on_gap="error"
    )
    records, gaps, _ = await read_to_end(acme, stream, refusal["earliest"])
    assert (numbers(records), gaps) == (list(range(1000, 1000 + count)), [])


# ---- retention that overtakes a reader ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def unread(estate: Estate, stream: str) -> AsyncIterator[asyncio.StreamReader]:
    """An NDJSON read whose client takes little of what is sent: small buffers, and nothing is read ahead."""
    address = urlsplit(estate.nodes[0].base_url)
    tap = socket.socket()
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    tap.setblocking(False)
    await asyncio.get_running_loop().sock_connect(tap, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=tap, limit=16 * 1024)
    head = f"GET /v1/streams/{stream}/ndjson?from=latest HTTP/1.1\r\nHost: x\r\n"
    writer.write(f"{head}Authorization: Bearer {estate.deployment.token()}\r\n\r\n".encode())
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader
    finally:
        writer.transport.abort()


async def unchunked_lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        *lines, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
        for line in lines:
            yield line.decode()


async def test_a_reader_that_is_overtaken_by_retention_is_told_exactly_what_it_missed(estate: Estate) -> None:
    total, kept = 6000, 5900
    await estate.kafka.create_topic(estate.topic("slow"))
    values = [json.dumps({"n": number, "pad": PADDING}).encode() for number in range(total)]
    async with unread(estate, "slow") as tap:
        await estate.kafka.produce(estate.topic("slow"), values)
        await estate.kafka.delete_records(estate.topic("slow"), {0: kept})
        seen: list[int] = []
        gap: dict[str, Any] = {}
        async with asyncio.timeout(40):
            async for line in unchunked_lines(tap):
                heard = heard_frame(line)
                if heard.kind == "gap":
                    assert not gap, "one gap"
                    gap = {"before": len(seen), **heard.data}
                elif heard.kind == "record":
                    seen.append(heard.data["data"]["n"])
                    if seen[-1] == total - 1:
                        break
    assert gap["reason"] == "retention"
    told = gap["before"]
    assert 0 < told < kept, "it was overtaken in the middle"
    assert seen == [*range(told), *range(kept, total)]
    acme = estate.partner()
    page = await acme.pull("slow", cursor=gap["resumed_at"], limit=1)
    assert (page["records"][0]["data"]["n"], page["gaps"]) == (kept, [])
    page = await acme.pull("slow", cursor=gap["from"], limit=1)
    assert [one["reason"] for one in page["gaps"]] == ["retention"]


async def test_a_checkpoint_says_how_long_the_next_record_is_there(estate: Estate) -> None:
    await estate.kafka.create_topic(estate.topic("kept"), retention_ms=str(KEPT_MS))
    async with estate.partner().ws("kept") as reading:
        checkpoint = await reading.until("checkpoint")
        assert (checkpoint.data["behind_ms"], checkpoint.data["retention_in_ms"]) == (0, None), "at the head"
        await reading.say({"type": "pause"})
        age_ms = 1_000_000
        await estate.produce("kept", 0, 1, timestamps=[int(time.time() * 1000) - age_ms])
        async with asyncio.timeout(15):
            while (checkpoint := await reading.until("checkpoint")).data["retention_in_ms"] is None:
                pass
        assert checkpoint.data["behind_ms"] + checkpoint.data["retention_in_ms"] == KEPT_MS
        assert KEPT_MS - age_ms - 15_000 < checkpoint.data["retention_in_ms"] <= KEPT_MS - age_ms
        await reading.say({"type": "resume"})
        await reading.records(1)
        assert (await reading.until("checkpoint")).data["retention_in_ms"] is None


# ---- partitions that are added -----------------------------------------------------------------------------------


async def test_partitions_that_are_added_are_read_from_their_beginning_on_every_protocol(estate: Estate) -> None:
    await estate.kafka.create_topic(estate.topic("grown"))
    await estate.produce("grown", 0, 5)
    acme = estate.partner()
    before = (await acme.pull("grown", from_="earliest"))["next_cursor"]
    per_partition = 20

    def check(records: list[dict[str, Any]]) -> None:
        assert numbers(records, 0) == list(range(5, 5 + per_partition))
        for partition in (1, 2):
            assert numbers(records, partition) == list(range(per_partition))

    async def streamed(reading: Stream) -> None:
        check([one.data for one in await reading.records(3 * per_partition, seconds=NOTICED_SECONDS)])

    async def pulled(cursor: str) -> str:
        records: list[dict[str, Any]] = []
        async with asyncio.timeout(NOTICED_SECONDS):
            while len(records) < 3 * per_partition:
                page = await acme.pull("grown", cursor=cursor, wait=5, limit=7)
                assert page["gaps"] == []
                records, cursor = records + page["records"], page["next_cursor"]
        check(records)
        return cursor

    async with contextlib.AsyncExitStack() as streams:
        opened = [
            await streams.enter_async_context(acme.open(protocol, "grown", cursor=before)) for protocol in PROTOCOLS
        ]
        reading = [asyncio.create_task(streamed(one)) for one in opened]
        paging = asyncio.create_task(pulled(before))
        await estate.kafka.grow_topic(estate.topic("grown"), 3)
        await estate.produce("grown", 5, 5 + per_partition)
        for partition in (1, 2):
            await estate.produce("grown", 0, per_partition, partition=partition)
        await asyncio.gather(*reading)
        end = await paging
    # A cursor that holds none of the new partitions, and one that does, on a node that has not read the topic yet.
    other = estate.partner(1)
    records, gaps, _ = await read_to_end(other, "grown", before)
    check(records)
    assert gaps == []
    assert await read_to_end(other, "grown", end) == ([], [], end)
