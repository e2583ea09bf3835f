"""Postgres away, as partners and operators of a running gateway see it; gateways that start together, or too early."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from gateway.database.database import Database
from gateway.database.schema import VERSIONS, Schema
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import Partner, problem
from tests.parts.ports import free_port
from tests.parts.postgres import PostgresServer

GENEROUS_SECONDS = 60
ADDED = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, usable_by = "9000", "{before}", "{usable_by}"

def upgrade():
    op.add_column("tenants", sa.Column("note", sa.Text))

def downgrade():
    op.drop_column("tenants", "note")
"""


def deploy(folder: Path, bootstrap: str, url: str, *, topics: Mapping[str, str] | None = None) -> Deployment:
    limits = {"connect_timeout_seconds": 2, "statement_timeout_seconds": 1, "pool_timeout_seconds": 1}
    settings = {"stream": {"heartbeat_seconds": 1}, "database": {"url": url, **limits}}
    contracts = [contract(stream, topic) for stream, topic in (topics or {"one": "one"}).items()]
    return Deployment(folder / "deployment", bootstrap, contracts, settings=settings)


def said(node: GatewayProcess, *events: str) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
    except FileNotFoundError:
        return []  # it is only just being started
    return [line for line in lines if line["event"] in events]


def database_of(node: GatewayProcess) -> dict[str, Any]:
    status, body = node.readiness()
    assert status == 200, body
    return {"overall": body["status"], **body["dependencies"]["database"]}


