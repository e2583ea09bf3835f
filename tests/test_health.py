"""Health: what /livez and /readyz say, when, and how fast."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx
import pytest

from gateway.admin.app import create_admin_app
from gateway.clock import ManualClock, SystemClock
from gateway.counters import Counters, StreamStatus
from gateway.observability.health import (
    KAFKA_GRACE_SECONDS,
    Check,
    Health,
    Level,
    Probe,
    ProbeMemory,
    Prober,
    Status,
    judge,
)
from gateway.observability.metrics import Metrics


class Dependency:
    """Something to ping that can be switched off, or made to hang."""

    def __init__(self) -> None:
        self.away = False
        self.hanging = False
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1
        if self.hanging:
            await asyncio.Event().wait()
        if self.away:
            raise ConnectionError("refused by redis://user:hunter2@redis")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a condition that nothing announces
            await asyncio.sleep(0.001)


def kafka(ping: Callable[[], Awaitable[object]]) -> Probe:
    return Probe("kafka", ping, grace_seconds=KAFKA_GRACE_SECONDS)


def fixed(name: str, level: Level, *, required: bool) -> Check:
    return Check(name, required, lambda: Status(level, "why", {"since": 3}))


async def nothing() -> None:
    pass


async def test_kafka_away_is_not_ready_until_it_answered_once_then_degraded_for_30_s_then_not_ready() -> None:
    clock = ManualClock()
    dependency = Dependency()
    dependency.away = True
    probe = kafka(dependency.ping)
    prober = Prober([probe], clock=clock)
    health = Health(prober.checks())

    def says() -> tuple[int, object]:
        status, body = health.readiness()
        return status, body["status"]

    assert says() == (503, "not_ready")
    await prober.ping(probe)
    clock.advance(100)
    assert says() == (503, "not_ready")
    dependency.away = False
    await prober.ping(probe)
    assert says() == (200, "ready")
    clock.advance(2)
    dependency.away = True
    await prober.ping(probe)
    assert says() == (200, "degraded")
    clock.advance(29.9)
    await prober.ping(probe)
    assert says() == (200, "degraded")
    clock.advance(0.1)
    assert says() == (503, "not_ready")
    await prober.ping(probe)
    assert says() == (503, "not_ready")
    dependency.away = False
    await prober.ping(probe)
    assert says() == (200, "ready")


def test_the_grace_counts_from_the_start_of_the_first_failed_ping() -> None:
    memory = ProbeMemory(started_at=0.0, answered_at=100.0, failing_since=102.0, reason="refused")
    probe = kafka(nothing)
    assert judge(memory, probe=probe, now=131.9).level == "degraded"
    assert judge(memory, probe=probe, now=132.0).level == "down"
    assert "refused" in judge(memory, probe=probe, now=132.0).detail


def test_a_dependency_without_grace_is_down_at_once() -> None:
    memory = ProbeMemory(started_at=0.0, answered_at=100.0, failing_since=101.0)
    assert judge(memory, probe=Probe("database", nothing), now=101.0).level == "down"


def test_a_probe_that_never_ends_cannot_keep_a_dead_dependency_ok() -> None:
    memory = ProbeMemory(started_at=0.0, answered_at=100.0)
    probe = kafka(nothing)
    assert judge(memory, probe=probe, now=108.0).level == "ok"
    assert judge(memory, probe=probe, now=108.1).level == "degraded"
    assert judge(memory, probe=probe, now=130.0).level == "down"


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], (200, "ready")),
        ([fixed("kafka", "ok", required=True), fixed("redis", "ok", required=False)], (200, "ready")),
        ([fixed("kafka", "ok", required=True), fixed("redis", "down", required=False)], (200, "degraded")),
        ([fixed("kafka", "degraded", required=True)], (200, "degraded")),
        ([fixed("kafka", "down", required=True), fixed("redis", "ok", required=False)], (503, "not_ready")),
    ],
)
def test_only_what_reads_need_makes_a_process_unready(checks: list[Check], expected: tuple[int, str]) -> None:
    status, body = Health(checks).readiness()
    assert (status, body["status"]) == expected


def test_the_body_names_every_dependency_and_every_reader() -> None:
    reader = StreamStatus("flights", "recovering", reason="no fetch for 12 s", age_seconds=12.0, lag_records=7)
    health = Health([fixed("redis", "down", required=False)], readers=lambda: [reader])
    assert health.readiness() == (
        200,
        {
            "status": "degraded",
            "draining": False,
            "dependencies": {"redis": {"status": "down", "required": False, "detail": "why", "since": 3}},
            "readers": [
                {
                    "stream": "flights",
                    "state": "recovering",
                    "reason": "no fetch for 12 s",
                    "age_seconds": 12.0,
                    "lag_records": 7,
                    "head_age_seconds": None,
                }
            ],
        },
    )


def test_a_reader_with_something_to_say_degrades_and_a_quiet_one_does_not() -> None:
    readers = [StreamStatus("flights", "live")]
    health = Health([], readers=lambda: readers)
    assert health.readiness()[1]["status"] == "ready"
    readers.append(StreamStatus("earthquakes", "recovering", reason="rebuilt"))
    assert health.readiness()[1]["status"] == "degraded"


def test_draining_is_not_ready_but_alive() -> None:
    health = Health([fixed("kafka", "ok", required=True)])
    health.drain()
    status, body = health.readiness()
    assert (status, body["status"], body["draining"]) == (503, "not_ready", True)
    assert health.liveness() == (200, {"status": "ok"})


async def test_a_slow_dependency_delays_neither_the_answer_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gateway")
    slow, quick = Dependency(), Dependency()
    slow.hanging = True
    probes = [
        Probe("slow", slow.ping, required=False, interval_seconds=0.001, timeout_seconds=0.02),
        Probe("quick", quick.ping, interval_seconds=0.001, timeout_seconds=0.5),
    ]
    prober = Prober(probes, clock=SystemClock())
    health = Health(prober.checks())
    task = asyncio.create_task(prober.run())
    try:
        await until(lambda: quick.pings > 3 and slow.pings > 2)
        found = {check.name: check.status() for check in prober.checks()}
        assert found["quick"].level == "ok"
        assert found["slow"].level == "down"
        assert "no answer within 0.02 s" in found["slow"].detail
        assert health.readiness()[0] == 200
        slow.hanging = False
        await until(lambda: health.readiness()[1]["status"] == "ready")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    said = [record.message for record in caplog.records if record.__dict__["fields"]["dependency"] == "slow"]
    assert said[:2] == ["dependency_away", "dependency_back"]


async def test_a_reason_shows_no_password() -> None:
    dependency = Dependency()
    dependency.away = True
    probe = Probe("redis", dependency.ping)
    prober = Prober([probe], clock=ManualClock())
    await prober.ping(probe)
    detail = prober.checks()[0].status().detail
    assert "ConnectionError: refused" in detail
    assert "hunter2" not in detail


async def test_the_management_port_answers_get_and_refuses_the_rest_with_problems() -> None:
    health = Health([fixed("kafka", "ok", required=True)])
    app = create_admin_app(health=health, metrics=Metrics(Counters(), version="1.2.3"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://admin") as client:
        assert (await client.get("/livez")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        assert ready.headers["cache-control"] == "no-store"
        metrics = await client.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert "gateway_build_info{" in metrics.text
        for method, path, status, code in [
            ("GET", "/", 404, "not_found"),
            ("GET", "/livez/", 404, "not_found"),
            ("GET", "/admin/sessions", 404, "not_found"),
            ("POST", "/livez", 405, "method_not_allowed"),
            ("DELETE", "/metrics", 405, "method_not_allowed"),
        ]:
            answer = await client.request(method, path)
            assert answer.status_code == status, path
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == code
            assert answer.json()["correlation_id"] == answer.headers["x-correlation-id"]
            assert answer.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
        health.drain()
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200
