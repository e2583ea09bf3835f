"""The public side under an ASGI server that is not ours: no direct writer, another stop, the same promises.

That the protocols are the same there is what ``served`` shows in the tests named test_partner_* and test_clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.asgi import PublicApp
from gateway.config import Settings
from gateway.errors import ConfigurationProblems
from tests.parts.estate import ALL_NUMBERS, Node, hypercorn, numbers_by_partition
from tests.parts.gateway import Deployment, contract
from tests.parts.kafka import Kafka
from tests.parts.partner import PROTOCOLS, Heard, Partner, StreamOver

pytest_plugins = ("tests.parts.served",)


async def test_it_is_another_server(hypercorn_node: Node, gateway_node: Node) -> None:
    there = await hypercorn_node.partner().get("/v1/streams")
    here = await gateway_node.partner().get("/v1/streams")
    assert there.headers["server"].startswith("hypercorn")
    assert "server" not in here.headers
    listed = [entry["name"] for entry in there.json()["streams"]]
    assert listed == [entry["name"] for entry in here.json()["streams"]]


async def test_the_management_port_is_there_too(hypercorn_node: Node) -> None:
    operator = Partner(hypercorn_node.admin_url, None)
    ready = await operator.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["dependencies"]["kafka"]["status"] == "ok"
    assert "gateway_open_streams" in (await operator.get("/metrics")).text


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_reader_that_pauses_for_long_gets_all_the_same(acme: Partner, served: Node, protocol: str) -> None:
    """More bytes than buffers on the way hold: the node must hold back, and go on where it stopped."""
    name = await served.estate.new_stream()
    await served.estate.produce(name, [b'{"n":%d,"pad":"%s"}' % (n, b"x" * 90_000) for n in range(150)])
    # A WebSocket client would read ahead for as long as it is let.
    opened = (
        acme.open(protocol, name, from_="earliest") if protocol != "ws" else acme.ws(name, from_="earliest", ahead=2)
    )
    async with opened as stream:
        found = [await stream.until("record")]
        async with acme.open(protocol, name, from_="earliest") as quick:
            assert len(await quick.records(150, seconds=30)) == 150
        found += await stream.records(149, seconds=30)
    assert [record.data["data"]["n"] for record in found] == list(range(150))


async def test_a_stop_of_the_server_loses_nothing_that_a_cursor_does_not_bring_back(
    kafka: Kafka, tmp_path: Path
) -> None:
    topic = f"stop.{uuid.uuid4().hex[:8]}"
    await kafka.create_topic(topic, 1)
    await kafka.produce(topic, [b"%d" % n for n in range(40)])
    deployment = Deployment(tmp_path / "stop", kafka.bootstrap, [contract("steps", topic)])
    heard: dict[str, list[Heard]] = {}
    with contextlib.ExitStack() as stack:
        base_url, _ = await asyncio.to_thread(stack.enter_context, hypercorn(deployment))
        partner = Partner(base_url, deployment.token())

        async def read(protocol: str, opened: asyncio.Semaphore) -> None:
            with contextlib.suppress(StreamOver, httpx.RemoteProtocolError):
                async with partner.open(protocol, "steps", from_="earliest") as stream:
                    heard[protocol] = await stream.records(40)
                    opened.release()
                    await stream.until("never", seconds=60)

        opened = asyncio.Semaphore(0)
        reading = [asyncio.create_task(read(protocol, opened)) for protocol in PROTOCOLS]
        for _ in PROTOCOLS:
            await opened.acquire()
        await asyncio.to_thread(stack.close)
        await asyncio.gather(*reading)
    log = (deployment.directory / "hypercorn" / "log").read_text()
    assert '"event":"stopped"' in log.replace(": ", ":"), "its lifespan ended in order"
    assert "request_failed" not in log
    assert "a stream failed" not in log
    await kafka.produce(topic, [b"%d" % n for n in range(40, 50)])
    with deployment.gateway("after") as node:
        for protocol in PROTOCOLS:
            async with Partner(node.base_url, deployment.token()).open(
                protocol, "steps", cursor=heard[protocol][-1].cursor
            ) as stream:
                heard[protocol] += await stream.records(10)
    assert all([record.data["data"] for record in found] == list(range(50)) for found in heard.values())


async def test_an_open_stream_speaks_at_once_and_long_before_its_first_heartbeat(kafka: Kafka, tmp_path: Path) -> None:
    topic = f"hello.{uuid.uuid4().hex[:8]}"
    await kafka.create_topic(topic, 1)
    settings = {"stream": {"heartbeat_seconds": 300}}
    deployment = Deployment(tmp_path / "hello", kafka.bootstrap, [contract("steps", topic)], settings=settings)
    with hypercorn(deployment) as (base_url, _), deployment.gateway("one") as node:
        for address in (base_url, node.base_url):
            async with Partner(address, deployment.token()).sse("steps") as stream:
                assert (await stream.next()).kind == "checkpoint"
                assert stream.raw.startswith(b"retry: ")


def test_settings_that_are_wrong_are_told_and_end_the_server(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text('[http]\nprot = 8080\n[auth]\nleeway_seconds = "long"\n')
    done = subprocess.run(
        [sys.executable, "-m", "hypercorn", "gateway.asgi:app", "--workers", "0", "--bind", "127.0.0.1:0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "http.prot" in done.stderr
    assert "auth.leeway_seconds" in done.stderr


async def test_a_server_that_runs_no_lifespan_is_told_so() -> None:
    def never() -> Settings:
        raise AssertionError("settings are read when the lifespan begins")

    app = PublicApp(never)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.example")
    with pytest.raises(RuntimeError, match="lifespan"):
        await client.get("/v1/streams")
    await client.aclose()


async def test_a_start_that_is_refused_says_every_problem() -> None:
    def refuse() -> Settings:
        raise ConfigurationProblems(["one thing", "another"])

    said = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    await PublicApp(refuse)({"type": "lifespan"}, receive, send)
    assert said == [{"type": "lifespan.startup.failed", "message": "one thing\nanother"}]


async def test_both_servers_give_the_same_records_under_the_same_names(
    hypercorn_node: Node, gateway_node: Node
) -> None:
    pages = [
        await node.partner().pull("numbers", from_="earliest", limit=1000) for node in (hypercorn_node, gateway_node)
    ]
    assert numbers_by_partition(pages[0]["records"]) == numbers_by_partition(pages[1]["records"]) == ALL_NUMBERS
    uids = [sorted(record["uid"] for record in page["records"]) for page in pages]
    assert uids[0] == uids[1]