async def test_what_runs_goes_on_and_what_needs_the_database_says_503_until_it_is_back(
    kafka: Kafka, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    url = await asyncio.to_thread(own_postgres.create_database)
    topics = {stream: f"outage-{stream}-{uuid4().hex[:8]}" for stream in ("one", "two", "three")}
    for topic in topics.values():
        await kafka.create_topic(topic, 1)
    deployment = await asyncio.to_thread(lambda: deploy(tmp_path, kafka.bootstrap, url, topics=topics))
    with deployment.gateway("a") as node:
        partner = Partner(node.base_url, deployment.token())
        async with partner.open("sse", "one") as stream:

            async def lives_through(goes: Callable[[], None], comes: Callable[[], None], never_read: str) -> None:
                """One outage; ``never_read`` is a stream whose first read comes amid it."""
                await asyncio.to_thread(goes)
                try:
                    await eventually(lambda: database_of(node)["status"] == "down", seconds=GENEROUS_SECONDS)
                    assert database_of(node)["overall"] == "degraded"
                    await kafka.produce(topics["one"], [b"1"])
                    assert (await stream.records(1))[0].data["data"] == 1, "what is open goes on"
                    page = await partner.pull("one", from_="earliest")
                    assert page["records"], "a new read of a topic that is read already needs no database"
                    assert (await partner.get("/v1/streams")).status_code == 200
                    refused = await partner.get(f"/v1/streams/{never_read}/records", from_="earliest")
                    problem(refused, 503, "unavailable")
                    assert int(refused.headers["retry-after"]) >= 1
                    assert "postgres" not in refused.text.lower()
                finally:
                    await asyncio.to_thread(comes)
                await eventually(lambda: database_of(node)["status"] == "ok", seconds=GENEROUS_SECONDS)

                async def opens() -> bool:
                    answer = await partner.get(f"/v1/streams/{never_read}/records", from_="earliest")
                    return answer.status_code == 200

                await eventually(opens, seconds=GENEROUS_SECONDS)

            await lives_through(own_postgres.kill, own_postgres.start, "two")
            await lives_through(own_postgres.freeze, own_postgres.thaw, "three")
        lines = said(node, "dependency_away", "dependency_back")
        assert [line["event"] for line in lines] == ["dependency_away", "dependency_back"] * 2
        assert all("database" in line["dependency"] for line in lines)
        assert "database.url" in lines[0]["reason"]
        others = [line for line in map(json.loads, node.log().splitlines()) if line["level"] in ("WARNING", "ERROR")]
        assert [line["event"] for line in others] == ["dependency_away"] * 2, "one line for each change of state"


async def test_a_stop_does_not_wait_for_a_frozen_database(own_postgres: PostgresServer, tmp_path: Path) -> None:
    deployment = await asyncio.to_thread(
        lambda: deploy(tmp_path, f"127.0.0.1:{free_port()}", own_postgres.create_database())
    )
    node = GatewayProcess(deployment, "a")
    await asyncio.to_thread(lambda: node.start(wait_ready=False))
    own_postgres.freeze()
    try:
        await eventually(lambda: bool(said(node, "dependency_away")), seconds=GENEROUS_SECONDS)
        node.signal(signal.SIGTERM)
        assert await asyncio.to_thread(lambda: node.wait(seconds=GENEROUS_SECONDS)) == 0
    finally:
        own_postgres.thaw()
        node.stop()


# ---- the start -----------------------------------------------------------------------------------------------------


def serve(deployment: Deployment, *settings: str) -> subprocess.CompletedProcess[str]:
    """A ``gateway serve`` that is expected to end by itself."""
    options = [part for one in settings for part in ("--set", one)]
    command = [sys.executable, "-m", "gateway", "serve", *deployment.options("x"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=GENEROUS_SECONDS)


async def test_a_start_waits_for_its_database_and_says_so_once(own_postgres: PostgresServer, tmp_path: Path) -> None:
    deployment = await asyncio.to_thread(
        lambda: deploy(tmp_path, f"127.0.0.1:{free_port()}", own_postgres.create_database())
    )
    deployment.settings["database"]["start_seconds"] = GENEROUS_SECONDS  # type: ignore[index]
    node = GatewayProcess(deployment, "a")
    await asyncio.to_thread(own_postgres.kill)
    starting = asyncio.create_task(asyncio.to_thread(lambda: node.start(wait_ready=False)))
    try:
        await eventually(lambda: bool(said(node, "database_awaited")), seconds=GENEROUS_SECONDS)
        await asyncio.to_thread(own_postgres.start)
        await starting
        assert len(said(node, "database_awaited")) == 1
    finally:
        await asyncio.gather(starting, return_exceptions=True)
        await asyncio.to_thread(node.stop)


def test_a_start_that_waits_can_be_stopped(tmp_path: Path) -> None:
    deployment = deploy_on_file(tmp_path)
    url = f"postgresql+psycopg://u@127.0.0.1:{free_port()}/d"
    command = [sys.executable, "-m", "gateway", "serve", *deployment.options("a")]
    more = ["--set", f"database.url={url}", "--set", "database.start_seconds=3600"]
    process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if '"database_awaited"' in line:
                break
        process.terminate()
        assert '"stopped"' in process.stderr.read()
        assert process.wait(GENEROUS_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_start_whose_database_stays_away_ends_with_1_and_one_whose_address_is_wrong_with_2(
    postgres_url: str, tmp_path: Path
) -> None:
    deployment = deploy_on_file(tmp_path)
    away = f"database.url=postgresql+psycopg://u:hunter2@127.0.0.1:{free_port()}/d"
    ended = serve(deployment, away, "database.start_seconds=0")
    assert ended.returncode == 1, ended.stderr
    assert "connection refused; start it, or correct the address" in ended.stderr
    wrong = postgres_url.replace("/test_", "/nowhere_")
    ended = serve(deployment, f"database.url={wrong}")
    assert ended.returncode == 2, ended.stderr
    assert "there is no database of this name; create it, or correct the name" in ended.stderr


def deploy_on_file(tmp_path: Path) -> Deployment:
    return deploy(tmp_path, f"127.0.0.1:{free_port()}", f"sqlite:///{tmp_path}/gateway.db")


def test_nodes_that_start_together_on_an_empty_file_all_come_up(tmp_path: Path) -> None:
    deployment = deploy_on_file(tmp_path)
    empty = {"url": f"sqlite:///{tmp_path}/empty.db", "statement_timeout_seconds": GENEROUS_SECONDS}
    deployment.settings["database"].update(empty)
    commands = [[sys.executable, "-m", "gateway", "serve", *deployment.options(name)] for name in "abc"]
    processes = [subprocess.Popen(one, stderr=subprocess.PIPE, text=True) for one in commands]
    try:
        for process in processes:
            assert process.stderr is not None
            assert any('"serving"' in line for line in process.stderr), "it ended before it served"
            process.terminate()
            process.stderr.read()
            assert process.wait(GENEROUS_SECONDS) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


# ---- a rolling upgrade ---------------------------------------------------------------------------------------------


def test_a_gateway_serves_and_starts_again_under_the_next_versions_schema(postgres_url: str, tmp_path: Path) -> None:
    deployment = deploy(tmp_path, f"127.0.0.1:{free_port()}", postgres_url)
    node = GatewayProcess(deployment, "a")
    node.start(wait_ready=False)
    database = Database(postgres_url)
    known = Schema(database).newest
    later = tmp_path / "later"
    later.mkdir()
    (later / "v9000_note.py").write_text(ADDED.format(before=known, usable_by=known))
    newer = Schema(database, versions=[VERSIONS, later])
    try:
        assert newer.upgrade() == ["9000"]
        command = [sys.executable, "-m", "gateway", "apply", *deployment.options("apply")]
        applied = subprocess.run([*command, str(deployment.directory / "catalog.yaml")], capture_output=True, text=True)
        assert (applied.returncode, applied.stdout) == (0, "nothing to do\n"), applied.stderr
        node.stop()
        node.start(wait_ready=False)
        assert [line["revision"] for line in said(node, "database_newer")] == ["9000"]
        node.stop()
        assert newer.downgrade(known) == ["9000"]
        (later / "v9000_note.py").write_text(ADDED.format(before=known, usable_by="9000"))
        Schema(database, versions=[VERSIONS, later]).upgrade()
        refused = serve(deployment)
        assert refused.returncode == 2
        assert f"go back with it: `gateway db downgrade {known}`" in refused.stderr
    finally:
        node.stop()
        database.close()
