"""Metrics: plain counts come out as Prometheus reads them, and every name is documented."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gateway.counters import UNKNOWN, Counters, StreamStatus
from gateway.observability.metrics import Metrics

DOCUMENT = Path(__file__).parent.parent / "docs/reference/metrics.md"


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def filled() -> Metrics:
    counters = Counters()
    counters.stream("flights")
    counters.count_open("flights", protocol="sse")
    counters.count_goodbye("ws", code="draining")
    counters.count_request("/v1/streams", method="GET", status=200)
    counters.count_refused_token("expired")
    status = StreamStatus("flights", "live", age_seconds=0.5, head_age_seconds=1.5, lag_records=2)
    return Metrics(counters, version="1.2.3", streams=lambda: [status])


def test_counts_show_at_the_next_scrape() -> None:
    counters = Counters()
    metrics = Metrics(counters, version="1.2.3")
    delivered = counters.stream("flights").by_protocol["sse"]
    delivered.records += 3
    delivered.bytes += 720
    assert value(metrics, "gateway_records_delivered_total", stream="flights", protocol="sse") == 3
    assert value(metrics, "gateway_delivered_bytes_total", stream="flights", protocol="sse") == 720
    assert value(metrics, "gateway_records_delivered_total", stream="flights", protocol="ws") == 0
    delivered.records += 1
    assert value(metrics, "gateway_records_delivered_total", stream="flights", protocol="sse") == 4


def test_a_streams_counts_are_one_object() -> None:
    counters = Counters()
    assert counters.stream("flights") is counters.stream("flights")
    counters.stream("flights").replayed_records += 9
    assert value(Metrics(counters, version="1"), "gateway_replay_records_total", stream="flights") == 9


def test_every_kind_of_count_has_its_labels() -> None:
    counters = Counters()
    metrics = Metrics(counters, version="1.2.3")
    counters.connections["ws"] += 2
    counters.connections["ws"] -= 1
    counters.count_open("flights", protocol="sse")
    counters.count_open("flights", protocol="sse")
    counters.count_open(None, protocol="pull", outcome="stream_not_found")
    counters.count_goodbye("sse", code="draining")
    counters.count_request("/v1/streams/{stream}", method="GET", status=404)
    counters.count_refused_token("expired")
    assert value(metrics, "gateway_connections", protocol="ws") == 1
    assert value(metrics, "gateway_opens_total", stream="flights", protocol="sse", outcome="ok") == 2
    assert value(metrics, "gateway_opens_total", stream=UNKNOWN, protocol="pull", outcome="stream_not_found") == 1
    assert value(metrics, "gateway_goodbyes_total", protocol="sse", code="draining") == 1
    assert value(metrics, "gateway_requests_total", route="/v1/streams/{stream}", method="GET", status="404") == 1
    assert value(metrics, "gateway_tokens_refused_total", reason="expired") == 1


def test_streams_are_asked_at_the_scrape_and_what_is_unknown_is_left_out() -> None:
    states = [StreamStatus("flights", "starting")]
    metrics = Metrics(Counters(), version="1", streams=lambda: states)
    assert value(metrics, "gateway_reader_state", stream="flights", state="starting") == 1
    assert ("gateway_topic_head_age_seconds", (("stream", "flights"),)) not in samples(metrics)
    states[0] = StreamStatus(
        "flights",
        "live",
        age_seconds=0.5,
        head_age_seconds=1.5,
        lag_records=4,
        log_records=5,
        log_bytes=6,
        view_bytes=7,
    )
    assert value(metrics, "gateway_reader_state", stream="flights", state="live") == 1
    assert ("gateway_reader_state", (("state", "starting"), ("stream", "flights"))) not in samples(metrics)
    assert value(metrics, "gateway_reader_age_seconds", stream="flights") == 0.5
    assert value(metrics, "gateway_topic_head_age_seconds", stream="flights") == 1.5
    assert value(metrics, "gateway_reader_lag_records", stream="flights") == 4
    assert value(metrics, "gateway_log_records", stream="flights") == 5
    assert value(metrics, "gateway_log_bytes", stream="flights") == 6
    assert value(metrics, "gateway_view_bytes", stream="flights") == 7


def test_two_processes_worth_of_metrics_live_side_by_side() -> None:
    first, second = Counters(), Counters()
    first.count_refused_token("expired")
    one, other = Metrics(first, version="1"), Metrics(second, version="1")
    assert value(one, "gateway_tokens_refused_total", reason="expired") == 1
    assert ("gateway_tokens_refused_total", (("reason", "expired"),)) not in samples(other)


async def test_a_blocked_loop_shows_as_lag() -> None:
    metrics = Metrics(Counters(), version="1", lag_interval_seconds=0.001)
    task = asyncio.create_task(metrics.watch_loop_lag())

    def sampled() -> float:
        return value(metrics, "gateway_loop_lag_seconds_count")

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - a condition that nothing announces
                await asyncio.sleep(0.001)

    try:
        await until(lambda: sampled() > 0)
        before = value(metrics, "gateway_loop_lag_seconds_sum")
        time.sleep(0.06)  # noqa: ASYNC251 - the blocked loop is what is measured
        await until(lambda: value(metrics, "gateway_loop_lag_seconds_sum") - before > 0.05)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_every_metric_is_documented_with_its_labels_and_no_other() -> None:
    metrics = filled()
    rows = dict(re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]*) \|", DOCUMENT.read_text(), re.MULTILINE))
    shown = {
        family.name + ("_total" if family.type == "counter" else ""): {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in metrics.registry.collect()
    }
    assert set(rows) == set(shown)
    for name, labels in shown.items():
        assert set(re.findall(r"`(\w+)`", rows[name])) == labels, name
