"""Traces: whose word counts, how many are recorded, and what happens when there is nobody to take them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from gateway.config.settings import TelemetrySettings
from gateway.config.telemetry import telemetry
from gateway.observability.telemetry import CLOSE_SECONDS, Telemetry
from tests.parts.collector import Collector, collector
from tests.parts.ports import free_port
from tests.test_logs import logging_to

CALLER = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{CALLER}-b7ad6b7169203331-01"
NOT_SAMPLED = f"00-{CALLER}-b7ad6b7169203331-00"


@contextmanager
def tracing(base_url: str, **options: Any) -> Iterator[Telemetry]:
    one = Telemetry(
        base_url, **{"headers": {}, "sample_ratio": 1.0, "service_name": "tests", "version": "1", **options}
    )
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def spans() -> Iterator[Collector]:
    with collector() as running:
        yield running


def scope(*traceparents: str, client: str = "10.1.2.3") -> Mapping[str, Any]:
    return {
        "type": "http",
        "client": (client, 4711),
        "headers": [(b"traceparent", one.encode()) for one in traceparents],
        "state": {"correlation_id": "abc"},
    }


@pytest.mark.parametrize(
    ("trusted", "sent", "taken"),
    [
        (["10.0.0.0/8"], [PARENT], True),
        (["10.1.2.3"], [PARENT], True),
        ([], [PARENT], False),
        (["192.0.2.0/24"], [PARENT], False),
        (["10.0.0.0/8"], [PARENT, PARENT], False),
        (["10.0.0.0/8"], ["00-nonsense"], False),
    ],
)
def test_a_callers_trace_is_gone_on_with_where_the_caller_is_trusted(
    spans: Collector, trusted: list[str], sent: list[str], taken: bool
) -> None:
    with tracing(spans.base_url, trusted_callers=trusted) as one:
        span = one.begin(scope(*sent), {})
        assert span is not None
        assert (span.trace_id() == CALLER) is taken
        span.end()
    assert [(found.trace_id == CALLER) for found in spans.spans] == [taken]


def test_a_peer_without_an_address_is_nobody_to_trust(spans: Collector) -> None:
    with tracing(spans.base_url, trusted_callers=["10.0.0.0/8"]) as one:
        for request in (scope(PARENT, client="/run/socket"), {**scope(PARENT), "client": None}):
            span = one.begin(request, {})
            assert span is not None
            assert span.trace_id() != CALLER
            span.end()


def test_a_trusted_caller_decides_whether_its_trace_is_recorded(spans: Collector) -> None:
    with tracing(spans.base_url, trusted_callers=["10.0.0.0/8"], sample_ratio=0.0) as one:
        assert one.begin(scope(), {}) is None
        assert one.begin(scope(NOT_SAMPLED), {}) is None
        recorded = one.begin(scope(PARENT), {})
        assert recorded is not None
        recorded.child("replay").end()
        recorded.end()
    assert {span.trace_id for span in spans.spans} == {CALLER}
    assert len(spans.spans) == 2


def test_a_share_of_the_traces_is_recorded(spans: Collector) -> None:
    with tracing(spans.base_url, sample_ratio=0.2) as one:
        recorded = [span for _ in range(2000) if (span := one.begin(scope(), {})) is not None]
        assert 250 < len(recorded) < 560


def test_a_span_holds_what_may_be_shown_and_nothing_else_of_the_request(spans: Collector) -> None:
    fields: dict[str, object] = {"stream": "flights", "transport": "pull", "tenant": "x" * 5000}
    with tracing(spans.base_url) as one:
        span = one.begin(scope(), fields)
        assert span is not None
        fields["cursor"] = "AAEC"
        fields["session"] = b"bytes"
        fields["client_id"] = "Bearer abcdefgh"
        span.note("records", 7)
        span.note("payload", "what is in a record")
        span.end("invalid_cursor")
        span.note("records", 8)
        span.end()
    (found,) = spans.spans
    assert found.name == "pull"
    assert len(found.attributes.pop("gateway.tenant")) == 200
    assert found.attributes == {
        "gateway.stream": "flights",
        "gateway.transport": "pull",
        "gateway.client_id": "Bearer [masked]",
        "gateway.code": "invalid_cursor",
        "gateway.records": 7,
        "gateway.correlation_id": "abc",
        "http.route": "unmatched",
    }


def test_a_collector_that_is_away_is_said_once_and_that_it_is_back_too(spans: Collector) -> None:
    def record(one: Telemetry, outcome: str) -> None:
        """A span, until it is known what became of it."""
        before = one.counts()[outcome]
        span = one.begin(scope(), {})
        assert span is not None
        span.end()
        deadline = time.monotonic() + 30
        while one.counts()[outcome] == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with logging_to("json") as output, tracing(spans.base_url) as one:
        record(one, "exported")
        spans.accepts = False
        record(one, "dropped")
        record(one, "dropped")
        spans.accepts = True
        record(one, "exported")
        assert dict(one.counts()) == {"exported": 2, "dropped": 2}
    said = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [(line["event"], line["dropped"]) for line in said] == [("telemetry_away", 1), ("telemetry_back", 2)]


def test_a_collector_that_does_not_answer_delays_the_end_for_a_few_seconds_only() -> None:
    one = Telemetry(f"http://127.0.0.1:{free_port()}", headers={}, sample_ratio=1.0, service_name="tests", version="1")
    with logging_to("json"):
        for _ in range(3000):
            span = one.begin(scope(), {})
            assert span is not None
            span.end()
        closing = threading.Thread(target=one.close)
        closing.start()
        closing.join(CLOSE_SECONDS + 20)
        assert not closing.is_alive()


def test_traces_are_off_unless_there_is_an_endpoint() -> None:
    assert telemetry(Settings()) is None


@pytest.mark.parametrize(
    "values",
    [
        {"otlp_endpoint": "collector:4318"},
        {"otlp_endpoint": "http://user:password@collector:4318"},
        {"otlp_endpoint": "http://collector", "otlp_headers": ["Authorization"]},
        {"otlp_endpoint": "http://collector", "otlp_headers": ["A: b\r\nC: d"]},
        {"sample_ratio": 1.5},
        {"trusted_callers": ["everybody"]},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        TelemetrySettings.model_validate(values)


@pytest.mark.parametrize("command", ["serve", "check"])
def test_without_the_packages_a_configured_endpoint_is_an_error_that_says_what_to_install(
    command: str, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[http]\nport = 0\n[admin]\nport = 0\n[telemetry]\notlp_endpoint = "http://127.0.0.1:4318"\n'
        f'[data]\ndir = "{tmp_path}"\n[contracts]\ndir = "{tmp_path}"\n',
        encoding="utf-8",
    )
    # As Python says it where a package is not installed.
    program = "import sys; sys.modules['opentelemetry'] = None; from gateway.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, command, "--config", str(config)], capture_output=True, text=True, timeout=60
    )
    said = done.stdout + done.stderr
    assert done.returncode == {"serve": 2, "check": 1}[command], said
    assert "telemetry.otlp_endpoint: traces need the OpenTelemetry packages" in said
    assert "pip install 'streaming-gateway[otel]'" in said
    assert "Traceback" not in said
