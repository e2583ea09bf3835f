"""A browser's own EventSource, opened by a ticket: it outlives the node that serves it; foreign pages get nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.conftest import or_left_out
from tests.parts import browser
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.ports import free_port
from tests.parts.redis import RedisServer
from tests.parts.switch import switch

BATCH = 10
KILLED_AFTER, LAST = 150, 300
PATIENCE_SECONDS = 90.0

OPEN = """
window.heard = {numbers: [], opens: 0, ends: [], refused: false};
const source = new EventSource(URL_);
source.onopen = () => { heard.opens += 1; };
source.onmessage = event => { heard.numbers.push(JSON.parse(event.data).data.n); };
source.addEventListener("goodbye", event => { heard.ends.push(JSON.parse(event.data).code); });
source.onerror = () => { heard.refused = source.readyState === EventSource.CLOSED; };
"""
FETCH = """
try { return (await fetch(URL_, {headers: {Authorization: TOKEN_}})).status; } catch (error) { return error.name; }
"""


@dataclass
class Place:
    """Two nodes, a topic, and the addresses of two pages of which one application lists the first."""

    kafka: Kafka
    topic: str
    deployment: Deployment
    one: GatewayProcess
    two: GatewayProcess
    listed: str
    foreign: str

    async def produce(self, count: int) -> None:
        for n in range(0, count, BATCH):
            await self.kafka.produce(self.topic, [b'{"n":%d}' % each for each in range(n, n + BATCH)], partition=0)

    async def ticket(self, base_url: str, origin: str) -> str:
        """As the page's own server gets it."""
        async with httpx.AsyncClient(trust_env=False, timeout=40) as client:
            answer = await client.post(
                f"{base_url}/v1/tickets",
                json={"stream": "live", "origin": origin},
                headers={"Authorization": f"Bearer {self.deployment.token()}"},
            )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["ticket"])


@pytest.fixture(scope="module")
def devtools() -> Iterator[str]:
    with or_left_out(browser.browser()) as address:
        yield address


@pytest.fixture(scope="module")
def place(
    devtools: str, kafka: Kafka, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    topic = f"eventsource.{uuid.uuid4().hex[:8]}"
    asyncio.run(kafka.create_topic(topic, 1))
    listed, foreign = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    told = catalog(["live"])
    told["tenants"][0]["applications"][0]["origins"] = [listed]
    folder = tmp_path_factory.mktemp("eventsource") / "d"
    settings = {"redis": {"url": redis_server.url}}
    deployment = Deployment(folder, kafka.bootstrap, [contract("live", topic, partitions=1)], told, settings)
    with ExitStack() as stack:
        one, two = (stack.enter_context(deployment.gateway(name)) for name in ("one", "two"))
        yield Place(kafka, topic, deployment, one, two, listed, foreign)


@contextlib.asynccontextmanager
async def page_at(devtools: str, origin: str) -> AsyncIterator[browser.Page]:
    """A tab that shows an empty page of this origin."""

    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", int(origin.rpartition(":")[2]))
    async with server, browser.page(devtools, f"{origin}/") as page:
        try:
            yield page
        finally:
            # A browser opens connections that it may need; they end with their tasks, before the loop does.
            server.close()
            for writer in writers:
                writer.transport.abort()
            await asyncio.gather(*tasks)


def script(template: str, **values: Any) -> str:
    for name, value in values.items():
        template = template.replace(f"{name.upper()}_", json.dumps(value))
    return template


async def heard(page: browser.Page) -> dict[str, Any]:
    found: dict[str, Any] = await page.run("return window.heard;")
    return found


async def test_a_page_of_another_origin_gets_nothing(place: Place, devtools: str) -> None:
    base_url = place.two.base_url
    ticket = await place.ticket(base_url, place.listed)
    url = f"{base_url}/v1/streams/live/sse?from=earliest&ticket={ticket}"
    token = f"Bearer {place.deployment.token()}"
    async with page_at(devtools, place.foreign) as page:
        assert await page.run(script(FETCH, url=f"{base_url}/v1/streams", token=token)) == "TypeError"
        await page.run(script(OPEN, url=url))

        async def is_refused() -> bool:
            return bool((await heard(page))["refused"])

        await eventually(is_refused, seconds=PATIENCE_SECONDS)
        found = await heard(page)
        assert (found["numbers"], found["opens"]) == ([], 0)
    async with page_at(devtools, place.listed) as page:
        assert await page.run(script(FETCH, url=f"{base_url}/v1/streams", token=token)) == 200
        await page.run(script(OPEN, url=url))

        async def is_open() -> bool:
            return bool((await heard(page))["opens"])

        await eventually(is_open, seconds=PATIENCE_SECONDS)


async def test_it_goes_on_over_another_node_where_the_killed_one_stopped(place: Place, devtools: str) -> None:
    async with switch([place.one.base_url, place.two.base_url]) as base_url:
        ticket = await place.ticket(base_url, place.listed)
        url = f"{base_url}/v1/streams/live/sse?from=earliest&ticket={ticket}"
        async with page_at(devtools, place.listed) as page:
            await page.run(script(OPEN, url=url))
            producing = asyncio.create_task(place.produce(LAST))
            try:

                async def has(count: int) -> bool:
                    return len((await heard(page))["numbers"]) >= count

                await eventually(lambda: has(KILLED_AFTER), seconds=PATIENCE_SECONDS)
                await asyncio.to_thread(place.one.kill)
                await eventually(lambda: has(LAST), seconds=PATIENCE_SECONDS)
            finally:
                await producing
            found = await heard(page)
    assert found["numbers"] == list(range(LAST)), "none lost, none twice, in their order"
    assert found["opens"] >= 2, "it came back"
    # What the killed node held lapses after a while; until then the page is told to come back.
    assert set(found["ends"]) <= {"ticket_in_use"}
