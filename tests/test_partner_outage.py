"""Kafka away, as partners and operators see it: at the start, and while streams are open."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import KafkaBroker, eventually
from tests.parts.partner import PROTOCOLS, Partner, problem

OPEN_SECONDS = 5.0


def deploy(tmp_path: Path, broker: KafkaBroker) -> Deployment:
    settings = {"stream": {"heartbeat_seconds": 1}}
    return Deployment(tmp_path / "outage", broker.bootstrap, [contract("steps", "steps")], settings=settings)


async def test_without_kafka_it_comes_up_not_ready_says_why_and_recovers_by_itself(
    own_kafka: KafkaBroker, tmp_path: Path
) -> None:
    await own_kafka.create_topic("steps", 2)
    await own_kafka.produce("steps", [b"1", b"2"])
    deployment = deploy(tmp_path, own_kafka)
    await asyncio.to_thread(own_kafka.stop)
    node = GatewayProcess(deployment, "one")
    await asyncio.to_thread(lambda: node.start(wait_ready=False))
    try:
        partner = Partner(node.base_url, deployment.token())
        await _opens_are_refused_in_time(partner)
        status, body = node.readiness()
        assert status == 503
        assert body["status"] == "not_ready"
        assert body["dependencies"]["kafka"]["status"] == "down"
        assert own_kafka.bootstrap in body["dependencies"]["kafka"]["detail"]
        assert (await partner.get("/v1/streams")).status_code == 200, "what needs no Kafka works"
        await asyncio.to_thread(own_kafka.start)
        await eventually(lambda: node.readiness()[0] == 200, seconds=30)

        async def serves() -> bool:
            answer = await partner.get("/v1/streams/steps/records", from_="earliest")
            assert answer.status_code in (200, 503), answer.text
            return answer.status_code == 200

        await eventually(serves, seconds=20)
        page = await partner.pull("steps", from_="earliest")
        assert [record["data"] for record in page["records"]] == [1, 2]
    finally:
        await asyncio.to_thread(node.stop)
    assert node.wait() == 0


async def _opens_are_refused_in_time(partner: Partner) -> None:
    """Over every protocol at once, for the time an open may take."""

    async def over_http(suffix: str) -> float:
        began = time.monotonic()
        answer: httpx.Response = await partner.get(f"/v1/streams/steps/{suffix}", from_="earliest")
        members = problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert members["close_code"] == 4503
        assert "127.0.0.1" not in answer.text, "where Kafka is, is nobody's business"
        return time.monotonic() - began

    async def over_ws() -> float:
        began = time.monotonic()
        with pytest.raises(InvalidStatus) as refused:
            async with partner.ws("steps"):
                pass
        assert refused.value.response.status_code == 503
        assert json.loads(refused.value.response.body or b"")["code"] == "unavailable"
        return time.monotonic() - began

    taken = await asyncio.gather(over_http("records"), over_http("sse"), over_http("ndjson"), over_ws())
    assert max(taken) < OPEN_SECONDS + 2


async def test_open_streams_outlive_the_broker_and_go_on_after_it_is_back(
    own_kafka: KafkaBroker, tmp_path: Path
) -> None:
    await own_kafka.create_topic("steps", 1)
    deployment = deploy(tmp_path, own_kafka)
    with deployment.gateway("one") as node:
        partner = Partner(node.base_url, deployment.token())
        async with (
            partner.open("sse", "steps") as sse,
            partner.open("ws", "steps") as ws,
            partner.open("ndjson", "steps") as ndjson,
        ):
            streams = dict(zip(PROTOCOLS, (sse, ws, ndjson), strict=True))
            await own_kafka.produce("steps", [b"1"])
            for stream in streams.values():
                assert (await stream.records(1))[0].data["data"] == 1
            await asyncio.to_thread(own_kafka.kill)
            for stream in streams.values():
                for _ in range(3):
                    assert (await stream.next()).kind == "checkpoint"
            status, body = node.readiness()
            assert status == 200, "for a while the open streams and the log still serve"
            assert body["status"] == "degraded"
            await asyncio.to_thread(own_kafka.start)
            await own_kafka.produce("steps", [b"2", b"3"])
            for protocol, stream in streams.items():
                found = await stream.records(2, seconds=20)
                assert [record.data["data"] for record in found] == [2, 3], protocol
