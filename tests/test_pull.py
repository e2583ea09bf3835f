"""One page of HTTP pull, over the engine: what it waits for, what it counts, and when it stops waiting."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.model import RowMatch
from gateway.subscription.page_read import PageRead
from gateway.subscription.request import ReadRequest
from gateway.subscription.shape import Shape
from gateway.transport import pull
from tests.parts.serving import until
from tests.parts.source import Engine, MemoryKafka, MemoryTopic, contract, grant

CONTRACT = contract("s", "t")
GRANTS = {"acme": grant(CONTRACT), "red": grant(CONTRACT, rows=RowMatch("/row", frozenset({"red"})))}


class Asking:
    """One request to the page, with a client that may leave."""

    def __init__(self, engine: Engine, query: str, *, tenant: str = "acme") -> None:
        self._engine = engine
        self._query = query
        self._tenant = tenant
        self.gone = asyncio.Event()
        self.receives = 0
        self.status = 0
        self.page: dict[str, Any] = {}
        self.fields: dict[str, Any] = {}

    async def __call__(self) -> Asking:
        scope = {
            "type": "http",
            "method": "GET",
            "headers": [(b"tenant", self._tenant.encode())],
            "query_string": self._query.encode(),
            "state": {"access_fields": self.fields},
        }
        await pull.serve(self._engine.gate(GRANTS), scope, self._receive, self._send)
        return self

    async def _receive(self) -> dict[str, Any]:
        self.receives += 1
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.page = json.loads(message["body"])

    def numbers(self) -> list[int]:
        return [record["data"]["n"] for record in self.page["records"]]


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[Engine, MemoryTopic]]:
    kafka = MemoryKafka(prefill=options.pop("prefill", 0))
    topic = kafka.create_topic("t")
    engine = Engine(kafka, **options)
    try:
        yield engine, topic
    finally:
        await engine.hub.close()


def produce(topic: MemoryTopic, count: int, *, row: str = "red", size: int = 0) -> None:
    for _ in range(count):
        topic.produce(0, json.dumps({"n": topic.ends[0], "row": row, "pad": "x" * size}).encode())


async def test_a_page_holds_what_is_there_and_its_cursor_goes_on() -> None:
    async with running() as (engine, topic):
        produce(topic, 250)
        seen: list[int] = []
        where = "from=earliest"
        while len(seen) < 250:
            page = await Asking(engine, f"{where}&limit=60")()
            seen += page.numbers()
            where = f"cursor={page.page['next_cursor']}"
        assert seen == list(range(250))
        assert (await Asking(engine, where)()).page["records"] == []


async def test_it_waits_for_the_first_record_and_answers_at_once_with_it() -> None:
    async with running() as (engine, topic):
        began = time.monotonic()
        asking = Asking(engine, "from=latest&wait=20")
        task = asyncio.ensure_future(asking())
        await until(lambda: asking.receives > 0)
        produce(topic, 1)
        assert (await asyncio.wait_for(task, 10)).numbers() == [0]
        assert time.monotonic() - began < 10


async def test_records_that_come_as_it_begins_to_wait_are_not_waited_for() -> None:
    async with running() as (engine, topic):
        opening = await engine.openings.open(CONTRACT, ReadRequest())
        read = PageRead(engine.registry, opening, GRANTS["acme"], Shape(), limit=10)
        assert read.reading.take() is None
        news = read.wait()
        produce(topic, 1)
        await asyncio.wait_for(news, 5)
        assert read.reading.take() is not None
        read.close()


async def test_a_page_that_its_plan_holds_is_woken_by_its_plan_and_not_by_each_record_that_comes() -> None:
    async with running() as (engine, topic):
        opening = await engine.openings.open(CONTRACT, ReadRequest())
        read = PageRead(engine.registry, opening, GRANTS["acme"], Shape(), limit=10)
        await asyncio.wait_for(_woken_by(topic, read), 5)
        news = asyncio.ensure_future(read.wait(is_held=True))
        for _ in range(3):
            produce(topic, 1)
            await asyncio.sleep(0)
        assert not news.done()
        read.wake()
        await asyncio.wait_for(news, 5)
        read.close()


async def _woken_by(topic: Any, read: PageRead) -> None:
    news = read.wait()
    produce(topic, 1)
    await news


async def test_a_stop_ends_what_a_page_waits_for() -> None:
    async with running() as (engine, topic):
        produce(topic, 1)
        asking = Asking(engine, "from=latest&wait=20")
        task = asyncio.ensure_future(asking())
        await until(lambda: asking.receives > 0)
        await engine.registry.drain()
        assert (await asyncio.wait_for(task, 10)).page["records"] == []
        assert not engine.registry.on_drain


async def test_a_client_that_has_gone_is_waited_for_no_longer_and_costs_nothing() -> None:
    async with running() as (engine, topic):
        began = time.monotonic()
        asking = Asking(engine, "from=latest&wait=20")
        asking.gone.set()
        await asyncio.wait_for(asking(), 10)
        assert time.monotonic() - began < 5
        assert asking.receives == 1, "asked again and again"
        assert topic.feeds[0].view_count() == 0


async def test_only_what_was_sent_is_counted() -> None:
    async with running() as (engine, topic):
        produce(topic, 3)

        def counted() -> int:
            return sum(one.records for one in engine.counters.census().by_kind.values())

        asking = Asking(engine, "from=earliest")
        before: list[int] = []
        send = asking._send

        async def watching(message: Any) -> None:
            before.append(counted())
            await send(message)

        asking._send = watching  # type: ignore[method-assign]
        await asking()
        assert before == [0, 0]
        assert counted() == 3
        assert asking.fields["records"] == 3
        assert sum(one.bytes for one in engine.counters.census().by_kind.values()) == sum(
            len(json.dumps(record["data"])) for record in asking.page["records"]
        )


async def test_an_undecodable_record_is_a_gap_beside_the_records_wherever_it_stands() -> None:
    async with running() as (engine, topic):
        for content in (b"\xff", b'{"n":1}', b"\xff", b"\xff", b'{"n":4}', b"\xff"):
            topic.produce(0, content)
        page = await Asking(engine, "from=earliest")()
        assert (page.status, page.numbers()) == (200, [1, 4])
        assert [(gap["before"], gap["reason"]) for gap in page.page["gaps"]] == [
            (0, "undecodable"),
            (1, "undecodable"),
            (2, "undecodable"),
        ]
        # From the log too, and where nothing else is left.
        produce(topic, 0)
        topic.produce(0, b"\xff")
        last = await Asking(engine, f"cursor={page.page['next_cursor']}")()
        assert (last.status, last.numbers(), len(last.page["gaps"])) == (200, [], 1)


async def test_bytes_are_bounded_but_for_the_first_record() -> None:
    async with running() as (engine, topic):
        produce(topic, 20, size=1000)
        page = await Asking(engine, "from=earliest&max_bytes=3000")()
        assert len(page.numbers()) == 2
        page = await Asking(engine, "from=earliest&max_bytes=1")()
        assert page.numbers() == [0]


async def test_a_page_that_is_as_full_as_its_bytes_let_it_be_is_not_kept_waiting() -> None:
    async with running(ring_records=8) as (engine, topic):
        produce(topic, 200, size=1000)
        where, seen = "from=earliest", []
        began = time.monotonic()
        for _ in range(8):
            page = await Asking(engine, f"{where}&max_bytes=3000")()
            seen += page.numbers()
            where = f"cursor={page.page['next_cursor']}"
        assert seen == list(range(16))
        assert time.monotonic() - began < 8 * pull.FULLER_SECONDS / 2


async def test_looking_through_a_log_for_few_records_gives_others_their_turn() -> None:
    async with running(ring_records=200_000) as (engine, topic):
        produce(topic, 20_000, row="blue")
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(other())
        opening = await engine.openings.open(CONTRACT, ReadRequest())
        cursor = engine.registry.start_cursor(opening, GRANTS["red"], Shape())
        assert cursor
        turns = 0
        page = await Asking(engine, "from=earliest&wait=0", tenant="red")()
        beside.cancel()
        assert page.numbers() == []
        assert turns > 5
        assert "lag" not in page.page


async def test_a_stopping_node_answers_at_once() -> None:
    async with running() as (engine, _):
        asking = Asking(engine, "from=latest&wait=20")
        task = asyncio.ensure_future(asking())
        await until(lambda: asking.receives > 0)
        await engine.registry.drain()
        page = await asyncio.wait_for(task, 5)
        assert (page.status, page.page["records"]) == (200, [])
