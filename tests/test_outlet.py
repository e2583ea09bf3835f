"""The ways out of a subscription, where the client does what clients do: reads slowly, leaves early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.errors import Draining
from gateway.server.listener import Listener
from gateway.subscription.encode import FRAMINGS
from gateway.transport import ndjson, sse, ws
from gateway.transport.outlet import HIGH_WATER_BYTES, LOW_WATER_BYTES, QueuedOutlet
from tests.parts.serving import connected, request, serving, until
from tests.parts.source import Engine, MemoryKafka, contract, grant

SERVE = {"/sse": sse.serve, "/ndjson": ndjson.serve, "/ws": ws.serve}
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


@asynccontextmanager
async def listening(kafka: MemoryKafka) -> AsyncIterator[tuple[Engine, Listener]]:
    engine = Engine(kafka, linger_seconds=0.05)
    gate = engine.gate({"acme": grant(contract("s", "t"))})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await SERVE[scope["path"]](gate, scope, receive, send)

    try:
        async with serving(app) as listener:
            yield engine, listener
    finally:
        await engine.hub.close()


@pytest.mark.parametrize("path", list(SERVE))
async def test_a_client_that_leaves_while_its_stream_is_opened_leaves_no_stream_behind(path: str) -> None:
    kafka = MemoryKafka()
    topic = kafka.create_topic("t")
    async with listening(kafka) as (engine, listener):
        kafka.answering.clear()
        async with connected(listener) as client:
            await client.say(request(path, "Tenant: acme", *(UPGRADE if path == "/ws" else ())))
            await until(lambda: bool(kafka.readers))
        await until(lambda: listener.connections == 0)
        kafka.answering.set()
        # Its topic is given back, so it has been through.
        await until(lambda: not engine.hub.readers())
        assert len(engine.registry) == 0
        assert sum(one.open for one in engine.counters.census().by_kind.values()) == 0
        topic.produce(0, b"{}")
        assert sum(one.records for one in engine.counters.census().by_kind.values()) == 0


@pytest.mark.parametrize("path", list(SERVE))
async def test_a_client_that_leaves_later_is_forgotten_at_once(path: str) -> None:
    kafka = MemoryKafka()
    kafka.create_topic("t")
    async with listening(kafka) as (engine, listener):
        async with connected(listener) as client:
            await client.say(request(path, "Tenant: acme", *(UPGRADE if path == "/ws" else ())))
            await until(lambda: len(engine.registry) == 1)
        await until(lambda: len(engine.registry) == 0)
        await until(lambda: not engine.hub.readers())


class Ears:
    """Takes pieces from a queued outlet, one when told to."""

    def __init__(self, outlet: QueuedOutlet) -> None:
        self.outlet = outlet
        self.heard: list[bytes] = []
        self._pieces = outlet.pieces()

    async def take(self, count: int = 1) -> None:
        for _ in range(count):
            self.heard.append(await asyncio.wait_for(anext(self._pieces), 5))

    async def rest(self) -> None:
        async for piece in self._pieces:
            self.heard.append(piece)


async def test_a_queued_outlet_pauses_over_its_mark_and_resumes_below_the_other() -> None:
    outlet = QueuedOutlet(FRAMINGS["ndjson"])
    resumed: list[int] = []
    outlet.on_resume = lambda: resumed.append(1)
    ears = Ears(outlet)
    size = 8 * 1024
    for _ in range(HIGH_WATER_BYTES // size):
        outlet.say(b"x" * size)
    assert not outlet.paused
    outlet.say(b"x")
    assert outlet.paused
    # A piece counts as sent when the next one is asked for.
    await ears.take((HIGH_WATER_BYTES - LOW_WATER_BYTES) // size)
    assert outlet.paused
    await ears.take(3)
    assert not outlet.paused
    assert resumed == [1]


async def test_a_queued_outlet_gives_all_it_was_told_before_the_end() -> None:
    outlet = QueuedOutlet(FRAMINGS["ndjson"])
    ears = Ears(outlet)
    task = asyncio.ensure_future(ears.rest())
    for number in range(3):
        outlet.say(b"%d" % number)
        await asyncio.sleep(0)
    outlet.say(b"goodbye")
    outlet.finish(Draining("stop"))
    await asyncio.wait_for(task, 5)
    assert ears.heard == [b"0", b"1", b"2", b"goodbye"]
    assert isinstance(outlet.error, Draining)


async def test_a_queued_outlet_that_is_dropped_gives_nothing_more() -> None:
    outlet = QueuedOutlet(FRAMINGS["ndjson"])
    ears = Ears(outlet)
    outlet.say(b"0")
    outlet.say(b"1")
    await ears.take()
    outlet.abort()
    outlet.finish(None)
    await asyncio.wait_for(ears.rest(), 5)
    assert ears.heard == [b"0"]


async def test_under_a_plain_server_a_stream_ends_with_its_client() -> None:
    kafka = MemoryKafka()
    topic = kafka.create_topic("t")
    engine = Engine(kafka, linger_seconds=0.05)
    gate = engine.gate({"acme": grant(contract("s", "t"))})
    gone = asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "headers": [(b"tenant", b"acme")],
        "query_string": b"",
        "state": {"access_fields": {}},
    }
    serving_it = asyncio.ensure_future(ndjson.serve(gate, scope, receive, send))
    await until(lambda: len(engine.registry) == 1)
    topic.produce(0, b'{"n":1}')
    await until(lambda: len(sent) == 3)
    assert json.loads(sent[2]["body"])["data"] == {"n": 1}
    gone.set()
    await asyncio.wait_for(serving_it, 5)
    assert len(engine.registry) == 0
    await until(lambda: not engine.hub.readers())
    await engine.hub.close()
