"""SIGHUP on a running gateway: good contracts take effect as a whole, others change nothing, and streams go on."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import main
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import Partner, Stream

PAYLOAD = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": {"type": "string"}, "count": {"type": "integer"}, "secret": {"type": "string"}},
}


@dataclass
class Running:
    """A gateway with two streams over one topic, and what to edit and to ask."""

    deployment: Deployment
    gateway: GatewayProcess
    kafka: Kafka
    topic: str

    @property
    def partner(self) -> Partner:
        return Partner(self.gateway.base_url, self.deployment.token())

    def path(self, stream: str) -> Path:
        return self.deployment.directory / "asyncapi" / "streams" / f"{stream}.yaml"

    def read(self, stream: str) -> Any:
        return yaml.safe_load(self.path(stream).read_text())

    def write(self, stream: str, document: Any) -> None:
        self.path(stream).write_text(yaml.safe_dump(document, sort_keys=False))

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.gateway.log().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]

    async def reload(self, outcome: str) -> dict[str, Any]:
        """SIGHUP, and the event that says how it went: it must be this one, and the only one."""
        before = {name: len(self.events(name)) for name in ("reloaded", "reload_refused")}
        self.gateway.signal(signal.SIGHUP)
        await eventually(lambda: any(len(self.events(name)) > count for name, count in before.items()))
        after = {name: len(self.events(name)) - count for name, count in before.items()}
        assert after == {"reloaded": 0, "reload_refused": 0} | {outcome: 1}, self.gateway.log()[-2000:]
        return self.events(outcome)[-1]

    def contracts_check(self) -> dict[str, Any]:
        status, body = self.gateway.readiness()
        assert status == 200, body
        check = body["dependencies"]["contracts"]
        assert isinstance(check, dict)
        return check

    async def listed(self) -> dict[str, dict[str, Any]]:
        answer = await self.partner.get("/v1/streams")
        return {one["name"]: one for one in answer.json()["streams"]}

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[Stream]:
        """An open stream, of which the block may ask that it goes on; at the end it is asked once more."""
        async with self.partner.sse("first") as stream:
            await self.says_on(stream)
            yield stream
            await self.says_on(stream)

    async def says_on(self, stream: Stream) -> None:
        mark = uuid.uuid4().hex
        await self.kafka.produce(self.topic, [json.dumps({"id": mark}).encode()])
        (heard,) = await stream.records(1)
        assert heard.data["data"]["id"] == mark


@pytest.fixture
def running(kafka: Kafka, tmp_path: Path) -> Iterator[Running]:
    topic = f"reload-{uuid.uuid4().hex}"
    asyncio.run(kafka.create_topic(topic, 1))
    filters = {"id": {"pointer": "/id", "type": "string"}}
    contracts = [
        contract("first", topic, partitions=1, payload=PAYLOAD, projection=["/id", "/count"], filters=filters),
        contract("second", topic, partitions=1, payload=PAYLOAD),
    ]
    everything = catalog(["first", "second"])
    deployment = Deployment(tmp_path, kafka.bootstrap, contracts, everything)
    with deployment.gateway() as gateway:
        yield Running(deployment, gateway, kafka, topic)


async def test_a_good_change_takes_effect_and_streams_go_on(running: Running) -> None:
    async with running.streaming():
        document = running.read("first")
        document["info"] |= {"title": "Renamed", "version": "1.1.0"}
        exposed = document["channels"]["first"]["x-gateway"]
        exposed["filters"]["count"] = {"pointer": "/count", "type": "integer"}
        running.write("first", document)
        third = contract("third", running.topic, partitions=1, lifecycle="draft")
        running.write("third", third)
        assert (await running.reload("reloaded"))["streams"] == 3
        told = (await running.listed())["first"]
        assert (told["title"], told["version"]) == ("Renamed", "1.1.0")
        assert [one["name"] for one in told["filters"]] == ["id", "count"]
        assert running.contracts_check()["status"] == "ok"


async def test_a_half_written_contract_changes_nothing_of_the_others_either(running: Running) -> None:
    async with running.streaming():
        good = running.read("second")
        good["info"]["title"] = "Renamed"
        running.write("second", good)
        text = running.path("first").read_text()
        running.path("first").write_text(text[: len(text) // 2])
        refused = await running.reload("reload_refused")
        assert any(f"{running.path('first')}:" in problem for problem in refused["problems"])
        assert (await running.listed())["second"]["title"] == "second"
        check = running.contracts_check()
        assert check["status"] == "degraded"
        assert "the last reload was refused" in check["detail"]
        running.path("first").write_text(text)
        await running.reload("reloaded")
        assert (await running.listed())["second"]["title"] == "Renamed"
        assert running.contracts_check()["status"] == "ok"


async def test_a_breaking_change_is_refused_until_it_is_a_new_major_version(running: Running) -> None:
    async with running.streaming() as stream:
        document = running.read("first")
        document["channels"]["first"]["x-gateway"]["projection"] = ["/id"]
        document["info"]["version"] = "1.9.0"
        running.write("first", document)
        good = running.read("second")
        good["info"]["title"] = "Renamed"
        running.write("second", good)
        (problem,) = (await running.reload("reload_refused"))["problems"]
        assert problem.startswith(f"{running.path('first')}:")
        assert "stream first: breaks its readers: /count: no longer in the projection" in problem
        assert problem.endswith("raise the version to 2.0.0, or publish it as a stream of another name")
        assert (await running.listed())["first"]["version"] == "1.0.0"
        assert (await running.listed())["second"]["title"] == "second"
        assert running.contracts_check()["status"] == "degraded"
        await running.kafka.produce(running.topic, [b'{"id": "seen", "count": 7}'])
        assert (await stream.records(1))[0].data["data"]["id"] == "seen"
        async with running.partner.sse("first", from_="earliest") as again:
            assert (await again.records(2))[-1].data["data"] == {"id": "seen", "count": 7}
        document["info"]["version"] = "2.0.0"
        running.write("first", document)
        await running.reload("reloaded")
        assert (await running.listed())["first"]["version"] == "2.0.0"
        async with running.partner.sse("first", from_="earliest") as again:
            assert (await again.records(2))[-1].data["data"] == {"id": "seen"}


async def test_a_stream_that_is_read_does_not_go_from_one_reload_to_the_next(running: Running) -> None:
    async with running.streaming():
        running.path("second").unlink()
        (problem,) = (await running.reload("reload_refused"))["problems"]
        assert "stream second: breaks its readers: stream: removed" in problem
        assert set(await running.listed()) == {"first", "second"}


async def test_who_may_read_is_withdrawn_without_a_new_version(running: Running) -> None:
    withdrawn: dict[str, dict[str, Any]] = {
        "scoped": {"scopes": ["streams:read", "other:read"]},
        "rowed": {"row_filter": {"field": "id", "claim": "own"}},
        "drafted": {"lifecycle": "draft"},
        "retired": {"lifecycle": "retired"},
    }
    for name in (*withdrawn, "narrowed"):
        row: dict[str, Any] = {"row_filter": {"field": "id", "claim": "region"}} if name == "narrowed" else {}
        row["filters"] = {"id": {"pointer": "/id", "type": "string"}}
        running.write(name, contract(name, running.topic, partitions=1, payload=PAYLOAD, **row))
    everything = catalog(["first", "second", "narrowed", *withdrawn])
    (running.deployment.directory / "catalog.yaml").write_text(yaml.safe_dump(everything))
    config = running.deployment.options("apply")
    applied = CliRunner().invoke(main, ["apply", *config, str(running.deployment.directory / "catalog.yaml")])
    assert applied.exit_code == 0, applied.output
    await running.reload("reloaded")
    partner = running.partner.as_(running.deployment.token(region="north", group="south"))
    async with AsyncExitStack() as open_reads:
        reads = {name: await open_reads.enter_async_context(partner.sse(name)) for name in withdrawn}
        narrowed = await open_reads.enter_async_context(partner.sse("narrowed"))
        for name, changes in (withdrawn | {"narrowed": {"row_filter": {"field": "id", "claim": "group"}}}).items():
            document = running.read(name)
            document["channels"][name]["x-gateway"] |= changes
            running.write(name, document)
        await running.reload("reloaded")
        codes = {name: (await read.until("goodbye")).data["code"] for name, read in reads.items()}
        assert codes == dict.fromkeys(withdrawn, "access_withdrawn") | {"retired": "stream_ended"}
        await running.kafka.produce(running.topic, [b'{"id": "north"}', b'{"id": "south"}'])
        assert (await narrowed.records(1))[0].data["data"] == {"id": "south"}
        told = {line["stream"]: line["changes"] for line in running.events("access_changed")}
        assert set(told) == {*withdrawn, "narrowed"}
        assert told["scoped"] == ["scopes: other:read added (tokens without it are refused)"]
        for name in withdrawn:
            assert (await partner.get(f"/v1/streams/{name}/records")).status_code in (403, 404, 410)


async def test_a_draft_changes_freely_and_goes(running: Running) -> None:
    draft = contract("draft", running.topic, partitions=1, payload=PAYLOAD, lifecycle="draft")
    running.write("draft", draft)
    await running.reload("reloaded")
    draft["components"]["messages"]["event"]["payload"] = {"type": "array"}
    draft["channels"]["draft"]["x-gateway"]["scopes"] = ["other"]
    running.write("draft", draft)
    await running.reload("reloaded")
    running.path("draft").unlink()
    await running.reload("reloaded")


async def test_what_a_process_starts_with_is_compared_with_nothing(running: Running) -> None:
    document = running.read("first")
    document["channels"]["first"]["x-gateway"]["projection"] = ["/id"]
    running.write("first", document)
    with running.deployment.gateway("b") as other:
        status, body = other.readiness()
    assert (status, body["status"]) == (200, "ready")


async def test_breaks_and_mistakes_are_told_together(running: Running) -> None:
    document = running.read("first")
    document["channels"]["first"]["x-gateway"]["projection"] = ["/id"]
    running.write("first", document)
    (running.deployment.directory / "jwks.json").write_text("{")
    problems = (await running.reload("reload_refused"))["problems"]
    assert any("/count: no longer in the projection" in problem for problem in problems)
    assert any("jwks.json" in problem for problem in problems)


async def test_a_storm_of_signals_ends_with_what_the_files_say(running: Running) -> None:
    document = running.read("first")
    for number in range(10):
        document["info"]["title"] = f"Title {number}"
        running.write("first", document)
        running.gateway.signal(signal.SIGHUP)

    async def is_last() -> bool:
        return bool((await running.listed())["first"]["title"] == "Title 9")

    await eventually(is_last)
    assert running.contracts_check()["status"] == "ok"
