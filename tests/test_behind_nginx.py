"""The gateway behind a real nginx with the configuration of deploy/: TLS and HTTP/2 at the proxy, nothing held back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import or_left_out
from tests.parts import nginx
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import PROTOCOLS, Partner, Stream

PATIENCE_SECONDS = 30.0


@dataclass
class Behind:
    """Two gateways, and the nginx before them."""

    deployment: Deployment
    gateways: list[GatewayProcess]
    kafka: Kafka
    topic: str
    url: str

    @property
    def partner(self) -> Partner:
        """Over HTTP/2, with TLS; WebSockets over TLS and HTTP/1.1."""
        return Partner(self.url, self.deployment.token(), http2=True)

    async def produce(self, mark: str) -> None:
        await self.kafka.produce(self.topic, [json.dumps({"mark": mark}).encode()])

    @contextlib.asynccontextmanager
    async def streams(self, partner: Partner | None = None, **start: Any) -> AsyncIterator[dict[str, Stream]]:
        """One stream of each protocol."""
        async with contextlib.AsyncExitStack() as stack:
            opened = {}
            for protocol in PROTOCOLS:
                opening = (partner or self.partner).open(protocol, "marks", **start)
                opened[protocol] = await stack.enter_async_context(opening)
            yield opened

    async def open_streams(self) -> list[int]:
        """Of each gateway that answers."""
        return [await open_streams(one) for one in self.gateways]

    def accesses(self) -> list[dict[str, Any]]:
        lines = [line for one in self.gateways for line in one.log().splitlines() if line.startswith("{")]
        return [entry for line in lines if (entry := json.loads(line))["event"] == "access"]


async def open_streams(gateway: GatewayProcess) -> int:
    metrics = await Partner(gateway.admin_url, None).get("/metrics")
    found = [line for line in metrics.text.splitlines() if line.startswith("gateway_open_streams{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


async def hear(streams: dict[str, Stream], mark: str) -> None:
    """Every stream brings this record next, and stays open."""
    for protocol, stream in streams.items():
        (heard,) = await stream.records(1, seconds=PATIENCE_SECONDS)
        assert heard.data["data"] == {"mark": mark}, protocol


@pytest.fixture(scope="module")
def behind(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("behind")
    topic = f"nginx-{uuid.uuid4().hex}"
    asyncio.run(kafka.create_topic(topic, 1))
    settings = {
        "http": {"port": 0, "trusted_proxies": ["127.0.0.1"]},
        "stream": {"heartbeat_seconds": 1, "drain_seconds": 10},
    }
    deployment = Deployment(
        folder / "gateways", kafka.bootstrap, [contract("marks", topic, partitions=1)], settings=settings
    )
    with deployment.gateway("one") as one, deployment.gateway("two") as two:
        upstreams = [urlsplit(node.base_url).netloc for node in (one, two)]
        # Shorter than any test waits: only heartbeats keep a quiet stream open.
        with or_left_out(nginx.proxy(folder / "nginx", upstreams, proxy_read_timeout="4s")) as url:
            yield Behind(deployment, [one, two], kafka, topic, url)


async def test_each_record_passes_at_once_and_a_quiet_stream_stays_open(behind: Behind) -> None:
    start = (await behind.partner.pull("marks"))["next_cursor"]
    async with behind.streams(cursor=start) as streams:
        for number in range(5):
            # The next one is made only when every stream has brought this one: nothing is held back.
            await behind.produce(f"m{number}")
            await hear(streams, f"m{number}")
        for stream in streams.values():
            for _ in range(6):
                assert (await stream.next(seconds=PATIENCE_SECONDS)).kind == "checkpoint"
        await behind.produce("after silence")
        await hear(streams, "after silence")
    page = await behind.partner.pull_all("marks", 6, cursor=start)
    assert [record["data"]["mark"] for record in page] == ["m0", "m1", "m2", "m3", "m4", "after silence"]


async def test_a_pull_that_waits_is_answered_when_the_record_comes(behind: Behind) -> None:
    start = (await behind.partner.pull("marks"))["next_cursor"]
    # Less than nginx waits here; the shipped file waits longer than any pull may.
    waiting = asyncio.create_task(behind.partner.pull("marks", cursor=start, wait=3))
    await behind.produce("waited for")
    page = await waiting
    if not page["records"]:
        page = await behind.partner.pull("marks", cursor=page["next_cursor"], wait=3)
    assert [record["data"]["mark"] for record in page["records"]] == ["waited for"]


async def test_a_client_that_goes_frees_its_stream_behind_the_proxy(behind: Behind) -> None:
    async with behind.streams() as streams:
        await behind.produce("there")
        await hear(streams, "there")
        assert sum(await behind.open_streams()) == len(streams)

    async def none_left() -> bool:
        return await behind.open_streams() == [0, 0]

    await eventually(none_left, seconds=PATIENCE_SECONDS)


async def test_the_log_names_the_client_that_nginx_saw_whatever_the_client_says(behind: Behind) -> None:
    partner = replace(behind.partner, address="127.0.0.2").as_(
        behind.deployment.token(), X_Forwarded_For="6.6.6.6", Forwarded="for=6.6.6.6", X_Forwarded_Host="evil.example"
    )
    answer = await partner.get("/v1/streams")
    assert answer.status_code == 200
    assert answer.http_version == "HTTP/2"
    assert "evil.example" not in answer.text
    await eventually(lambda: any(one["route"] == "/v1/streams" for one in behind.accesses()))
    (access,) = [one for one in behind.accesses() if one["route"] == "/v1/streams"]
    assert access["client_address"] == "127.0.0.2"


async def test_only_the_partners_side_is_public(behind: Behind) -> None:
    for path in ("/", "/livez", "/readyz", "/metrics", "/admin/sessions", "/v1"):
        assert (await behind.partner.get(path)).status_code == 404, path
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        answer = await client.get(f"{behind.url}/v1/streams")
    # The gateway's own words, over HTTP/1.1 as well.
    assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")


async def test_a_refusal_passes_as_it_was_made(behind: Behind) -> None:
    await behind.partner.refused("/v1/streams/absent/sse", 404, "stream_not_found")
    await behind.partner.refused("/v1/streams/marks/records", 400, "unknown_parameter", form="earliest")


async def test_a_goodbye_passes_and_its_cursor_leads_on_through_the_other_node(behind: Behind) -> None:
    # The last test here: it ends one of the two.
    async with behind.streams() as streams:
        await behind.produce("before")
        await hear(streams, "before")
        count, leaving = max([(await open_streams(one), one) for one in behind.gateways], key=lambda pair: pair[0])
        leaving.signal(signal.SIGTERM)
        cursors: dict[str, str] = {}

        async def listen(protocol: str, stream: Stream) -> None:
            goodbye = await stream.until("goodbye", seconds=60)
            assert goodbye.data["code"] == "draining"
            assert await stream.over(seconds=PATIENCE_SECONDS) == (4503 if protocol == "ws" else None)
            cursors[protocol] = goodbye.data["cursor"]

        listening = [asyncio.create_task(listen(protocol, stream)) for protocol, stream in streams.items()]
        # Those of the other node hear nothing and go on.
        await eventually(lambda: len(cursors) == count, seconds=60)
        for task in listening:
            task.cancel()
        outcomes = await asyncio.gather(*listening, return_exceptions=True)
        assert [one for one in outcomes if one is not None and not isinstance(one, asyncio.CancelledError)] == []
    assert count >= 1
    assert await asyncio.to_thread(leaving.wait) == 0
    await behind.produce("after")
    for protocol, cursor in cursors.items():
        async with behind.partner.open(protocol, "marks", cursor=cursor) as stream:
            await hear({protocol: stream}, "after")
